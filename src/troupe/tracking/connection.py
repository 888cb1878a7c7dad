"""Where MLflow is, whether it answers, and one line when it does not."""

import logging
import os
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import TYPE_CHECKING

from troupe import layout
from troupe.credentials import basic
from troupe.errors import RegistryError, RegistryUnreachable
from troupe.tracking import store
from troupe.tracking.store import ARTIFACT_ROOT, EXPERIMENT

if TYPE_CHECKING:
    from mlflow import MlflowClient

VARIABLE = "MLFLOW_TRACKING_URI"
USERNAME, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"  # which MLflow's clients send


def tracking_uri() -> str:
    """Where MLflow is: $MLFLOW_TRACKING_URI, or the embedded database of this workspace."""
    return os.environ.get(VARIABLE) or store.address(store.DATABASE)


def authorization() -> dict[str, str]:
    """The header with the environment's name and password, if there are any: what MLflow's client sends."""
    user, password = os.environ.get(USERNAME), os.environ.get(PASSWORD)
    return {"Authorization": basic(user, password)} if user and password else {}


def shown(uri: str) -> str:
    """An address without the name and password that it may hold."""
    return re.sub(r"//[^/@]*@", "//", uri)


def reachable(uri: str, timeout: float = 2.0) -> bool:
    """Whether a server answers within `timeout` seconds; a store without a server always is."""
    if not uri.startswith(("http://", "https://")):
        return True
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=timeout) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError, HTTPException):
        return False


@contextmanager
def connection() -> Iterator["MlflowClient"]:
    """A client of the tracking store and the registry; the embedded store is made if it is missing.

    Raises RegistryUnreachable if a server does not answer, RegistryError if it refuses or the store is broken, each in
    one line.
    """
    uri = tracking_uri()
    lost = f"MLflow unreachable at {shown(uri)}; metrics are kept in {layout.RUNS} and will be sent by the next run"
    if not reachable(uri):
        raise RegistryUnreachable(lost)
    import mlflow  # takes seconds, and only after environment.prepare()
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs, with a traceback, what it raises
    file = store.file_of(uri)
    place = str(file) if file else shown(uri)
    try:
        if file:
            store.ensure(file)
        with _the_store_of_mlflow(uri):
            yield mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    except (mlflow.MlflowException, SQLAlchemyError, OSError) as error:  # OSError: a full disk, an upload cut short
        if not reachable(uri):
            raise RegistryUnreachable(lost) from error
        raise RegistryError(f"MLflow at {place}: {str(error).strip().partition(chr(10))[0]}") from error


@contextmanager
def _the_store_of_mlflow(uri: str) -> Iterator[None]:
    """Make a store the one that mlflow's inner workings look into: a client's own is not passed on everywhere.

    mlflow also writes it to the environment, where it would hold for another workspace, too; that is undone.
    """
    import mlflow

    before = os.environ.get(VARIABLE)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before


def experiment(client: "MlflowClient") -> str:
    """The id of the experiment that holds all runs; it is made if it is missing, restored if someone deleted it."""
    if found := client.get_experiment_by_name(EXPERIMENT):
        if found.lifecycle_stage == "deleted":  # its name stays taken
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)
    # A server chooses its own place. In the embedded store an absolute one serves every later server on it, too; as a
    # URL, for MLflow would take a "#" in a path for the end of it.
    embedded = store.file_of(tracking_uri())
    return str(client.create_experiment(EXPERIMENT, ARTIFACT_ROOT.absolute().as_uri() if embedded else None))
