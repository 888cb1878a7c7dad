"""Layers, and calls of them, that cost less than torch's own; each says when it can go."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

FEW_ROWS = (16, 32, 48)  # whole vectors of float32: so many make the product of `Linear` faster the other way around,
WIDE = 256  # if they are as wide
MULTIPLIERS = (-2048144789, -1028477387)  # 0x85ebca6b and 0xc2b2ae35 as int32: those of MurmurHash3's last step


class Linear(nn.Linear):
    """nn.Linear, but where some texts are generated side by side, a token of each at a time, by y^T = W x^T.

    For 16 rows of float32, 384 to 1,536 wide, MKL needs 3/5 of the time of x W^T then. What comes out is strided, at a
    tenth of what is saved. It can go once `python -m benchmarks.generation` shows no difference for 16 texts.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.in_features >= WIDE and _is_one_token_of_some_texts(x)):
            return F.linear(x, self.weight, self.bias)
        x_DB = x.squeeze(1).T
        y_FB = self.weight @ x_DB if self.bias is None else torch.addmm(self.bias.unsqueeze(1), self.weight, x_DB)
        return y_FB.T.unsqueeze(1)


def _is_one_token_of_some_texts(x: Tensor) -> bool:
    if torch.is_grad_enabled() or x.dim() != 3 or x.size(1) != 1 or x.size(0) not in FEW_ROWS:
        return False
    return x.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """In training each element is 0 with probability `p`, to 2^-31, or else x / (1 - p); otherwise `x` itself.

    Dropout (Srivastava et al. 2014) whose mask is computed on a CPU, not drawn: a hash of each element's number, under
    a key of 64 random bits from torch's generator. There torch draws element by element, from one sequence or in scalar
    code, which was over a quarter of a compiled training step. These are a few integer operations that torch.compile
    fuses into their neighbours, and the backward pass may compute them again instead of keeping a mask. For GPUs
    torch's own does. It can go once torch draws in vector code on CPUs (compiled rows of `python -m
    benchmarks.training`).
    """
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


@contextmanager
def calling_directly(model: nn.Module) -> Iterator[None]:
    """Inside, a call of a module is a call of its `forward`, but for modules that have forward hooks as it begins.

    For generation, without gradients: each token calls every module once, and torch's look for hooks at each call was
    3 to 12 % of the time that one took of a model of 10.7M parameters (docs/results/2026-11-22-generation-speed.md). It
    can go once `python -m benchmarks.generation` shows no difference without it.
    """
    hooked = bool(_has_any_global_hook())  # type: ignore[no-untyped-call]
    bare = [module for module in model.modules() if not hooked and _is_bare(module)]
    try:
        for module in bare:
            module._compiled_call_impl = module.forward
        yield
    finally:
        for module in bare:
            if module._compiled_call_impl == module.forward:
                module._compiled_call_impl = None


def _is_bare(module: nn.Module) -> bool:
    compiled = module._compiled_call_impl is not None  # where `Module.compile` puts its work
    return not (compiled or module._forward_hooks or module._forward_pre_hooks)
