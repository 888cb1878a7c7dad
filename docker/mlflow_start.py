"""Have the users and names of troupe in MLflow, then become the command: `python mlflow_start.py mlflow server ...`.

The first user, of the environment, is the gate's: the trainer's, and the only one who may change what it has made.
`reader` is for people: by `default_permission` of mlflow-auth.ini it sees everything. They promote through Prefect's
deployments. Whoever makes a name may do everything with it, so the names are there before anybody can ask for one.
"""

import os
import sys

READER = "reader"
EXPERIMENT = "troupe"
MODELS = ("troupe", "troupe-pretrain", "troupe-moe", "troupe-adversarial")
STORE = "--backend-store-uri"
ARTIFACTS = "mlflow-artifacts:/"  # what a server that serves artifacts takes by itself


def make_users() -> None:
    """Make those that are missing; passwords of those that are there stay."""
    from mlflow.server.auth import bootstrap_admin_user, store

    bootstrap_admin_user()  # as `mlflow server` does first: the tables and the first user
    if not store.has_user(READER):
        store.create_user(READER, os.environ["MLFLOW_READER_PASSWORD"])


def make_names(uri: str) -> None:
    """Make the experiment and the registered models that are missing, as nobody's own."""
    from mlflow import MlflowException
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

    tracking, registry = Tracking(uri, ARTIFACTS), Registry(uri)
    if not tracking.get_experiment_by_name(EXPERIMENT):
        tracking.create_experiment(EXPERIMENT)
    for name in MODELS:
        try:
            registry.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


if __name__ == "__main__":
    make_users()
    make_names(sys.argv[sys.argv.index(STORE) + 1])
    os.execvp(sys.argv[1], sys.argv[1:])
