"""Calling modules without torch's look for hooks.

It can go once `python -m benchmarks.generation` shows no difference without it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.module import _has_any_global_hook


@contextmanager
def calling_directly(model: nn.Module) -> Iterator[None]:
    """Inside, a call of a module is a call of its `forward`, but for modules that have forward hooks as it begins.

    For generation, without gradients: each token calls every module once, and torch's look for hooks at each call was
    3 to 12 % of the time that one took of a model of 10.7M parameters (docs/results/2026-11-22-generation-speed.md).
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
