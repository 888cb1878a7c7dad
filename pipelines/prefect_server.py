"""`python -m pipelines.prefect_server --fd N`: Prefect's server on loopback, for who has the workspace's token.

It serves a socket that it inherits as file descriptor N (supervisor.started), or listens at `--port PORT` itself.

Prefect checks that itself, of every request and websocket to its API, when it is given the token. It looks at neither
Host nor Origin; and its pages, which are in front of the API, want the token typed into a form.
"""

import argparse
import os
import socket
from contextlib import suppress

import uvicorn

from troupe import environment
from troupe.credentials import USER, token
from troupe.loopback import HOST, Admission, OwnPagesOnly


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--port", type=int)
    place.add_argument("--fd", type=int)
    parser.add_argument("--no-ui", action="store_true")
    given = parser.parse_args()
    environment.prepare()
    secret = token()
    os.environ["PREFECT_SERVER_UI_ENABLED"] = str(not given.no_ui).lower()
    os.environ["PREFECT_SERVER_API_AUTH_STRING"] = f"{USER}:{secret}"
    from prefect.server.api.server import create_app  # which reads the settings of the environment

    app = OwnPagesOnly(Admission(create_app(final=True), secret, stored=True))
    config = uvicorn.Config(app, host=HOST, port=given.port or 0, log_level="warning", timeout_keep_alive=5)
    inherited = None if given.fd is None else [socket.socket(fileno=given.fd)]
    with suppress(KeyboardInterrupt):  # Ctrl-C, for which the server has stopped by then
        uvicorn.Server(config).run(inherited)


if __name__ == "__main__":
    main()
