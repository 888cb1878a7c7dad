"""A flow run that finds the workspace busy."""

from collections.abc import Callable

import pytest

from pipelines import overlap
from pipelines.overlap import Skipped, WhenBusy, once_free
from troupe.errors import WorkspaceBusy


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "SECONDS_BETWEEN_TRIES", 0.0)


def taken(*reasons: str) -> Callable[[], str]:
    left = list(reasons)

    def attempt() -> str:
        if left:
            raise WorkspaceBusy(left.pop(0))
        return "done"

    return attempt


def test_it_waits_and_says_for_whom_once() -> None:
    shown: list[str] = []
    assert once_free(taken("A is here", "A is here", "B is here"), "wait", shown.append) == "done"
    assert shown == ["A is here", "B is here", ""]


def test_a_free_workspace_is_nothing_to_speak_of() -> None:
    shown: list[str] = []
    assert once_free(taken(), "wait", shown.append) == "done"
    assert shown == []


@pytest.mark.parametrize(("when_busy", "error"), [("skip", Skipped), ("fail", WorkspaceBusy)])
def test_it_does_not_wait(when_busy: WhenBusy, error: type[Exception]) -> None:
    with pytest.raises(error, match="A is here"):
        once_free(taken("A is here"), when_busy, pytest.fail)
