"""Which optimiser holds which parameter, and that the updates are the ones the papers state."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Muon

from troupe.conversion.attention import convert
from troupe.models.gpt2 import GPT
from troupe.models.switchhead import SwitchHeadConfig
from troupe.seeding import generator
from troupe.training.optim import build_optimizers, set_rate

EXPERTS = SwitchHeadConfig(n_head=2, head_width=8, n_expert=4, top_k=2, router="sigmoid")


@pytest.fixture
def names(model: GPT) -> dict[int, str]:
    return {id(parameter): name for name, parameter in model.named_parameters()}


def of(optimizer: torch.optim.Optimizer, names: dict[int, str]) -> set[str]:
    return {names[id(p)] for group in optimizer.param_groups for p in group["params"]}


def test_muon_holds_the_matrices_of_the_blocks_and_adamw_the_rest(
    model: GPT, names: dict[int, str], train_params: Any
) -> None:
    muon, adamw = build_optimizers(model, train_params())
    assert isinstance(muon, Muon)
    assert isinstance(adamw, AdamW)
    in_a_block = {"attention.query_key_value", "attention.output", "mlp.input", "mlp.output"}
    assert of(muon, names) == {f"blocks.{layer}.{name}.weight" for layer in (0, 1) for name in in_a_block}
    assert of(adamw, names) == set(names.values()) - of(muon, names)


def test_a_head_of_its_own_is_no_matrix_of_the_blocks(model: GPT, train_params: Any) -> None:
    untied = GPT(replace(model.config, tied=False))
    assert untied.head is not None
    muon, adamw = build_optimizers(untied, train_params())
    assert id(untied.head.weight) in {id(weight) for weight in adamw.param_groups[0]["params"]}
    assert id(untied.head.weight) not in {id(weight) for weight in muon.param_groups[0]["params"]}


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("experts", [False, True])
def test_every_parameter_is_held_once(model: GPT, train_params: Any, optimizer: str, experts: bool) -> None:
    if experts:
        model = convert(
            model,
            SwitchHeadConfig(n_head=2, head_width=8, n_expert=4, top_k=2, router="sigmoid"),
            "exact",
            generator(0, "test"),
        )
    held = [
        p
        for o in build_optimizers(model, train_params(optimizer=optimizer))
        for g in o.param_groups
        for p in g["params"]
    ]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))


def test_experts_go_to_muon_and_routers_to_adamw(model: GPT, train_params: Any) -> None:
    model = convert(
        model,
        SwitchHeadConfig(n_head=2, head_width=8, n_expert=4, top_k=2, router="sigmoid"),
        "exact",
        generator(0, "test"),
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    muon, adamw = build_optimizers(model, train_params())
    assert "blocks.0.attention.value.weight" in of(muon, names)
    assert "blocks.0.attention.router.weight" in of(adamw, names)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_weight_decay_alone_shrinks_the_matrices_and_nothing_else(
    model: GPT, train_params: Any, optimizer: str
) -> None:
    """With a zero gradient a step is decay alone: w <- w (1 - rate * decay)."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for one in build_optimizers(model, train_params(optimizer=optimizer, learning_rate=0.5, weight_decay=0.2)):
        one.step()
    for name, parameter in model.named_parameters():
        decays = name.startswith("blocks") and parameter.dim() == 2
        torch.testing.assert_close(parameter.detach(), before[name] * (0.9 if decays else 1.0))


def test_a_step_of_muon_is_the_orthogonal_factor_of_the_gradient(train_params: Any) -> None:
    """Without momentum's history Nesterov's direction is a multiple of G = U S V^T, and the step is rate * U V^T, each
    singular value within [0.6, 1.3] of 1, the tolerance of the quintic Newton-Schulz iteration."""
    layer = nn.Linear(6, 4, bias=False)
    before = layer.weight.detach().clone()
    torch.manual_seed(0)
    layer.weight.grad = torch.randn(4, 6)
    (muon, _) = build_optimizers(
        nn.Sequential(layer, nn.LayerNorm(4)), train_params(learning_rate=0.1, weight_decay=0.0)
    )
    muon.step()
    step = (before - layer.weight.detach()) / 0.1
    U, _, Vh = torch.linalg.svd(layer.weight.grad, full_matrices=False)
    in_the_gradients_axes = U.T @ step @ Vh.T
    assert torch.linalg.svdvals(step).min() > 0.6
    assert torch.linalg.svdvals(step).max() < 1.3
    torch.testing.assert_close(in_the_gradients_axes, torch.eye(4), atol=0.45, rtol=0)
    assert (in_the_gradients_axes - torch.diag(in_the_gradients_axes.diag())).abs().max() < 0.1


def test_the_rate_is_the_factor_times_that_of_the_parameters(model: GPT, train_params: Any) -> None:
    optimizers = build_optimizers(model, train_params(learning_rate=0.4, adamw_learning_rate=0.2))
    set_rate(optimizers, 0.5)
    set_rate(optimizers, 0.25)  # of the rate in params, not of the last one
    assert [group["lr"] for one in optimizers for group in one.param_groups] == pytest.approx([0.1, 0.05])
