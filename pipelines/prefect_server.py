"""`python -m pipelines.prefect_server --port PORT`: Prefect's server on loopback, for this machine's own pages alone.

Prefect asks for no password here, and it looks at neither Host nor Origin. A web page that the user's browser shows
could then start runs, by a form, or by a name of its own that comes to mean 127.0.0.1 (DNS rebinding).
"""

import argparse
import os

import uvicorn

from pipelines.loopback import HOST, OwnPagesOnly


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--no-ui", action="store_true")
    given = parser.parse_args()
    os.environ["PREFECT_SERVER_UI_ENABLED"] = str(not given.no_ui).lower()
    from prefect.server.api.server import create_app  # which reads the settings of the environment

    app = OwnPagesOnly(create_app(final=True), given.port)
    uvicorn.run(app, host=HOST, port=given.port, log_level="warning", timeout_keep_alive=5)


if __name__ == "__main__":
    main()
