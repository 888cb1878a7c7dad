"""A stage in several processes: started, watched and ended together by torch's elastic launcher, as `torchrun` does.

stage (this command) -- launcher --+-- rank 0: the same command, which shows and writes
                                   +-- rank 1: the same command, silent
                                   +-- ...
"""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import wraps
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist

from troupe.errors import ProcessFailed, TroupeError
from troupe.params import Params

PATIENCE = timedelta(days=1)  # with rank 0 while it looks at validation; whether it lives, the launcher sees
LAST_STEP = 600  # seconds that the launcher leaves its processes for the step in progress, when asked to stop
LOOPBACK = {"linux": "lo", "darwin": "lo0"}
UNTOLD = 1  # exit status of a process that ended with an error which nobody has told yet


def side_by_side(body: Callable[[Params], None]) -> Callable[[Params], None]:
    """Have a stage's body run in `run.processes` processes, which this one starts with its own command line.

    A process that torchrun has started joins the others instead. Rank 0 tells the errors that are TroupeErrors; for
    any other end of any process this one raises ProcessFailed.
    """

    @wraps(body)
    def run(params: Params) -> None:
        if params.run.processes == 1:
            body(params)
        elif dist.is_torchelastic_launched():
            _join(body, params)
        else:
            _launch(params.run.processes)

    return run


def _join(body: Callable[[Params], None], params: Params) -> None:
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    if loopback := LOOPBACK.get(sys.platform):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)  # else it asks for the address of the host's name
    on_gpus = params.run.device != "cpu" and torch.cuda.is_available()
    try:
        dist.init_process_group("nccl" if on_gpus else "gloo", timeout=PATIENCE)
        body(params)
    except Exception as error:
        get_error_handler().record_exception(error)
        if isinstance(error, TroupeError):
            raise
        traceback.print_exc()
        raise SystemExit(UNTOLD) from None
    dist.destroy_process_group()


def _launch(processes: int) -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable()  # the launcher's own words; we tell what happened in one line
    with TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,  # the checkpoint and the same command are our restart
            shutdown_timeout=LAST_STEP,
            logs_specs=DefaultLogsSpecs(log_dir=folder, local_ranks_filter={0}),
        )
        try:
            elastic_launch(config, sys.executable)(*sys.orig_argv[1:])
        except SignalException as error:
            raise SystemExit(128 + error.sigval) from None  # rank 0 has told
        except ChildFailedError as error:
            raise _end(error.failures) from None


def _end(failures: Mapping[int, Any]) -> BaseException:
    """How this process ends when some of the others have failed, torch's `ProcessFailure` by rank."""
    if 0 in failures and failures[0].exitcode > UNTOLD:
        return SystemExit(failures[0].exitcode)
    # A RuntimeError is how torch says that another process is gone: a consequence, where there is any other failure.
    rank = min(failures, key=lambda rank: "RuntimeError" in _words(failures[rank]))
    return ProcessFailed(
        f"process {rank} of those that train together ended: {_words(failures[rank])}; the same command goes on from "
        "the newest checkpoint"
    )


def _words(failure: Any) -> str:
    """What a process died of."""
    if failure.exitcode < 0:
        return f"killed by {failure.signal_name()}"
    message = failure.message["message"] if isinstance(failure.message, dict) else f"exit status {failure.exitcode}"
    return " ".join(message.split())
