"""The routes, with what the OpenAPI description says of them."""

import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from troupe.serving.answer import Answer, Chunk
from troupe.serving.faults import INVOCATIONS, Refusal, of_validation
from troupe.serving.figures import MeasuredAnswer
from troupe.serving.guard import LOCAL_HOSTS, Guard
from troupe.serving.messages import (
    Completion,
    CompletionRequest,
    ErrorAnswer,
    Health,
    Invocation,
    InvocationAnswer,
    InvocationError,
    Model,
    ModelList,
)
from troupe.serving.models import Models
from troupe.serving.scheduler import Limits
from troupe.serving.server import Order, Server

PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'"
DEFAULT_TOKENS = 16  # OpenAI's
MEANINGS = {
    400: "The request is malformed, or asks for something that is not done.",
    401: "The bearer token is missing or wrong.",
    403: "Another web page asks.",
    404: "There is no such model.",
    413: "The request is too large.",
    429: "The queue is full.",
    500: "The model's weights are damaged.",
    503: "The model cannot be loaded, or found no room in time.",
    504: "It was not done in time.",
}


def create_app(
    models: Models, *, limits: Limits | None = None, token: str | None = None, local: bool = True
) -> FastAPI:
    """The server of `models`, the first of which is loaded; with a `token`, for those who have it. `local`: it answers
    to this machine's own names alone."""
    server = Server(models, limits or Limits())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with server.running():
            yield

    app = FastAPI(title="troupe", docs_url=None, redoc_url=None, lifespan=lifespan, redirect_slashes=False)
    app.state.server = server
    app.add_middleware(Guard, token=token)
    if local:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL_HOSTS, www_redirect=False)
    app.add_middleware(MeasuredAnswer, figures=server.figures)
    _add_errors(app)
    _add_completions(app, server)
    _add_invocations(app, server)
    _add_facts(app, server)
    _add_page(app)
    _describe(app)
    return app


def _add_completions(app: FastAPI, server: Server) -> None:
    streamed: dict[str, Any] = {"text/event-stream": {}}  # events of JSON, and one that is [DONE]: no schema has both
    answers = {200: {"content": streamed}} | _errors(400, 404, 413, 429, 500, 503, 504)

    @app.post("/v1/completions", response_model=Completion, responses=answers)
    async def complete(asked: CompletionRequest, request: Request) -> Response:
        """Continue prompts; with `stream`, as server-sent events."""
        served = await server.model(asked.model)
        order = Order(
            asked.prompts,
            asked.max_tokens or DEFAULT_TOKENS,
            asked.decoding(server.models.decoding(served)),
            asked.seed,
            asked.n or 1,
            asked.stops,
            asked.logprobs,
            bool(asked.stream),
        )
        made = server.submit(served, order)
        head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": served.name,
            "system_fingerprint": f"fp_{served.bundle.sha256[:12]}",
        }
        if asked.stream:
            counted = asked.stream_options is not None and asked.stream_options.include_usage
            events = _events(server, made, head, (asked.n or 1) if counted else None)
            return StreamingResponse(events, media_type="text/event-stream")
        chunks = await server.whole(request, made)
        choices = [_choice(number, chunk) for number, chunk in enumerate(chunks)]
        return JSONResponse(head | {"choices": choices, "usage": _usage(made, asked.n or 1)})


async def _events(server: Server, made: list[Answer], head: dict[str, Any], usage: int | None) -> AsyncIterator[str]:
    """Server-sent events; with `usage`, the n of the request, a last one that counts tokens."""
    try:
        async with aclosing(server.chunks(made)) as chunks:
            async for number, chunk in chunks:
                yield _event(head | {"choices": [_choice(number, chunk)], "usage": None})
    except Refusal as refusal:
        yield _event(refusal.body())
        return
    if usage:
        yield _event(head | {"choices": [], "usage": _usage(made, usage)})
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _choice(number: int, chunk: Chunk) -> dict[str, Any]:
    logprobs = asdict(chunk.logprobs) if chunk.logprobs is not None else None
    return {"index": number, "text": chunk.text, "logprobs": logprobs, "finish_reason": chunk.finish}


def _usage(made: list[Answer], n: int) -> dict[str, int]:
    """A prompt counts once, however many answers it has."""
    prompt = sum(answer.text.n_prompt for answer in made[::n])
    completion = sum(answer.text.n_written for answer in made)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _add_invocations(app: FastAPI, server: Server) -> None:
    answers = _errors(400, 413, 429, 500, 503, 504, form=InvocationError)

    @app.post(INVOCATIONS, response_model=InvocationAnswer, responses=answers)
    async def invoke(asked: Invocation, request: Request) -> Response:
        """Continue prompts as MLflow's server of the same model does: each prediction begins with its prompt."""
        params = asked.params
        order = Order(asked.inputs, params.max_new_tokens, params.decoding(), params.seed)
        chunks = await server.whole(request, server.submit(await server.model(None), order))
        return JSONResponse({"predictions": [p + chunk.text for p, chunk in zip(asked.inputs, chunks, strict=True)]})


def _add_facts(app: FastAPI, server: Server) -> None:
    models = server.models

    def described(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": models.since(name), "owned_by": "troupe"}

    @app.get("/v1/models", response_model=ModelList, responses=_errors())
    async def list_models() -> Response:
        """The models that can be asked for; the first answers where a request names none."""
        return JSONResponse({"object": "list", "data": [described(name) for name in models.names]})

    @app.get("/v1/models/{name}", response_model=Model, responses=_errors(404))
    async def describe_model(name: str) -> Response:
        """One of them; `created` is when it was loaded, 0 before anyone has asked for it."""
        if name not in models.names:
            raise Refusal(404, f"there is no model {name!r} here", param="model", code="model_not_found")
        return JSONResponse(described(name))

    @app.get("/health", responses={503: {"model": Health, "description": "It writes no more: start it again."}})
    async def health() -> Health:
        """Whether it answers, and with which weights."""
        first = models.first
        found = Health(
            status="degraded" if models.fault else "ok",
            model=first.name,
            version=first.version.uri,
            weights_sha256=first.bundle.sha256,
            fault=models.fault,
        )
        if server.is_alive:
            return found
        return JSONResponse(found.model_dump() | {"status": "down"}, 503)  # type: ignore[return-value]

    @app.get("/metrics", response_class=PlainTextResponse, responses=_errors())
    async def metrics() -> Response:
        """Figures in Prometheus' text format."""
        return Response(generate_latest(server.figures.registry), media_type=CONTENT_TYPE_LATEST)


def _add_page(app: FastAPI) -> None:
    here = files("troupe.serving")
    page, script = (here.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "page.js"))

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def show() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY})

    @app.get("/page.js", include_in_schema=False)
    async def run() -> Response:
        return Response(script, media_type="text/javascript")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:
        return error.response(request.url.path)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        return of_validation(error.errors()).response(request.url.path)

    @app.exception_handler(HTTPException)
    async def wrong(request: Request, error: HTTPException) -> Response:
        return Refusal(error.status_code, str(error.detail), headers=error.headers).response(request.url.path)


def _errors(*statuses: int, form: type[BaseModel] = ErrorAnswer) -> dict[int | str, dict[str, Any]]:
    """Of the description: these, and what any request may get."""
    return {status: {"model": form, "description": MEANINGS[status]} for status in sorted({401, 403, *statuses})}


def _describe(app: FastAPI) -> None:
    """The OpenAPI description, without the 422 that FastAPI supposes: a bad request is a 400 here."""

    def description() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(title=app.title, version=version("troupe"), routes=app.routes)
            for path in found["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
            for name in ("HTTPValidationError", "ValidationError"):
                found["components"]["schemas"].pop(name, None)
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = description  # type: ignore[method-assign]
