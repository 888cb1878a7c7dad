"""MLflow's server for who has the token of the workspace: `mlflow server --app-name troupe` (an `mlflow.app` of ours).

MLflow's own app with passwords (`basic-auth`) keeps users in a database of its own and takes the first password for
good; it is for a server that several people share, as in docker/.
"""

from starlette.types import ASGIApp

from troupe.credentials import token
from troupe.loopback import Admission, Admitted, OwnPagesOnly

APP = "troupe"  # its name, in pyproject.toml
FREE = ("/health", "/version")  # whether it lives


def create_app() -> ASGIApp:
    """The app that uvicorn serves."""
    from mlflow.server.fastapi_app import app  # which reads the settings that `mlflow server` has put in place

    secret = token()
    return OwnPagesOnly(Admission(Admitted(app, secret, FREE), secret))
