"""The embedded store is made whole or not at all; what is no store of this MLflow's is refused in one line."""

import logging
import os
import resource
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - once, not in every process that is forked
import pytest
import sqlalchemy
from alembic.migration import MigrationContext
from alembic.operations import Operations

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
    older()
    refused("half made")
    assert not Path("mlflow.db.new").exists()


def test_an_empty_file_is_no_store_yet(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    assert store._revision(tmp_path / "mlflow.db") is None
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as db:
        db.execute("create table one (two)")
        db.execute("drop table one")
    assert store._revision(tmp_path / "mlflow.db") is None


def older(revision: str = "451aebb31d03") -> None:
    with closing(sqlite3.connect("mlflow.db")) as db:
        db.execute("update alembic_version set version_num = ?", [revision])
        db.commit()


def test_an_older_store_is_kept_where_there_are_no_hard_links(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = store._migrations().get_revision(store._migrations().get_current_head())
    with closing(sqlite3.connect("mlflow.db")) as db:
        engine = sqlalchemy.create_engine("sqlite://", creator=lambda: db, poolclass=sqlalchemy.StaticPool)
        with engine.connect() as opened, Operations.context(MigrationContext.configure(opened)):
            script.module.downgrade()
            opened.commit()
    older(script.down_revision)
    before = Path("mlflow.db").read_bytes()
    monkeypatch.delattr(os, "link")
    store.ensure(Path("mlflow.db"))
    assert store._revision(Path("mlflow.db")) == script.revision
    assert Path(f"mlflow.db.{script.down_revision}").read_bytes() == before
    assert capsys.readouterr().err.count("\n") == 1


def test_a_store_with_a_damaged_page_is_refused(workspace: Path) -> None:
    """Of the table that says where it stands: what lists the tables is whole."""
    with closing(sqlite3.connect("mlflow.db")) as db:
        ((page,),) = db.execute("select rootpage from sqlite_master where name = 'alembic_version'")
        ((size,),) = db.execute("pragma page_size")
    with Path("mlflow.db").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    refused("a damaged database")


@pytest.mark.parametrize("limit", [0, 65_536])
def test_a_copy_for_which_there_is_no_room_is_one_line(workspace: Path, limit: int) -> None:
    older()
    before, limits = Path("mlflow.db").read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(RegistryError, match=r"^mlflow\.db: cannot be read or copied: .*$"):
            store._make(Path("mlflow.db"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert Path("mlflow.db").read_bytes() == before


def test_a_store_that_another_holds_is_refused(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, timeout=0))
    with closing(sqlite3.connect("mlflow.db")) as db:
        db.execute("begin exclusive")
        with (
            pytest.raises(RegistryError, match=r"^mlflow\.db: cannot be read or copied: database is locked$"),
            store._opened(Path("mlflow.db")) as held,
        ):
            held.execute("select version_num from alembic_version")


def test_what_the_file_system_refuses_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mlflow.db.new").mkdir()
    with pytest.raises(SystemExit) as left:
        store.main()
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("mlflow.db: cannot be opened or made: ")
    assert said.count("\n") == 1


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


@pytest.mark.parametrize(
    ("made_in", "stays"),
    [("a folder that is gone", False), ("a workspace", False), ("a folder for files", True), ("a link to here", True)],
)
def test_a_store_keeps_to_its_own_workspace(made_in: str, stays: bool, workspace: Path, tmp_path: Path) -> None:
    """By a URL of files with a blank in it; a server adds the number of the experiment to it."""
    other = tmp_path / made_in
    if made_in == "a link to here":
        other.symlink_to(workspace)
    elif made_in != "a folder that is gone":
        other.mkdir()
    if made_in == "a workspace":
        (other / "dvc.yaml").touch()
    there, here = (f"{folder.as_uri()}/mlartifacts/1" for folder in (other, workspace))
    with closing(sqlite3.connect("mlflow.db")) as db:
        for name, location in ((store.EXPERIMENT, there), ("theirs", "s3://bucket/mlartifacts/2")):
            db.execute(
                "insert into experiments (name, artifact_location, lifecycle_stage) values (?, ?, 'active')",
                (name, location),
            )
        db.commit()
        store.ensure(Path("mlflow.db"))
        found = dict(db.execute("select name, artifact_location from experiments"))
    assert found[store.EXPERIMENT] == (there if stays else here)
    assert found["theirs"] == "s3://bucket/mlartifacts/2"


def test_what_mlflow_raises_it_does_not_also_log(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    with connection() as client:
        id_ = experiment(client)
    with closing(sqlite3.connect("mlflow.db")) as db:
        db.execute("drop table tags")
        db.execute("create table tags (one)")
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(RegistryError, match=r"mlflow\.db: .*"),
        connection() as client,
    ):
        client.create_run(id_, tags={"a": "b"})
    assert not caplog.records
