"""How well a model predicts a text: bits per byte, comparable across tokenizers.

Shapes: B windows, T tokens, V vocabulary, N tokens of the whole text.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional

from troupe.models.gpt2 import GPT

LOGITS_PER_BATCH = 2**22  # 16 MB in float32: the batch shrinks as context and vocabulary grow


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
