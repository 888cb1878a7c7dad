"""`troupe serve`: the server as a process."""

import os
import socket

import uvicorn

from troupe.errors import ParamsError
from troupe.serving.app import create_app
from troupe.serving.guard import is_loopback
from troupe.serving.models import Models
from troupe.serving.scheduler import Limits

TOKEN = "TROUPE_SERVE_TOKEN"
SHORTEST_TOKEN = 16
MOST_CONNECTIONS = 256  # beyond which a client gets 503
TO_FINISH = 30  # seconds that requests have when the server is told to stop


def serve(uri: str, host: str, port: int, limits: Limits) -> None:
    """Answer requests with the model at `uri` until a signal comes; then finish those that are being answered.

    Raises ParamsError if the address is taken or others could reach it without a token, RegistryError if there is no
    such model or its files are refused.
    """
    token = os.environ.get(TOKEN) or None
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise ParamsError(f"{TOKEN} must have at least {SHORTEST_TOKEN} characters")
    local = is_loopback(host)
    if not local and token is None:
        raise ParamsError(
            f"--host {host}: other machines reach it there, so it wants a password: set {TOKEN} "
            f"(at least {SHORTEST_TOKEN} characters), which clients send as `Authorization: Bearer ...`"
        )
    with _listening(host, port) as listener:
        models = Models(uri)
        models.open()
        app = create_app(models, limits=limits, token=token, local=local)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=TO_FINISH,
        )
        shown = f"[{host}]" if ":" in host else host
        print(
            f"{models.first.version.uri} answers on http://{shown}:{listener.getsockname()[1]}; Ctrl-C stops it",
            flush=True,
        )
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ParamsError(f"--host {host} --port {port}: {error.strerror or error}; name others") from None
