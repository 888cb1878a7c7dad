"""A model with a temperature in it is the model, sampled at that temperature."""

import pytest
import torch

from troupe.adversarial.temperature import at_temperature
from troupe.decoding import Decoding, generate
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.seeding import generator

IDS_BT = torch.arange(12).view(2, 6) % 7


def model_of(norm: str, bias: bool) -> GPT:
    config = GPTConfig(vocab_size=7, block_size=16, n_layer=2, n_head=2, n_embd=8, dropout=0.0, norm=norm, bias=bias)  # type: ignore[arg-type]
    model = GPT(config).eval()
    init_gpt2(model, generator(1, "init"))
    with torch.no_grad():
        for parameter in model.norm.parameters():  # as after training: a bias of 0 would hide that it is divided too
            parameter += torch.randn(parameter.shape, generator=generator(2, "norm"))
    return model


@pytest.mark.parametrize(("norm", "bias"), [("layer", True), ("layer", False), ("rms", False)])
@pytest.mark.parametrize("temperature", [0.5, 0.85, 2.0])
@torch.no_grad()
def test_logits_are_divided(norm: str, bias: bool, temperature: float) -> None:
    """To some units in the last place of the largest term: each of 8 products is rounded, and their sums."""
    model = model_of(norm, bias)
    before_BTV, after_BTV = (one(IDS_BT) for one in (model, at_temperature(model, temperature)))
    terms_BTV = model.hidden(IDS_BT).abs() @ model.token_embedding.weight.abs().T
    assert ((after_BTV - before_BTV / temperature).abs() <= 16 * 2**-23 * terms_BTV / temperature).all()


def test_it_writes_what_the_model_writes_at_that_temperature() -> None:
    model = model_of("rms", False)
    at_half = generate(model, IDS_BT, 8, Decoding(temperature=0.5), [1, 2])
    assert generate(at_temperature(model, 0.5), IDS_BT, 8, Decoding(), [1, 2]).equal(at_half)
    assert not generate(model, IDS_BT, 8, Decoding(), [1, 2]).equal(at_half)
