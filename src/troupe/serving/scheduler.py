"""Texts that wait and texts that are being written: one loop for all requests, one thread that computes.

A request's texts join those that are being written as soon as there is room beside them (continuous batching), first
come first served for each model. What touches a batch happens in the thread or between two of its steps, so there are
no locks.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from troupe.batching import Batch, rows_at_once
from troupe.bundles.bundle import Bundle
from troupe.serving.answer import Answer

MOST_ROWS = 32  # texts that one model writes side by side
ENDED = "this server writes no more: it is stopping, or has to be started again"


class Busy(Exception):
    """The queue is full."""


class NoRoom(Exception):
    """An answer could not begin in time."""


class OutOfTime(Exception):
    """An answer was not done in time."""


@dataclass(frozen=True)
class Limits:
    waiting: int = 64  # texts in the queue
    queue_seconds: float = 30.0  # until a text must have begun
    seconds: float = 120.0  # until it must be done
    threads: int = 1  # of the processor: a step of a small model is a thousand small operations


class Engine:
    """The texts that one model is writing, token by token, side by side."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.room = rows_at_once(bundle.model, MOST_ROWS)
        self.answers: list[Answer] = []
        self._batch = Batch(bundle.model)

    def add(self, answer: Answer) -> None:
        self.answers.append(answer)
        self._batch.add(answer.text)

    def remove(self, answer: Answer) -> None:
        self.answers.remove(answer)
        self._batch.remove(answer.text)

    def step(self) -> None:
        """One token more of every text. Raises what the model raises."""
        texts, logits_BV = self._batch.step()
        answer_of = {id(answer.text): answer for answer in self.answers}
        for row, text in enumerate(texts):
            answer = answer_of[id(text)]
            answer.take(text.ids[-1], logits_BV[row] if answer.n_top is not None else None)

    def begin_anew(self) -> None:
        """After a step that failed: what it left in the cache belongs to no text."""
        self._batch.close()
        self._batch = Batch(self.bundle.model)


class Scheduler:
    """`submit` answers, `cancel` those whose readers have left; `run` is the loop."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._waiting: deque[tuple[Engine, Answer]] = deque()
        self._engines: list[Engine] = []  # that are writing
        self._work = asyncio.Event()
        self._ended = False
        self._thread = ThreadPoolExecutor(1, "writer", torch.set_num_threads, (limits.threads,))

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    @property
    def n_running(self) -> int:
        return len(self._running())

    def _running(self) -> list[Answer]:
        return [answer for engine in self._engines for answer in engine.answers]

    def submit(self, engine: Engine, answers: Sequence[Answer]) -> None:
        """Write all of them or none. Raises Busy if they would not find room in the queue, NoRoom after the end."""
        if self._ended:
            raise NoRoom(ENDED)
        if self.n_waiting + len(answers) > self.limits.waiting:
            raise Busy
        self._waiting += [(engine, answer) for answer in answers]
        self._work.set()

    def cancel(self, answers: Sequence[Answer]) -> None:
        """Nobody reads them any more."""
        for answer in answers:
            answer.cancelled = True
        self._work.set()

    async def run(self) -> None:
        """Write what is submitted, until cancelled."""
        try:
            while True:
                await self._work.wait()
                self._let_go()
                self._admit()
                if self._engines:
                    await asyncio.get_running_loop().run_in_executor(self._thread, self._step)
                    self._send()
                else:
                    self._work.clear()
        finally:
            self._ended = True
            for answer in [*(answer for _, answer in self._waiting), *self._running()]:
                answer.fail(NoRoom(ENDED))
            self._thread.shutdown()

    def _let_go(self) -> None:
        """Of what is done, has no reader, or has had its time."""
        now, limits = time.monotonic(), self.limits
        for _, answer in self._waiting:
            if not answer.cancelled and now > answer.since + limits.queue_seconds:
                answer.fail(NoRoom(f"no room within {limits.queue_seconds:g} s; try again later"))
        self._waiting = deque(pair for pair in self._waiting if not pair[1].cancelled)
        for engine in self._engines:
            for answer in engine.answers.copy():
                if not (answer.cancelled or answer.finish) and now > answer.since + limits.seconds:
                    answer.fail(OutOfTime(f"not done within {limits.seconds:g} s; ask for fewer tokens"))
                if answer.cancelled or answer.finish:
                    engine.remove(answer)
        self._engines = [engine for engine in self._engines if engine.answers]

    def _admit(self) -> None:
        """Those that wait for a model with room, in the order in which they came."""
        left: deque[tuple[Engine, Answer]] = deque()
        for engine, answer in self._waiting:
            if len(engine.answers) < engine.room:
                engine.add(answer)
                if engine not in self._engines:
                    self._engines.append(engine)
            else:
                left.append((engine, answer))
        self._waiting = left

    def _step(self) -> None:
        """In the thread. A model that fails does so for its own texts alone."""
        for engine in self._engines:
            try:
                engine.step()
            except Exception as error:
                engine.begin_anew()
                for answer in engine.answers:
                    answer.fault = error

    def _send(self) -> None:
        for engine in self._engines:
            for answer in engine.answers:
                if answer.fault is not None:
                    answer.fail(answer.fault)
                elif not answer.cancelled:
                    answer.send()
