"""Calling modules directly: nothing that hangs on a call is lost, and nothing stays behind."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from troupe.kernels.layers import calling_directly
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2


@pytest.fixture
def model() -> GPT:
    model = GPT(GPTConfig(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=8, dropout=0.0))
    init_gpt2(model, torch.Generator().manual_seed(0))
    return model


@pytest.fixture
def ids_BT() -> Tensor:
    return torch.arange(6).view(2, 3)


def test_the_same_comes_out(model: GPT, ids_BT: Tensor) -> None:
    expected = model(ids_BT)
    with calling_directly(model):
        assert model(ids_BT).equal(expected)


def test_hooks_are_called_all_the_same(model: GPT, ids_BT: Tensor) -> None:
    seen: list[str] = []
    model.blocks[0].register_forward_pre_hook(lambda *_: seen.append("before"))
    model.blocks[1].register_forward_hook(lambda *_: seen.append("after"))
    with calling_directly(model):
        model(ids_BT)
    assert seen == ["before", "after"]


def test_afterwards_a_new_hook_is_called_again(model: GPT, ids_BT: Tensor) -> None:
    with pytest.raises(KeyError), calling_directly(model):
        raise KeyError
    seen: list[nn.Module] = []
    for module in model.modules():
        module.register_forward_hook(lambda module, *_: seen.append(module))
    model(ids_BT)
    assert model in seen
    assert model.blocks[1].mlp.output in seen


def test_a_hook_of_all_modules_is_called(model: GPT, ids_BT: Tensor) -> None:
    seen: list[nn.Module] = []
    handle = register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        with calling_directly(model):
            model(ids_BT)
    finally:
        handle.remove()
    assert len(seen) > len(model.blocks)


def test_what_is_compiled_inside_stays_compiled(model: GPT) -> None:
    with calling_directly(model):
        model.compile(backend="eager")
        compiled = model._compiled_call_impl
    assert model._compiled_call_impl is compiled
    assert model.blocks[0]._compiled_call_impl is None


def test_what_torch_has_compiled_stays_compiled(model: GPT, ids_BT: Tensor) -> None:
    model.compile(backend="eager")
    compiled = model._compiled_call_impl
    with calling_directly(model), calling_directly(model):
        assert model._compiled_call_impl is compiled
    assert model._compiled_call_impl is compiled
