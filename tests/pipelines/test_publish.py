"""What MLflow is told at the end of a run, and when nobody waits for that."""

from contextlib import suppress
from pathlib import Path

import pytest

from pipelines import publish
from pipelines.publish import mirrored
from pipelines.workspace import claim
from tests.pipelines.small import eventually
from troupe.errors import RegistryError


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
    monkeypatch.setattr(publish, "mirror_pending", lambda current: None)
    monkeypatch.setattr(publish, "mirror_run", told.append)
    with claim() as run:
        with suppress(end or ()), mirrored(run):
            eventually(lambda: told)  # that it has begun
            told.clear()
            if end:
                raise end
        assert told == ([run.folder] if sent else [])


def test_a_broken_store_is_raised_at_the_end_and_a_server_out_of_reach_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Path("mlflow.db").write_bytes(b"no database at all" * 100)
    with claim() as run:
        broken = publish.publish(run)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        unreachable = publish.publish(run)
    with pytest.raises(RegistryError, match="no database; move it away"):
        broken.require()
    assert "will be sent by the next run" in str(unreachable.problem)
    unreachable.require()
