"""What MLflow is told at the end of a run, and when nobody waits for that."""

from contextlib import suppress
from pathlib import Path

import pytest

from pipelines import publish
from pipelines.publish import mirrored
from pipelines.workspace import claim


@pytest.mark.parametrize(
    ("end", "sent"),
    [(None, True), (RuntimeError, True), (KeyboardInterrupt, False), (SystemExit, False)],
)
def test_a_run_that_is_asked_to_stop_keeps_nobody_waiting(
    end: type[BaseException] | None, sent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first use of MLflow takes seconds; a stage that saves its state has ten for all."""
    told: list[Path] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(publish, "mirror_run", told.append)
    with claim() as run:
        with suppress(end or ()), mirrored(run):
            if end:
                raise end
        assert told == ([run.folder] if sent else [])
