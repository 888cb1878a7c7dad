"""`troupe serve`: the champion over HTTP."""

from typing import Annotated

import typer

from troupe.cli.common import CHAMPION, app


@app.command()
def serve(
    model: Annotated[str, typer.Option(help="A registered model.")] = CHAMPION,
    host: Annotated[str, typer.Option(help="Any but loopback needs TROUPE_SERVE_TOKEN, a password.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 5001,
    waiting: Annotated[int, typer.Option(min=1, help="Texts in the queue, beyond which a client gets 429.")] = 64,
    seconds: Annotated[float, typer.Option(min=0.1, help="Until an answer must be done.")] = 120.0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; more than 1 for models of 50M parameters.")] = 1,
) -> None:
    """Answer over HTTP: OpenAI's /v1/completions, MLflow's /invocations, /health, /metrics, and a page to try it at /.

    A new version at the same alias is taken up while it runs.
    """
    from troupe.serving.run import serve as run
    from troupe.serving.scheduler import Limits

    run(model, host, port, Limits(waiting=waiting, seconds=seconds, threads=threads))
