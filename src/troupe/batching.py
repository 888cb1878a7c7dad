"""Continuous batching: texts that begin and end at different times are written side by side, a token of each at a time.

`decoding.stream` writes a batch whose texts begin together and are equally long. A server cannot wait for that: here a
text joins between two tokens of the others and leaves when it is done (Yu et al. 2022, "Orca", OSDI). The model, the
filters, the random numbers of a seed and the window are those of `decoding.stream`, so one seed gives one text, alone
or in company; what that leaves open is said there.

Axes: B texts, T tokens of a prompt, S tokens of the longest text so far, H heads, K head width, V vocabulary.
"""

from collections.abc import Sequence
from contextlib import ExitStack

import torch
import torch.nn.functional as F
from torch import Tensor

from troupe.decoding import FLOATS, Decoding, uniforms
from troupe.errors import ParamsError
from troupe.kernels.layers import calling_directly
from troupe.models.gpt2 import GPT
from troupe.models.layers import KVCache, LayerCache, Start

NO_TOKEN = -1  # before the first token of a text that is shorter than others: an n-gram model has never counted it


class RowsLayer(LayerCache):
    """One layer of a RowsCache."""

    def __init__(self, rows: "RowsCache", capacity: int) -> None:
        super().__init__(capacity)
        self.rows = rows

    @property
    def start(self) -> Start:
        return self.rows.length_B

    @property
    def mask_B11S(self) -> Tensor | None:
        return self.rows.mask_B11S

    def extend(self, k_BHTK: Tensor, v_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        """Append the key and value of one new token of each text; return those of the S tokens of the longest."""
        assert self._buffers is not None
        B, H, _, K = k_BHTK.shape
        place_BH1K = self.rows.length_B.view(B, 1, 1, 1).expand(B, H, 1, K)
        k, v = (buffer.narrow(0, 0, B) for buffer in self._buffers)
        k.scatter_(2, place_BH1K, k_BHTK)
        v.scatter_(2, place_BH1K, v_BHTK)
        return k.narrow(2, 0, self.rows.length + 1), v.narrow(2, 0, self.rows.length + 1)

    def append(self, one: LayerCache, row: int) -> None:
        """Take over what the cache of one text holds."""
        assert one._buffers is not None
        if self._buffers is None:
            k, v = (new.new_zeros(1, new.size(1), self.capacity, new.size(3)) for new in one._buffers)
            self._buffers = k, v  # of zeros, for what lies behind a mask must be a number, too
        elif row == len(self._buffers[0]):
            k, v = (torch.cat([buffer, torch.zeros_like(buffer)]) for buffer in self._buffers)
            self._buffers = k, v
        for buffer, new in zip(self._buffers, one._buffers, strict=True):
            buffer[row, :, : one.length] = new[0, :, : one.length]
        for conv, recent in one._recent.items():
            others = self._recent.get(conv)
            self._recent[conv] = recent.clone() if others is None else torch.cat([others, recent])

    def remove(self, row: int, last: int) -> None:
        """The last row takes the place of `row`."""
        assert self._buffers is not None
        for buffer in self._buffers:
            buffer[row] = buffer[last]
        self._recent = {conv: without(recent, row) for conv, recent in self._recent.items()}


class RowsCache(KVCache):
    """Keys and values of texts of different lengths, a row each. A pass takes one new token of every row."""

    def __init__(self, n_layer: int, capacity: int, device: torch.device) -> None:
        super().__init__(0, capacity)
        self._rows = [RowsLayer(self, capacity) for _ in range(n_layer)]
        self.layers = [*self._rows]
        self.lengths: list[int] = []
        self.length_B = torch.zeros(0, dtype=torch.long, device=device)
        self.mask_B11S: Tensor | None = None

    @property
    def length(self) -> int:
        """Of the longest row."""
        return max(self.lengths, default=0)

    @property
    def start(self) -> Start:
        return self.length_B

    def recall(self, ids_BT: Tensor, before: int) -> Tensor:
        assert self._recent_BT is not None
        known_BS = torch.cat([self._recent_BT, ids_BT], dim=1)
        self._recent_BT = known_BS[:, max(0, known_BS.size(1) - before) :]
        return known_BS

    def append(self, one: KVCache) -> None:
        """A new last row: the text that `one` holds."""
        for layer, of_one in zip(self._rows, one.layers, strict=True):
            layer.append(of_one, len(self.lengths))
        if (new := one._recent_BT) is not None:
            others = new[:0] if self._recent_BT is None else self._recent_BT
            width = max(new.size(1), others.size(1))
            padded = [F.pad(recent, (width - recent.size(1), 0), value=NO_TOKEN) for recent in (others, new)]
            self._recent_BT = torch.cat(padded)
        self.lengths.append(one.length)

    def remove(self, row: int) -> None:
        """The last row takes the place of `row`."""
        last = len(self.lengths) - 1
        for layer in self._rows:
            layer.remove(row, last)
        if self._recent_BT is not None:
            self._recent_BT = without(self._recent_BT, row)
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def forward(self, model: GPT, ids_B1: Tensor) -> Tensor:
        """(B, V): the model's logits after one new token of every row."""
        self.length_B = torch.tensor(self.lengths, device=self.length_B.device)
        self.mask_B11S = None
        if min(self.lengths) < self.length:
            place_S = torch.arange(self.length + 1, device=self.length_B.device)
            hidden_BS = place_S > self.length_B.unsqueeze(1)
            mask_BS = torch.zeros(hidden_BS.shape, dtype=model.token_embedding.weight.dtype, device=hidden_BS.device)
            self.mask_B11S = mask_BS.masked_fill_(hidden_BS, -torch.inf)[:, None, None]
        logits_BV: Tensor = model(ids_B1, self)[:, -1]
        self.lengths = [length + 1 for length in self.lengths]
        return logits_BV


def without(x: Tensor, row: int) -> Tensor:
    """All rows but one, in whose place is the last; `x` is written to."""
    x[row] = x[-1]
    return x[:-1]


class Text:
    """A text of a Batch: `ids` holds its prompt and what has been written after it.

    Raises ParamsError for an empty prompt.
    """

    def __init__(self, ids: Sequence[int], n_new: int, decoding: Decoding, seed: int) -> None:
        if not ids:
            raise ParamsError("the prompt is empty; give at least one token to continue")
        self.ids, self.n_prompt, self.n_new, self.decoding, self.seed = list(ids), len(ids), n_new, decoding, seed
        self.start = 0  # of what the model sees
        self._uniforms: list[float] = uniforms([seed], n_new)[0].tolist()

    @property
    def n_written(self) -> int:
        return len(self.ids) - self.n_prompt

    @property
    def is_full(self) -> bool:
        """Whether all `n_new` tokens have been written."""
        return self.n_written >= self.n_new

    def uniform(self) -> float:
        """The random number of the next token."""
        return self._uniforms[self.n_written]


class Batch:
    """Texts that one model writes side by side: `add` them, call `step` again and again, `remove` those that are done.

    The model is in eval mode and called directly from then on: it belongs to the batch until `close`. Not for several
    threads at a time.
    """

    def __init__(self, model: GPT) -> None:
        self.model = model.eval()
        self.device = model.token_embedding.weight.device
        self.block_size = model.config.block_size
        self._cache = RowsCache(model.config.n_layer, self.block_size, self.device)
        self._texts: list[Text] = []  # of each row of the cache
        self._new: list[Text] = []  # whose windows are to be read as a whole
        self._open = ExitStack()
        self._open.enter_context(calling_directly(model))

    def __len__(self) -> int:
        return len(self._texts) + len(self._new)

    def add(self, text: Text) -> None:
        """Have the next `step` read its prompt, or its end if it is longer than the model's context."""
        text.start = max(0, len(text.ids) - self.block_size)
        self._new.append(text)

    @torch.inference_mode()
    def remove(self, text: Text) -> None:
        """Write no more of it; nothing happens if it is not there."""
        if text in self._new:
            self._new.remove(text)
        elif text in self._texts:
            self._forget(self._texts.index(text))

    def close(self) -> None:
        """Give the model back."""
        self._open.close()

    @torch.inference_mode()
    def step(self) -> tuple[list[Text], Tensor]:
        """Write one token more of every text; return them, and the logits_BV that they were drawn from.

        A context that is full starts again from its last half, as in `decoding.stream`. Raises ArtifactError if the
        model's logits are no distribution.
        """
        for text in [text for text in self._texts if len(text.ids) - text.start > self.block_size]:
            self._forget(self._texts.index(text))
            text.start = len(text.ids) - max(1, self.block_size // 2)
            self._new.append(text)
        logits = []
        if self._texts:
            logits.append(self._cache.forward(self.model, self._tensor([text.ids[-1:] for text in self._texts])))
        logits += [self._read(text) for text in self._new]
        self._texts += self._new
        self._new = []
        logits_BV = logits[0] if len(logits) == 1 else torch.cat(logits)
        for text, token in zip(self._texts, self._choose(logits_BV), strict=True):
            text.ids.append(token)
        return self._texts.copy(), logits_BV

    def _read(self, text: Text) -> Tensor:
        """(1, V); the text becomes a row of the cache."""
        ids_1T = self._tensor([text.ids[text.start :]])
        cache = KVCache(self.model.config.n_layer, ids_1T.size(1))
        logits_1V: Tensor = self.model(ids_1T, cache)[:, -1]
        self._cache.append(cache)
        return logits_1V

    def _forget(self, row: int) -> None:
        self._cache.remove(row)
        self._texts[row] = self._texts[-1]
        self._texts.pop()

    def _choose(self, logits_BV: Tensor) -> list[int]:
        """The next token of each text; those that are decoded alike together."""
        alike: dict[tuple[Decoding, int], list[int]] = {}
        for row, text in enumerate(self._texts):
            apart = row if text.decoding.repetition_penalty != 1 else 0  # what it has seen is as long as it is
            alike.setdefault((text.decoding, apart), []).append(row)
        next_B = [0] * len(self._texts)
        for (decoding, _), rows in alike.items():
            texts = [self._texts[row] for row in rows]
            seen_BT = self._tensor([text.ids[text.start :] if len(rows) == 1 else [] for text in texts])
            uniform_B1 = torch.tensor([[text.uniform()] for text in texts], dtype=torch.float64, device=self.device)
            of_these_BV = logits_BV if len(alike) == 1 else logits_BV[rows]
            for row, token in zip(rows, decoding.choose(of_these_BV, seen_BT, uniform_B1)[:, 0].tolist(), strict=True):
                next_B[row] = token
        return next_B

    def _tensor(self, ids: list[list[int]]) -> Tensor:
        return torch.tensor(ids, dtype=torch.long, device=self.device)


def rows_at_once(model: GPT, most: int) -> int:
    """How many texts may be written side by side: at most `most`, and no more than have room in a gigabyte."""
    return max(1, min(most, FLOATS // (model.config.block_size * 2 * model.config.n_layer * model.cache_width)))
