"""Have MLflow's users, then become the command: `python mlflow_start.py mlflow server ...`.

The first user, of the environment, is the gate's: the trainer's, and the only one who may change what it has made.
`reader` is for people: by `default_permission` of mlflow-auth.ini it sees everything. They promote through Prefect's
deployments.
"""

import os
import sys

READER = "reader"


def main() -> None:
    """Make the users that are missing; passwords of those that are there stay."""
    from mlflow.server.auth import bootstrap_admin_user, store

    bootstrap_admin_user()  # as `mlflow server` does first: the tables and the first user
    if not store.has_user(READER):
        store.create_user(READER, os.environ["MLFLOW_READER_PASSWORD"])


if __name__ == "__main__":
    main()
    os.execvp(sys.argv[1], sys.argv[1:])
