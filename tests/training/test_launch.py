"""What the launcher makes of the ends of the processes that it started."""

import json
import signal
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from troupe.errors import ProcessFailed
from troupe.training.launch import _end


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
