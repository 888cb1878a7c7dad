"""Windows of a number of bytes in a text of token ids: where they begin, and whether there are enough of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from troupe.data.dataset import Shards
from troupe.data.room import FEWEST_WINDOWS
from troupe.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class MeasuredRoom:
    """From the ids of a split, of which no more than its first windows are read."""

    bytes: int
    ids: Shards
    bytes_of_token: NDArray[np.int64]

    @property
    def tokens(self) -> int:
        return len(self.ids)

    def windows(self, width: int, prompt: int, most_bytes: int) -> int:
        n_ids = min(self.tokens, prompt + (FEWEST_WINDOWS + 1) * (width + 1))
        beginning = self.ids[np.arange(n_ids)]
        starts = window_starts(self.bytes_of_token[beginning], width, prompt, min(self.bytes, most_bytes))
        return min(FEWEST_WINDOWS, len(starts))


def window_starts(bytes_N: NDArray[np.int64], width: int, prompt: int, total: int) -> NDArray[np.int64]:
    """The tokens at which windows of `width` bytes begin, one after the other, in a text of `total` bytes.

    `bytes_N` are those of each token of the text or of its beginning. `prompt` tokens stand before the first window.
    """
    ends, starts, start = np.cumsum(bytes_N), list[int](), prompt
    while start < len(ends) and ends[start - 1] + width <= total:
        starts.append(start)
        start = int(np.searchsorted(ends, ends[start - 1] + width)) + 1
    return np.array(starts, np.int64)


def token_bytes(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Bytes of every token, by id."""
    return np.array([len(tokenizer.decode_bytes([token])) for token in range(tokenizer.vocab_size)])
