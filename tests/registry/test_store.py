"""The embedded store is made whole or not at all; what is no store of this MLflow's is refused in one line."""

import logging
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - once, not in every process that is forked
import pytest

from tests.forked import forked
from troupe.errors import RegistryError, RegistryUnreachable
from troupe.registry.versions import table
from troupe.tracking import mirror, store
from troupe.tracking.connection import connection, experiment, tracking_uri

WriteRun = Callable[..., Path]


def refused(what: str) -> None:
    """One line that names the file and the remedy, and the file as it was."""
    before = Path("mlflow.db").read_bytes()
    with pytest.raises(RegistryError, match=what) as caught:
        table()
    line = str(caught.value)
    assert line.startswith(f"{Path('mlflow.db').absolute()}: ")
    assert "\n" not in line
    assert "move it away" in line
    assert not isinstance(caught.value, RegistryUnreachable)
    assert Path("mlflow.db").read_bytes() == before


@pytest.mark.slow
def test_a_kill_while_it_is_made_leaves_none_and_the_next_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first byte, at some sizes between, and just before the end."""
    monkeypatch.chdir(tmp_path)
    new = tmp_path / "mlflow.db.new"
    for size in (0, 150_000, 400_000):
        making = forked(lambda: store.ensure(tmp_path / "mlflow.db"))
        while making.is_alive() and not (new.exists() and new.stat().st_size >= size):
            time.sleep(0.001)
        assert making.pid
        os.kill(making.pid, signal.SIGKILL)
        making.join()
        assert making.exitcode == -signal.SIGKILL, "it had not ended"
        assert new.exists()
        assert not Path("mlflow.db").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.address(tmp_path / "mlflow.db"))
    assert table() == []
    assert {path.name for path in tmp_path.iterdir()} - {"mlflow.db.lock"} == {"mlflow.db"}


@pytest.mark.slow
def test_two_at_once_make_one(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    both = [forked(lambda: store.ensure(file)) for _ in range(2)]
    for one in both:
        one.join()
        assert one.exitcode == 0
    assert store._revision(file) == store._migrations().get_current_head()


def test_what_is_no_database_is_refused(workspace: Path) -> None:
    Path("mlflow.db").write_bytes(b"no database at all" * 1000)
    refused("no database")


def test_what_a_killed_migration_left_is_refused(workspace: Path) -> None:
    """As MLflow's own creation leaves it: some tables, and not yet a word of how far it came."""
    with closing(sqlite3.connect("mlflow.db")) as db:
        db.execute("drop table alembic_version")
    refused("no store of MLflow's, or half of one")


def test_a_store_that_lacks_a_table_is_refused(workspace: Path) -> None:
    with closing(sqlite3.connect("mlflow.db")) as db:
        db.execute("drop table model_versions")
    refused("without the table model_versions")


def test_a_store_of_a_newer_mlflow_is_refused(workspace: Path) -> None:
    with closing(sqlite3.connect("mlflow.db")) as db:
        db.execute("update alembic_version set version_num = 'ffffffffffff'")
        db.commit()
    refused(r"its schema \(ffffffffffff\) is not known to MLflow \d.*; install the newer one")


def test_a_store_that_is_half_made_at_a_known_migration_is_refused(workspace: Path) -> None:
    """What stands at an earlier migration with the tables of a later one cannot be brought up to date."""
    with closing(sqlite3.connect("mlflow.db")) as db:
        db.execute("update alembic_version set version_num = '451aebb31d03'")
        db.commit()
    refused("half made")
    assert not Path("mlflow.db.new").exists()


def test_an_empty_file_is_no_store_yet(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    assert store._revision(tmp_path / "mlflow.db") is None
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as db:
        db.execute("create table one (two)")
        db.execute("drop table one")
    assert store._revision(tmp_path / "mlflow.db") is None


@pytest.mark.parametrize("name", ["a b", "a%41b", "a#b", "a?b=c&d", "a'{b}[c]*:@+é"])
def test_any_path_gives_the_store_in_it(
    name: str, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, write_run: WriteRun
) -> None:
    """And its files; beside it nothing appears."""
    folder = tmp_path / "around" / name
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, "mlflow.db")
    assert store.file_of(tracking_uri()) == folder / "mlflow.db"
    run_dir = write_run(stages={})
    Path("note.txt").write_text("found")
    mirror.mirror_run(run_dir)
    with connection() as client:
        (run,) = client.search_runs([experiment(client)])
        client.log_artifact(run.info.run_id, "note.txt")
        assert [one.path for one in client.list_artifacts(run.info.run_id)] == ["note.txt"]
        Path("back").mkdir()
        client.download_artifacts(run.info.run_id, "note.txt", "back")
    assert Path("back/note.txt").read_text() == "found"
    (stored,) = Path("mlartifacts").rglob("note.txt")
    assert stored.read_text() == "found"
    with closing(sqlite3.connect("mlflow.db")) as db:
        assert db.execute("select count(*) from runs").fetchone() == (1,)
    assert [path.name for path in folder.parent.iterdir()] == [name]
    assert [path.name for path in folder.parent.parent.iterdir()] == ["around"]


def test_what_mlflow_raises_it_does_not_also_log(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    with connection() as client:
        id_ = experiment(client)
    with closing(sqlite3.connect("mlflow.db")) as db:
        db.execute("drop table tags")
        db.execute("create table tags (nothing)")
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(RegistryError, match=r"mlflow\.db: .*"),
        connection() as client,
    ):
        client.create_run(id_, tags={"a": "b"})
    assert not caplog.records
