"""A stage in several processes: started, watched and ended together by torch's elastic agent, as `torchrun` does.

stage (this command) -- agent --+-- rank 0: the same command, which shows and writes
                                +-- rank 1: the same command, silent
                                +-- ...
stage (on another machine) -- agent --+-- ...

On one machine (`run.launcher: local`) a process that ends ends the stage. With `torchrun` the agents of all machines
start the processes again, from the newest checkpoint. training/elsewhere.py writes commands for other engines.
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

from troupe.cores import usable_cores
from troupe.errors import ParamsError, ProcessFailed, TroupeError
from troupe.layout import own
from troupe.params import Params, RunParams
from troupe.training.made_from import forget, noted
from troupe.training.parallel import leads

PATIENCE = timedelta(days=1)  # with rank 0 while it looks at validation; whether it lives, the agent sees
PATIENCE_BETWEEN_MACHINES = timedelta(minutes=30)  # one that is gone without a word is seen by nobody else
LAST_STEP = 600  # seconds that the agent leaves its processes for the step in progress, when asked to stop
RESTARTS = 3  # of torchrun's agents
ENDPOINT = "PET_RDZV_ENDPOINT"  # torchrun's own variable: host:port of the machine through which all find each other
# torch 2.13's agents keep one store for all attempts. On several machines what is started again can find addresses of
# dead processes in it, and then fails or waits for ever (pytorch/pytorch#135712).
FRESH_STORE = ("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
LOOPBACK = {"linux": "lo", "darwin": "lo0"}
ELSEWHERE = ("docker", "kubernetes")  # launchers that start nothing on this machine
UNREPORTED = 1  # exit status of a process that ended with an error which is not reported yet


def side_by_side(body: Callable[[Params], None]) -> Callable[[Params], None]:
    """Have a stage's body run in `run.processes` processes, started as `run.launcher` says with this command line.

    A process that torchrun has started joins the others instead. Rank 0 tells the errors that are TroupeErrors; for
    any other end of any process this one raises ProcessFailed. Raises ParamsError where another engine is to start
    them, and where nobody has said where machines find each other.
    """

    @wraps(body)
    def run(params: Params) -> None:
        if dist.is_torchelastic_launched():
            (_join if params.run.processes > 1 else _train)(body, params)
        elif params.run.launcher in ELSEWHERE:
            raise _elsewhere(body.__name__, params.run.launcher)
        elif params.run.processes == 1:
            _train(body, params)
        else:
            _launch(body.__name__, params.run)

    return run


def torchrun_options(stage: str, run: RunParams) -> list[str]:
    """What `torchrun` is told to start a stage's processes on each of `run.nodes` machines.

    Where several machines find each other it takes from its own variable, `PET_RDZV_ENDPOINT`.
    """
    return [
        f"--nnodes={run.nodes}",
        f"--nproc-per-node={run.processes_per_node}",
        "--rdzv-backend=c10d",
        f"--rdzv-id=troupe-{stage}",
        *(["--rdzv-endpoint=localhost:0"] if run.nodes == 1 else []),
        f"--max-restarts={RESTARTS}",
        f"--shutdown-timeout={LAST_STEP}",
        "--local-ranks-filter=0",
    ]


def _train(body: Callable[[Params], None], params: Params) -> None:
    """Train; where DVC is not what has started it, with a note of what the result was made from."""
    if leads():
        forget(body.__name__)
    (noted(body) if leads() and params.run.launcher in ELSEWHERE else body)(params)


def _elsewhere(stage: str, engine: str) -> ParamsError:
    return ParamsError(
        f"run.launcher: {engine} trains this stage: `{own('troupe')} launch {stage}` prints what starts it; when that "
        "is done, `make pipeline` as before takes the result and goes on"
    )


def _join(body: Callable[[Params], None], params: Params) -> None:
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    on_gpus = params.run.device != "cpu" and torch.cuda.is_available()
    several = int(os.environ["GROUP_WORLD_SIZE"]) > 1  # machines, as torch's agent counts them
    if not several and (loopback := LOOPBACK.get(sys.platform)):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)  # else it asks for the address of the host's name
    try:
        patience = PATIENCE_BETWEEN_MACHINES if several else PATIENCE
        dist.init_process_group("nccl" if on_gpus else "gloo", timeout=patience)
        _train(body, params)
    except Exception as error:
        get_error_handler().record_exception(error)
        if isinstance(error, TroupeError):
            raise
        traceback.print_exc()
        raise SystemExit(UNREPORTED) from None
    dist.destroy_process_group()


def _launch(stage: str, run: RunParams) -> None:
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    with TemporaryDirectory() as folder:
        config = _here(run, folder) if run.launcher == "local" else _by_torchrun(stage, run, folder)
        try:
            elastic_launch(config, sys.executable)(*sys.orig_argv[1:])
        except SignalException as error:
            raise SystemExit(128 + error.sigval) from None  # rank 0 has told
        except ChildFailedError as error:
            raise _end(error.failures) from None
        except (RendezvousError, dist.DistError) as error:
            raise ProcessFailed(
                f"the {run.nodes} machines do not meet at {config.rdzv_endpoint}: {_not_met(error)}; the same command "
                "goes on from the newest checkpoint"
            ) from None


def _here(run: RunParams, logs: str) -> Any:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    logging.disable()  # the agent's own words; we tell what happened in one line
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=run.processes,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,  # the checkpoint and the same command are our restart
        shutdown_timeout=LAST_STEP,
        logs_specs=DefaultLogsSpecs(log_dir=logs, local_ranks_filter={0}),
    )


def _by_torchrun(stage: str, run: RunParams, logs: str) -> Any:
    """torchrun's own reading of its options and of its variables, PET_..."""
    from torch.distributed.run import config_from_args, parse_args

    if run.nodes > 1 and not os.environ.get(ENDPOINT):
        raise ParamsError(
            f"run.nodes: {run.nodes} machines must find each other; on each of them set {ENDPOINT}=HOST:PORT, "
            "a free port of one of them"
        )
    os.environ.setdefault(*FRESH_STORE)
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))  # it would say 1, and `threads: auto` with it
    arguments = parse_args([*torchrun_options(stage, run), f"--log-dir={logs}", "ours"])  # type: ignore[no-untyped-call]
    config, *_ = config_from_args(arguments)
    return config


def _end(failures: Mapping[int, Any]) -> BaseException:
    """How this process ends when some of the others have failed, torch's `ProcessFailure` by rank."""
    first = next((failure for failure in failures.values() if failure.local_rank == 0), None)
    if first and first.exitcode > UNREPORTED:
        return SystemExit(first.exitcode)
    # A RuntimeError is how torch says that another process is gone: a consequence, where there is any other failure.
    rank = min(failures, key=lambda rank: "RuntimeError" in _words(failures[rank]))
    return ProcessFailed(
        f"process {rank} of those that train together ended: {_words(failures[rank])}; the same command goes on from "
        "the newest checkpoint"
    )


def _not_met(error: Exception) -> str:
    from torch.distributed.elastic.rendezvous.api import RendezvousClosedError, RendezvousTimeoutError

    if isinstance(error, RendezvousTimeoutError):
        return "not all of them came in time"
    return "one of them has given up" if isinstance(error, RendezvousClosedError) else "it does not answer"


def _words(failure: Any) -> str:
    """What a process died of."""
    if failure.exitcode < 0:
        return f"killed by {failure.signal_name()}"
    message = failure.message["message"] if isinstance(failure.message, dict) else f"exit status {failure.exitcode}"
    return " ".join(message.split())
