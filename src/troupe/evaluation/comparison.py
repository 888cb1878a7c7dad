"""How well every model, and models that only count, predict the same held-out text: in bits per byte, comparable across
tokenizers.

Shapes: B windows, T tokens, V vocabulary, N tokens of the whole text.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from troupe.compute import workers
from troupe.errors import ArtifactError
from troupe.evaluation.result import Counted
from troupe.judging.protocol import HeldOut, Tick
from troupe.models import kneser_ney
from troupe.models.gpt2 import GPT
from troupe.params import EvaluateParams

LOGITS_PER_BATCH = 2**22  # 16 MB in float32: the batch shrinks as context and vocabulary grow


@dataclass(frozen=True)
class Comparison:
    """One evaluation: on which text, how, and a call for each part's figures when it is done."""

    train: str
    held_out: Mapping[str, HeldOut]  # validation and test
    params: EvaluateParams
    tick: Tick

    def likelihoods(self, models: Mapping[str, GPT]) -> dict[str, dict[str, float]]:
        """{model: {split: bits per byte}}. Raises ArtifactError, naming the model, if one is not finite."""
        with workers() as pool:
            pending = {
                (name, split): pool.submit(self._bits_per_byte, name, model, split)
                for name, model in models.items()
                for split in self.held_out
            }
            for future in pending.values():
                self.tick({"bpb": future.result()})
        return {name: {split: pending[name, split].result() for split in self.held_out} for name in models}

    def _bits_per_byte(self, name: str, model: GPT, split: str) -> float:
        text = self.held_out[split]
        total = nats(model, text.ids, self.params.stride)
        if not math.isfinite(total):
            raise ArtifactError(f"{name}: its model gives the {split} text {total} nats; its training diverged")
        return bits_per_byte(total, len(text.content))

    def ngram(self) -> Counted:
        """Kneser-Ney models of bytes."""
        contents = [text.content for text in self.held_out.values()]
        found = kneser_ney.bits_per_byte(self.train.encode(), self.params.ngram_max_order, contents)
        bpb = dict(zip(self.held_out, found, strict=True))
        by_order = {split: {str(n): value for n, value in enumerate(values, 1)} for split, values in bpb.items()}
        chosen = min(range(len(bpb["validation"])), key=bpb["validation"].__getitem__) + 1
        return Counted(order_chosen_on_validation=chosen, **by_order)


@torch.no_grad()
def nats(model: GPT, ids_N: np.ndarray, stride: int) -> float:
    """Minus the log likelihood of a whole text, in nats: every token predicted exactly once.

    Windows of `block_size` tokens overlap: each predicts the `stride` tokens that the one before it did not reach, so
    that a token sees at least `block_size - stride` tokens before it, or all there are. The first token, which nothing
    precedes, costs log(vocab_size), as under the uniform distribution.
    """
    config, device = model.config, next(model.parameters()).device
    ids = torch.from_numpy(np.asarray(ids_N, dtype=np.int64)).to(device)
    total = math.log(config.vocab_size) if len(ids) else 0.0
    batch = max(1, LOGITS_PER_BATCH // (config.block_size * config.vocab_size))
    for starts_B, length, new in windows(len(ids) - 1, config.block_size, stride, batch):
        x_BT = torch.stack([ids[start : start + length] for start in starts_B])
        y_BT = torch.stack([ids[start + 1 : start + 1 + length] for start in starts_B])
        logits_BTV = model(x_BT)[:, -new:].float()
        losses = functional.cross_entropy(logits_BTV.flatten(0, 1), y_BT[:, -new:].flatten(), reduction="none")
        total += losses.double().sum().item()
    return total


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """nats / (ln 2 * bytes of the UTF-8 text); lower is better. A token-level loss cannot be compared so."""
    return nats / (math.log(2) * n_bytes)


def windows(targets: int, block_size: int, stride: int, batch: int) -> Iterator[tuple[list[int], int, int]]:
    """Cover `targets` predictions: batches of (starts_B, length, new), where the last `new` of `length` are counted.

    The first window counts all its predictions, each later one `stride`, and the last one, which ends with the text,
    what is left.
    """
    first = min(block_size, targets)
    if first <= 0:
        return
    yield [0], first, first
    whole = range(stride, targets - block_size + 1, stride)
    for i in range(0, len(whole), batch):
        yield list(whole[i : i + batch]), block_size, stride
    if left := (targets - first) % stride:
        yield [targets - block_size], block_size, left
