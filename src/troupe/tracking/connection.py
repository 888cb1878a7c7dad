"""Where MLflow is, whether it answers, and one line when it does not."""

import os
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from troupe import layout
from troupe.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient

VARIABLE = "MLFLOW_TRACKING_URI"
EXPERIMENT = "troupe"
DATABASE = Path("mlflow.db")  # the embedded store, in the workspace
ARTIFACT_ROOT = Path("mlartifacts")


def tracking_uri() -> str:
    """Where MLflow is: $MLFLOW_TRACKING_URI, or the embedded database of this workspace."""
    return os.environ.get(VARIABLE) or f"sqlite:///{DATABASE.absolute()}"


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
    """A client of the tracking store and the registry.

    Raises RegistryError, in one line, if there is no answer or a refusal.
    """
    uri = tracking_uri()
    lost = f"MLflow unreachable at {shown(uri)}; metrics are kept in {layout.RUNS} and will be sent by the next run"
    if not reachable(uri):
        raise RegistryError(lost)
    import mlflow  # takes seconds, and only after environment.prepare()

    try:
        with _the_store_of_mlflow(uri):
            yield mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    except (mlflow.MlflowException, OSError) as error:  # OSError: a full disk, an upload cut short
        reason = f"MLflow at {shown(uri)}: {str(error).strip().partition(chr(10))[0]}"
        raise RegistryError(reason if reachable(uri) else lost) from error


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
    # A server chooses its own place. In the embedded store an absolute one serves every later server on it, too.
    embedded = tracking_uri().startswith("sqlite:")
    return str(client.create_experiment(EXPERIMENT, str(ARTIFACT_ROOT.absolute()) if embedded else None))
