"""What the launcher makes of the ends of the processes that it started."""

import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from tests.conftest import ROOT
from tests.servers import free_port
from troupe.errors import ParamsError, ProcessFailed
from troupe.layout import own
from troupe.params import Params, load_params
from troupe.training.launch import FRESH_STORE, _end, side_by_side


def failure(folder: Path, rank: int, status: int, message: str = "") -> ProcessFailure:
    """A process that ended with `status`, a signal if negative, having recorded `message`, if any, as torch does."""
    file = folder / f"{rank}.json"
    if message:
        words = {"message": message, "extraInfo": {"py_callstack": "Traceback ...", "timestamp": "1"}}
        file.write_text(json.dumps({"message": words}))
    return ProcessFailure(local_rank=rank, pid=100 + rank, exitcode=status, error_file=str(file))


def test_what_rank_0_has_told_is_not_told_again(tmp_path: Path) -> None:
    ends = {0: failure(tmp_path, 0, 143, "Interrupted: stopped"), 1: failure(tmp_path, 1, 143, "Interrupted: stopped")}
    end = _end(ends)
    assert isinstance(end, SystemExit)
    assert end.code == 143


LOST = "RuntimeError: Connection closed by peer"


@pytest.mark.parametrize(
    ("status", "message", "says"),
    [
        (-signal.SIGKILL, "", "process 1 .* ended: killed by SIGKILL; the same command"),
        (
            1,
            "OutOfMemoryError: CUDA out of memory.\nTried to",
            "process 1 .* ended: OutOfMemoryError: CUDA out of memory",
        ),
        (2, "ArtifactError: tokens: no such file", "process 1 .* ended: ArtifactError: tokens: no such file"),
    ],
)
def test_the_cause_is_told_in_one_line_and_not_its_consequence(
    tmp_path: Path, status: int, message: str, says: str
) -> None:
    """Rank 0 lost its connection because rank 1 had gone, whichever of the two ends was seen first."""
    end = _end({0: failure(tmp_path, 0, 1, LOST), 1: failure(tmp_path, 1, status, message)})
    assert isinstance(end, ProcessFailed)
    with pytest.raises(ProcessFailed, match=says) as error:
        raise end
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 1


def test_an_error_of_all_is_still_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match=r"process 0 .* RuntimeError: singular"):
        raise _end({rank: failure(tmp_path, rank, 1, "RuntimeError: singular") for rank in (0, 1)})


def test_on_another_machine_what_its_first_process_has_told_is_not_told_again(tmp_path: Path) -> None:
    """Its processes count from 0 in torch's `local_rank`, and go on from the others' in all of them."""
    ends = {4 + rank: failure(tmp_path, rank, 2, "ArtifactError: no such file") for rank in (0, 1)}
    end = _end(ends)
    assert isinstance(end, SystemExit)
    assert end.code == 2


def params(*overrides: str) -> Params:
    return load_params(ROOT / "params.yaml", list(overrides))


@side_by_side
def pretrain(params: Params) -> None:
    raise AssertionError("trained here")


def test_a_program_is_named_as_its_user_types_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert own("troupe") == "troupe", "of an environment elsewhere, which is on the path"
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert own("troupe") == ".venv/bin/troupe"


@pytest.mark.parametrize("launcher", ["docker", "kubernetes"])
@pytest.mark.parametrize("processes", [1, 2])
def test_what_another_engine_trains_is_not_trained_here(launcher: str, processes: int) -> None:
    wanted = params(f"run.launcher={launcher}", "run.device=cpu", f"run.processes={processes}")
    with pytest.raises(ParamsError, match=f"run.launcher: {launcher} trains this stage: `.*troupe launch pretrain`"):
        pretrain(wanted)


def test_a_process_that_such_an_engine_has_started_trains(workspace: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    run = workspace.run.model_copy(update={"launcher": "kubernetes", "device": "cpu"})
    with pytest.raises(AssertionError, match="trained here"):
        pretrain(workspace.model_copy(update={"run": run}))


def test_machines_that_cannot_find_each_other_say_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PET_RDZV_ENDPOINT", raising=False)
    with pytest.raises(ParamsError, match="on each of them set PET_RDZV_ENDPOINT=HOST:PORT"):
        pretrain(params("run.launcher=torchrun", "run.nodes=2", "run.processes=2"))


def test_machines_that_do_not_come_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PET_RDZV_ENDPOINT", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("PET_RDZV_CONF", "join_timeout=1")
    for name in ("OMP_NUM_THREADS", FRESH_STORE[0]):
        monkeypatch.setenv(name, "1")  # to be undone: the launcher sets them
    with pytest.raises(ProcessFailed, match=r"the 2 machines do not meet at 127\.0\.0\.1:\d+: not all of them came"):
        pretrain(params("run.launcher=torchrun", "run.nodes=2", "run.processes=2"))
