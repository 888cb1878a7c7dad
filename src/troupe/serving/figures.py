"""What Prometheus is shown of the server: requests, tokens, texts and memory."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from troupe.serving.models import Models
from troupe.serving.scheduler import Scheduler

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class ServerFigures:
    """The figures of one server."""

    def __init__(self, scheduler: Scheduler, models: Models) -> None:
        self.registry = CollectorRegistry()
        here = self.registry
        self.requests = Counter("troupe_requests", "Answers, by route and status.", ["route", "status"], registry=here)
        self.seconds = Histogram(
            "troupe_request_seconds",
            "From a request to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=here,
        )
        self.tokens = Counter("troupe_tokens", "Tokens of prompts and of answers.", ["kind"], registry=here)
        running = Gauge("troupe_texts_running", "Texts that are being written side by side.", registry=here)
        running.set_function(lambda: scheduler.n_running)
        waiting = Gauge("troupe_texts_waiting", "Texts in the queue.", registry=here)
        waiting.set_function(lambda: scheduler.n_waiting)
        degraded = Gauge("troupe_degraded", "1 where what is served is not what the registry names.", registry=here)
        degraded.set_function(lambda: models.fault is not None)
        ProcessCollector(registry=self.registry)


class MeasuredAnswer:
    """ASGI middleware that counts and times every answer."""

    def __init__(self, app: ASGIApp, figures: ServerFigures) -> None:
        self.app, self.figures = app, figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, began = 499, time.perf_counter()  # 499: the client has left before there was an answer

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self.figures.requests.labels(route, str(status)).inc()
            self.figures.seconds.labels(route).observe(time.perf_counter() - began)
