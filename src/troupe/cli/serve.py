"""`troupe serve`: the champion over HTTP."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from troupe.cli.common import CHAMPION, app


@app.command()
def serve(
    model: Annotated[str, typer.Option(help="A registered model.")] = CHAMPION,
    host: Annotated[str, typer.Option(help="It asks for no password: leave it on this machine.")] = "127.0.0.1",
    port: int = 5001,
) -> None:
    """Answer requests over HTTP: POST /invocations {"inputs": ["The "], "params": {"max_new_tokens": 50}}."""
    from troupe.registry import fetch
    from troupe.tracking.connection import VARIABLE, tracking_uri

    fetch.verify(model)
    os.environ[VARIABLE] = tracking_uri()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    print(f"{model} answers on http://{host}:{port}/invocations; Ctrl-C stops it", flush=True)
    mlflow = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", model, "--env-manager", "local"]
    os.execv(sys.executable, [*mlflow, "--host", host, "--port", str(port)])
