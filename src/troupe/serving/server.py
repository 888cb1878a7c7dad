"""From a request to the texts that answer it: what the routes share."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass

from fastapi import Request

from troupe.batching import Text
from troupe.decoding import Decoding
from troupe.errors import ParamsError, TroupeError
from troupe.registry.request import FRESH
from troupe.seeding import derive_seed
from troupe.serving.answer import Answer, Chunk, Outbox
from troupe.serving.faults import Refusal
from troupe.serving.figures import ServerFigures
from troupe.serving.messages import MOST_PROMPT, MOST_TEXTS
from troupe.serving.models import Models, Served, Unknown
from troupe.serving.scheduler import Busy, Limits, NoRoom, OutOfTime, Scheduler

CLIENT_LEFT = 499  # as nginx counts it; nobody reads it


@dataclass(frozen=True)
class Order:
    """Texts that are asked for: `n` for each of the prompts, as `messages` describes the rest."""

    prompts: Sequence[str]
    n_new: int
    decoding: Decoding
    seed: int | None
    n: int = 1
    stops: Sequence[str] = ()
    n_top: int | None = None
    streaming: bool = False


class Server:
    """The models, the loop that writes, and the figures of one server."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models, self.scheduler = models, Scheduler(limits)
        self.figures = ServerFigures(self.scheduler, models)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_alive(self) -> bool:
        return not any(task.done() for task in self._tasks)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Writes texts and watches the registry."""
        self._tasks = [asyncio.create_task(self.scheduler.run()), asyncio.create_task(self.models.watch())]
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def model(self, name: str | None) -> Served:
        """Raises Refusal if there is none of that name, or if it cannot be loaded."""
        try:
            return await self.models.get(name)
        except Unknown:
            known = ", ".join(self.models.names)
            message = f"there is no model {name!r} here; there are {known}"
            raise Refusal(404, message, param="model", code="model_not_found") from None
        except TroupeError as error:
            raise Refusal(503, str(error), param="model") from None

    def submit(self, served: Served, order: Order) -> list[Answer]:
        """The answers, of the first prompt first; they are written from now on. Raises Refusal."""
        tokenizer, outbox = served.bundle.tokenizer, Outbox()
        if len(order.prompts) * order.n > MOST_TEXTS:
            raise Refusal(400, f"{len(order.prompts)} prompts, n={order.n}: more than {MOST_TEXTS} texts", param="n")
        prompts = [tokenizer.encode(prompt) for prompt in order.prompts]
        if (longest := max(map(len, prompts))) > MOST_PROMPT:
            raise Refusal(400, f"the prompt has {longest} tokens; it may have {MOST_PROMPT}", param="prompt")
        seed = secrets.randbits(63) if order.seed is None or order.seed == FRESH else order.seed
        answers = [
            Answer(
                Text(prompts[number // order.n], order.n_new, order.decoding, derive_seed(seed, "serve", number)),
                tokenizer,
                outbox,
                number=number,
                stops=order.stops,
                n_top=order.n_top,
                streaming=order.streaming,
            )
            for number in range(len(prompts) * order.n)
        ]
        try:
            self.scheduler.submit(served.engine, answers)
        except Busy:
            raise Refusal(429, "the queue is full; try again in a second", headers={"Retry-After": "1"}) from None
        except NoRoom as error:
            raise _refusal(error) from None
        self.figures.tokens.labels("prompt").inc(sum(map(len, prompts)))
        return answers

    async def chunks(self, answers: Sequence[Answer]) -> AsyncGenerator[tuple[int, Chunk]]:
        """What they write, as it comes; they are cancelled if this ends early. Raises Refusal."""
        left = len(answers)
        try:
            while left:
                number, chunk = await answers[0].outbox.get()
                if isinstance(chunk, Exception):
                    raise _refusal(chunk)
                left -= chunk.finish is not None
                yield number, chunk
        finally:
            self.scheduler.cancel([answer for answer in answers if not answer.finish])
            self.figures.tokens.labels("completion").inc(sum(answer.text.n_written for answer in answers))

    async def whole(self, request: Request, answers: Sequence[Answer]) -> list[Chunk]:
        """All of every answer; they are cancelled when the client leaves. Raises Refusal."""
        gathering = asyncio.ensure_future(self._gathered(answers))
        leaving = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait([gathering, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not gathering.done():
                raise Refusal(CLIENT_LEFT, "the client has left")
            return gathering.result()
        finally:
            gathering.cancel()
            leaving.cancel()

    async def _gathered(self, answers: Sequence[Answer]) -> list[Chunk]:
        found: dict[int, Chunk] = {}
        async with contextlib.aclosing(self.chunks(answers)) as chunks:
            async for number, chunk in chunks:
                found[number] = chunk
        return [found[number] for number in range(len(answers))]


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _refusal(error: Exception) -> Refusal:
    match error:
        case NoRoom():
            return Refusal(503, str(error), headers={"Retry-After": "5"})
        case OutOfTime():
            return Refusal(504, str(error))
        case ParamsError():
            return Refusal(400, str(error))
        case TroupeError():
            return Refusal(500, str(error))
    return Refusal(500, f"the text could not be written ({type(error).__name__})")
