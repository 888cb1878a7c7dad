"""Dropout (Srivastava et al. 2014) whose mask is computed on a CPU, not drawn: a hash of each element's number, under a
key of 64 random bits from torch's generator. There torch draws element by element, from one sequence or in scalar code,
which was over a quarter of a compiled training step. These are a few integer operations that torch.compile fuses into
their neighbours, and the backward pass may compute them again instead of keeping a mask. For GPUs torch's own does. It
can go once torch draws in vector code on CPUs (`python -m benchmarks.training`, compiled rows).
"""

import torch
from torch import Tensor

MULTIPLIERS = (-2048144789, -1028477387)  # 0x85ebca6b and 0xc2b2ae35 as int32: those of MurmurHash3's last step


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """In training each element is 0 with probability `p`, to 2^-31, or else x / (1 - p); otherwise `x` itself."""
    if not training or p == 0:
        return x
    if x.device.type != "cpu":
        return torch.dropout(x, p, training)
    # 0 or 1 by arithmetic: torch.compile reads and writes a Boolean mask element by element
    kept = ((_uniform(x) - round(p * 2**31)) >> 31) + 1
    return x * (kept.view(x.shape).type_as(x) * (1 / (1 - p)))


def _uniform(x: Tensor) -> Tensor:
    """An int32 from 0 to 2^31 - 1 for each of x's elements."""
    key, second_key = torch.randint(-(2**31), 2**31, (2,)).int().unbind()
    number_N = torch.arange(x.numel(), dtype=torch.int32)
    mixed_N = _fold(number_N + key, 16) * MULTIPLIERS[0]
    mixed_N = (_fold(mixed_N, 13) ^ second_key) * MULTIPLIERS[1]
    return (_fold(mixed_N, 16) >> 1) & (2**31 - 1)


def _fold(bits: Tensor, shift: int) -> Tensor:
    """Each number XOR its own upper bits, shifted down by `shift` as if they were unsigned."""
    folded: Tensor = bits ^ ((bits >> shift) & (2 ** (32 - shift) - 1))
    return folded
