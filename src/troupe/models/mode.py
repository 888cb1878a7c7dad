"""Training mode and eval mode, and how modules are called."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode (no dropout) inside, whatever it was before outside."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def calling_directly(model: nn.Module) -> Iterator[None]:
    """Inside, a call of a module is a call of its `forward`, but for modules that have hooks as it begins.

    For generation: each token calls every module once, and torch's look for hooks at each call was a tenth of the time
    that one took of a model of 10.7M parameters (docs/results.md#speed).
    """
    bare = [module for module in model.modules() if not (module._forward_hooks or module._forward_pre_hooks)]
    bare = [module for module in bare if module._compiled_call_impl is None]  # where `Module.compile` puts its work
    for module in bare:
        module._compiled_call_impl = module.forward
    try:
        yield
    finally:
        for module in bare:
            module._compiled_call_impl = None
