"""The loss of a language model, of a batch and of a whole split.

B sequences, T tokens of context, V vocabulary, N tokens of the split.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from troupe.data.dataset import Ids
from troupe.models.gpt2 import GPT

LOOKED_AT = 2**20  # tokens at most: a look must stay short beside the steps between two looks
LOGITS_PER_BATCH = 2**22  # 16 MB in float32: the batch shrinks as context and vocabulary grow
Autocast = Callable[[], AbstractContextManager[object]]  # the precision of a forward pass


def cross_entropy(
    model: Callable[[Tensor], Tensor],
    x_BT: Tensor,
    y_BT: Tensor,
    autocast: Autocast,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """-ln p(y | x) in nats, per token or summed. Logits become float32 first: a sum over V in bfloat16 loses digits."""
    with autocast():
        logits_BTV = model(x_BT)
    return F.cross_entropy(logits_BTV.float().flatten(0, 1), y_BT.flatten(), reduction=reduction)


@torch.no_grad()
def validate(model: GPT, ids_N: Ids, n_bytes: int, autocast: Autocast) -> dict[str, float]:
    """{"val/loss": nats per token, "val/bpb": bits per byte of UTF-8 text}; lower is better for both: of a split, or
    its beginning where it is very long, in windows side by side.

    A token sees what precedes it in its window only, half a context on average, so these figures lie a little above
    those of evaluation's overlapping windows. The first token of the split, which nothing precedes, costs ln V.
    `n_bytes` is the length of the whole split; of a part its bytes are taken to be as many per token.
    Leaves the model in training mode.
    """
    model.eval()
    seen_N, nats = ids_N[:LOOKED_AT], math.log(model.config.vocab_size)
    for x_BT, y_BT in _windows(model, seen_N):
        nats += cross_entropy(model, x_BT, y_BT, autocast, reduction="sum").item()
    model.train()
    loss = nats / len(seen_N)
    return {"val/loss": loss, "val/bpb": loss * len(ids_N) / (math.log(2) * n_bytes)}


def _windows(model: GPT, ids_N: Ids) -> Iterator[tuple[Tensor, Tensor]]:
    """Every token but the first as a target once: batches of whole windows, then the shorter last one."""
    T, device = model.config.block_size, next(model.parameters()).device
    ids = torch.from_numpy(np.asarray(ids_N, dtype=np.int64)).to(device)
    whole = (len(ids) - 1) // T * T
    batch = max(1, LOGITS_PER_BATCH // (T * model.config.vocab_size)) * T
    for start in range(0, whole, batch):
        end = min(start + batch, whole)
        yield ids[start:end].view(-1, T), ids[start + 1 : end + 1].view(-1, T)
    if whole < len(ids) - 1:
        yield ids[None, whole:-1], ids[None, whole + 1 :]
