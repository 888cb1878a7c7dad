"""The embedded store, a SQLite file: made whole or not at all, or refused in one line.

MLflow's migrations are not atomic: one that is cut short leaves a file that no later one can mend. So they work on a
file beside the store, which takes the store's place when they are done; a kill leaves the old store or none.

`python -m troupe.tracking.store ARGUMENTS` is `mlflow server ARGUMENTS` on such a store.
"""

import os
import shutil
import sqlite3
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import url2pathname

import psutil
from filelock import FileLock

from troupe import environment
from troupe.errors import RegistryError, TroupeError

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

DATABASE = Path("mlflow.db")  # in the workspace
ARTIFACT_ROOT = Path("mlartifacts")
EXPERIMENT = "troupe"
ADDRESSES = (  # of files, in MLflow's tables
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)
REMEDY = (
    "move it away, and the next `make pipeline` makes another from local files (only past promotions are lost with it)"
)
BROKEN = {sqlite3.SQLITE_NOTADB: "no database", sqlite3.SQLITE_CORRUPT: "a damaged database"}


def address(file: Path) -> str:
    """The URL of a SQLite file, whatever characters its path has.

    It names the driver, for MLflow makes the folder of a URL that does not, and spells it as the URL does.
    """
    return f"sqlite+pysqlite:///{quoted(file)}"


def quoted(file: Path) -> str:
    """The absolute path as SQLAlchemy's URLs take it: with what it would decode, or take for their end, encoded."""
    return str(file.absolute()).replace("%", "%25").replace("?", "%3F")


def file_of(uri: str) -> Path | None:
    """The file of a SQLite URL; None of any other one, and of a database in memory."""
    if not uri.startswith("sqlite"):
        return None
    from sqlalchemy.engine import make_url

    database = make_url(uri).database
    return Path(database) if database and not database.startswith((":memory:", "file:")) else None


def local_path(address: str) -> Path | None:
    """The path of a file: URL, or of an absolute path as it stands; None of any other address of files."""
    if address.startswith("file://"):
        return Path(url2pathname(address.removeprefix("file://")))
    return Path(address) if address.startswith("/") else None


def ensure(file: Path) -> None:
    """Have a store with the tables of the installed MLflow: make it, or bring an older one up to date.

    An older one is kept beside it. A workspace's own store that was moved or copied with it names the files beside it
    from then on, not those where it was made. Raises RegistryError, in one line with the remedy, for a file that is no
    store of MLflow's, for one that is half made, for one of a newer MLflow, for an older one that another process has
    open, and for one that cannot be read or written; such a file is left as it is.
    """
    try:
        if not _is_current(file):
            with FileLock(f"{file}.lock"):
                if not _is_current(file):  # nobody else was first
                    _make(file)
        if file.absolute() == DATABASE.absolute() and not file.is_symlink():
            _keep_to(file.absolute().parent, file)
    except OSError as error:
        raise RegistryError(f"{file}: cannot be opened or made: {error}") from None


def _keep_to(workspace: Path, file: Path) -> None:
    """Where a store was made in another workspace, put this one in its place in every address of files.

    A folder that is no workspace, which someone has chosen for the files, stays what it is.
    """
    with _opened(file) as opened:
        old = _made_in(opened)
        if not old or old == workspace or not _is_a_workspace(old) or _same(old, workspace):
            return
        for before, after in ((f"{old.as_uri()}/", f"{workspace.as_uri()}/"), (f"{old}/", f"{workspace}/")):
            for table, column in ADDRESSES:
                opened.execute(
                    f"update {table} set {column} = ? || substr({column}, ?) where substr({column}, 1, ?) = ?",
                    (after, len(before) + 1, len(before), before),
                )
        opened.commit()
        print(f"{file}: was made in {old}; from now on its files are those in {workspace}", file=sys.stderr)


def _made_in(opened: sqlite3.Connection) -> Path | None:
    """The workspace with the files of our experiment; None if there is none, or they are in no folder of that name."""
    found = opened.execute("select artifact_location from experiments where name = ?", (EXPERIMENT,)).fetchone()
    if not (path := local_path(found[0] if found and found[0] else "")):
        return None
    root = path.parent if path.name.isdecimal() else path  # a server adds the experiment's number
    return root.parent if root.name == ARTIFACT_ROOT.name else None


def _is_a_workspace(folder: Path) -> bool:
    """Whether it is one, or was one that has been moved."""
    return not folder.exists() or (folder / DATABASE).exists() or (folder / "dvc.yaml").exists()


def _same(one: Path, other: Path) -> bool:
    """Whether these are two names of one folder."""
    return one.exists() and one.samefile(other)


def _is_current(file: Path) -> bool:
    found = _revision(file)
    if found is None:
        return False
    newest = _migrations().get_current_head()
    if found == newest:
        if missing := _tables() - _tables_in(file):
            raise RegistryError(f"{file}: without the table {min(missing)}; {REMEDY}")
        return True
    if found not in {script.revision for script in _migrations().walk_revisions()}:
        from mlflow import __version__

        raise RegistryError(
            f"{file}: its schema ({found}) is not known to MLflow {__version__}; install the newer one that made it, "
            f"or {REMEDY}"
        )
    return False


def _make(file: Path) -> None:
    """Make or migrate a store in a file beside it, then let that take its place."""
    new, before = Path(f"{file}.new"), _revision(file)
    for leftover in (new, Path(f"{new}-journal")):  # of one that was killed
        leftover.unlink(missing_ok=True)
    try:
        if before is not None:
            _require_closed(file)
            with _opened(file) as old, closing(sqlite3.connect(new)) as copy:
                old.backup(copy)
        _migrate(new, empty=before is None)
        _flush(new)
        if before is not None:
            kept = Path(f"{file}.{before}")
            shutil.copyfile(file, kept)  # not a link, which some file systems lack
            _flush(kept)
            print(f"{file}: brought to the tables of this MLflow; as it was: {kept.name}", file=sys.stderr)
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)


def _require_closed(file: Path) -> None:
    """Raise RegistryError if another process has the store open: what it writes later would be lost."""
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or all(one.path != str(file.resolve()) for one in process.open_files()):
                continue
            program = " ".join(process.cmdline())[:80]
        except psutil.Error:  # ended meanwhile, or somebody else's
            continue
        raise RegistryError(
            f"{file}: was made by an older MLflow and is to be brought up to date, but process {process.pid} "
            f"({program}) has it open; stop that first, e.g. a `make ui` or `make serve` of before the upgrade"
        )


def _flush(file: Path) -> None:
    with file.open("rb") as made:
        os.fsync(made.fileno())


def _migrate(file: Path, empty: bool) -> None:
    """Run MLflow's migrations. Raises RegistryError if one fails."""
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - all classes that some migrations look into
    import sqlalchemy
    from alembic.util import CommandError
    from mlflow.store.db import utils
    from sqlalchemy.exc import SQLAlchemyError

    migrate: Callable[[sqlalchemy.Engine], None] = utils._initialize_tables if empty else utils._upgrade_db
    engine = sqlalchemy.create_engine(address(file))

    @sqlalchemy.event.listens_for(engine, "connect")
    def fast(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")  # hundreds of flushes; nobody needs a file that is half made

    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # alembic's, of MLflow's own migrations
            migrate(engine)
    except (SQLAlchemyError, CommandError, sqlite3.Error) as error:
        line = str(error).strip().partition("\n")[0]
        what = f"cannot be made: {line}" if empty else f"half made, its migration failed ({line}); {REMEDY}"
        raise RegistryError(f"{file.with_suffix('')}: {what}") from None
    finally:
        engine.dispose()


def _revision(file: Path) -> str | None:
    """The migration at which a store stands; None where there is nothing yet, not even a table."""
    if not file.exists() or file.stat().st_size == 0:
        return None
    tables = _tables_in(file)
    if not tables:
        return None
    if "alembic_version" in tables:
        with _opened(file) as store:
            for (revision,) in store.execute("select version_num from alembic_version"):
                return str(revision)
    raise RegistryError(f"{file}: no store of MLflow's, or half of one; {REMEDY}")


def _tables_in(file: Path) -> set[str]:
    with _opened(file) as store:
        return {name for (name,) in store.execute("select name from sqlite_master where type = 'table'")}


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    """To be written to, if need be: what a killed writer has left half done is undone when it is read.

    What SQLite finds wrong is raised as RegistryError.
    """
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True)) as store:
            yield store
    except sqlite3.DatabaseError as error:
        if what := BROKEN.get(getattr(error, "sqlite_errorcode", 0) & 0xFF):  # without a code: a copy that has failed
            raise RegistryError(f"{file}: {what}; {REMEDY}") from None
        raise RegistryError(f"{file}: cannot be read or copied: {error}") from None


@cache
def _migrations() -> "ScriptDirectory":
    import mlflow
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))


def _tables() -> set[str]:
    """What the installed MLflow reads and writes."""
    import mlflow.store.db.utils  # noqa: F401 - it imports all that has tables
    from mlflow.store.db.base_sql_model import Base

    return set(Base.metadata.tables)


def main() -> None:
    """Have the workspace's store, then become MLflow's server with the arguments given."""
    environment.prepare()
    try:
        ensure(DATABASE)
    except TroupeError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *sys.argv[1:]])


if __name__ == "__main__":
    main()
