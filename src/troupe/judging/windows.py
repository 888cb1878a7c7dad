"""Real and generated texts of equal length from the same places of a held-out text: what classifiers compare.

Shapes: N windows, P tokens of prompt, T tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from troupe.data.dataset import token_bytes, window_starts
from troupe.data.room import FEWEST_WINDOWS
from troupe.data.tokenizer import Tokenizer, whole_characters
from troupe.decoding import Decoding, generate
from troupe.errors import CorpusError
from troupe.models.gpt2 import GPT
from troupe.seeding import derive_seed

CACHE_FLOATS = 2**28  # 1 GB of keys and values: bounds how many texts are generated at a time
AT_ONCE = 256  # sequences that a worker writes at a time: small, so that no worker is left with a long one at the end


Sample = Callable[[GPT, Tensor, int, list[int]], Tensor]  # model, ids_BT, n_new, seeds -> ids_BT with n_new more


def sampler(decoding: Decoding) -> Sample:
    """Draw token after token."""
    return lambda model, ids_BT, n_new, seeds: generate(model, ids_BT, n_new, decoding, seeds)


OWN_DISTRIBUTION = sampler(Decoding())  # temperature 1, no filter


@dataclass(frozen=True)
class Places:
    """Where windows of `width` bytes begin in a held-out text: each at a token with `prompt` tokens before it."""

    ids: np.ndarray  # of the whole text
    starts: np.ndarray  # (N,) the first token of every window; windows do not overlap
    prompt: int
    width: int
    tokenizer: Tokenizer

    def take(self, chosen: np.ndarray) -> "Places":
        """Some of the places."""
        return replace(self, starts=self.starts[chosen])

    def parts(self) -> list["Places"]:
        """Places that are continued together: the same ones however many workers there are."""
        rows = np.arange(len(self.starts))
        return [self.take(piece) for piece in np.split(rows, range(AT_ONCE, len(rows), AT_ONCE))]

    def prompts(self) -> Tensor:
        """ids_NP: the real tokens before every window."""
        return torch.from_numpy(np.stack([self.ids[i - self.prompt : i] for i in self.starts]).astype(np.int64))

    def real(self) -> list[str]:
        """The real text of every window; as a token holds at least a byte, `width` tokens are enough."""
        return [self.text(self.ids[i : i + self.width].tolist()) for i in self.starts]

    def text(self, ids_T: list[int]) -> str:
        return clip(self.tokenizer.decode_bytes(ids_T), self.width)


def find_places(split: str, ids: np.ndarray, tokenizer: Tokenizer, width: int, prompt: int) -> Places:
    """Every window of `width` bytes that fits into a split, one after the other.

    Raises CorpusError if fewer than eight fit.
    """
    bytes_N = token_bytes(tokenizer)[ids]
    starts = window_starts(bytes_N, width, prompt, int(bytes_N.sum()))
    if len(starts) < FEWEST_WINDOWS:
        raise CorpusError(
            f"{split} split: too short for the judge, which needs {FEWEST_WINDOWS} windows of judging.window "
            f"({width}) bytes and finds {len(starts)}; bring more text or lower judging.window"
        )
    return Places(ids, starts, prompt, width, tokenizer)


def continuations(model: GPT, places: Places, seed: int, sample: Sample = OWN_DISTRIBUTION) -> list[str]:
    """What the model writes at every place after the real tokens before it; the prompt is not part of the text.

    Every place has random numbers of its own. Texts that are still too short when typical ones are long enough are
    continued, so that long tokens are not preferred.
    """
    config, device = model.config, next(model.parameters()).device
    batch = max(1, CACHE_FLOATS // (2 * config.n_layer * config.block_size * model.cache_width))
    mean_bytes = token_bytes(places.tokenizer)[places.ids].mean()
    enough = int(1.2 * places.width / mean_bytes) + 1
    ids_NP = places.prompts().to(device)
    seeds = [derive_seed(seed, place) for place in range(len(ids_NP))]
    parts = [slice(i, i + batch) for i in range(0, len(ids_NP), batch)]
    return [text for part in parts for text in _write(model, ids_NP[part], enough, places, seeds[part], sample)]


def _write(model: GPT, ids_BT: Tensor, n_new: int, places: Places, seeds: list[int], sample: Sample) -> list[str]:
    texts, rows = [b""] * len(ids_BT), list(range(len(ids_BT)))
    while rows:
        ids_BT = sample(model, ids_BT, n_new, [derive_seed(seeds[row], ids_BT.size(1)) for row in rows])
        for row, ids_T in zip(rows, ids_BT[:, places.prompt :].tolist(), strict=True):
            texts[row] = places.tokenizer.decode_bytes(ids_T)
        short = [i for i, row in enumerate(rows) if len(texts[row]) < places.width]
        rows, ids_BT, n_new = [rows[i] for i in short], ids_BT[short], max(1, n_new // 4)
    return [clip(text, places.width) for text in texts]


def clip(text: bytes, width: int) -> str:
    """The first `width` bytes, less half a character at either end, which would betray where the text was cut.

    Bytes inside that are not UTF-8 are a fault of their writer: the judge sees U+FFFD.
    """
    return whole_characters(text[:width])
