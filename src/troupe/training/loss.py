"""The loss of a language model. B sequences, T tokens, V vocabulary."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

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
