"""From the tokens of one text to what a client reads: characters, where it stops, probabilities, chunks of a stream."""

import codecs
import time
from asyncio import Queue
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from troupe.batching import Text
from troupe.data.tokenizer import Tokenizer

Finish = Literal["stop", "length"]


@dataclass
class Logprobs:
    """Of tokens as they follow each other: ln p under the model itself, before temperature and filters; `offset` is
    where a token begins, in characters of the answer."""

    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[dict[str, float]] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)

    def cut(self, end: int) -> "Logprobs":
        """Take out the tokens that begin before the character `end`."""
        n = sum(offset < end for offset in self.text_offset)
        columns = (self.tokens, self.token_logprobs, self.top_logprobs, self.text_offset)
        first = Logprobs(*(column[:n] for column in columns))  # type: ignore[arg-type]
        for column in columns:
            del column[:n]
        return first


@dataclass(frozen=True)
class Chunk:
    """What is new of an answer; `finish` with the last."""

    text: str
    logprobs: Logprobs | None
    finish: Finish | None


Outbox = Queue[tuple[int, Chunk | Exception]]  # of a request: the number of the answer, and what is new of it


class Answer:
    """One text to be written, and its reader's place: `outbox` gets a chunk as soon as there is one (`streaming`), or
    one chunk with everything.

    The text ends before the first of the `stops`, before the token `end_id`, or after all its tokens. `n_top` is how
    many likeliest tokens are told with each one; None: no probabilities at all.
    """

    def __init__(
        self,
        text: Text,
        tokenizer: Tokenizer,
        outbox: Outbox,
        *,
        number: int = 0,
        stops: Sequence[str] = (),
        n_top: int | None = None,
        streaming: bool = False,
    ) -> None:
        self.text, self.tokenizer, self.outbox, self.number = text, tokenizer, outbox, number
        self.stops, self.n_top, self.streaming = tuple(stops), n_top, streaming
        self.finish: Finish | None = None
        self.cancelled = False  # it has no reader
        self.fault: Exception | None = None  # why it cannot be written
        self.since = time.monotonic()
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._written = ""  # of the answer so far
        self._sent = 0  # characters of it
        self._logprobs = Logprobs() if n_top is not None else None

    def take(self, token: int, logits_V: Tensor | None) -> None:
        """One token more."""
        if token == self.tokenizer.end_id:
            self._end("stop")
            return
        if self._logprobs is not None and logits_V is not None:
            self._note(self._logprobs, token, logits_V)
        self._written += self._characters.decode(self.tokenizer.decode_bytes([token]))
        self._stop()
        if self.finish is None and self.text.is_full:
            self._end("length")

    def send(self) -> None:
        """Put what is new of it into the outbox, if its reader wants it by now."""
        end = len(self._written) if self.finish else len(self._written) - self._held_back()
        if not (self.finish or (self.streaming and end > self._sent)):
            return
        new, self._sent = self._written[self._sent : end], end
        logprobs = self._logprobs.cut(end) if self._logprobs is not None else None
        self.outbox.put_nowait((self.number, Chunk(new, logprobs, self.finish)))

    def fail(self, error: Exception) -> None:
        """Have its reader get an error instead of more text."""
        self.cancelled = True
        self.outbox.put_nowait((self.number, error))

    def _end(self, finish: Finish) -> None:
        self._written += self._characters.decode(b"", final=True)
        self._stop()
        self.finish = self.finish or finish

    def _stop(self) -> None:
        places = [place for stop in self.stops if (place := self._written.find(stop, self._sent)) >= 0]
        if places:
            self._written, self.finish = self._written[: min(places)], "stop"

    def _held_back(self) -> int:
        """How many characters at the end may be the beginning of a stop."""
        most = min(max(map(len, self.stops), default=1) - 1, len(self._written) - self._sent)
        return next(
            (n for n in range(most, 0, -1) if any(stop.startswith(self._written[-n:]) for stop in self.stops)), 0
        )

    def _note(self, logprobs: Logprobs, token: int, logits_V: Tensor) -> None:
        logp_V = logits_V.double().log_softmax(-1)
        top = logp_V.topk(min(self.n_top or 0, len(logp_V)))
        likeliest = dict(zip(map(self._shown, top.indices.tolist()), top.values.tolist(), strict=True))
        logprobs.tokens.append(shown := self._shown(token))
        logprobs.token_logprobs.append(own := max(float(logp_V[token]), torch.finfo(torch.float32).min))
        logprobs.top_logprobs.append({shown: own} | likeliest)
        logprobs.text_offset.append(len(self._written))

    def _shown(self, token: int) -> str:
        """Its text; bytes that are no whole characters by their numbers, so that no two tokens look alike."""
        content = self.tokenizer.decode_bytes([token]) if token != self.tokenizer.end_id else b"<|endoftext|>"
        try:
            return content.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)
