"""Products the other way around: the same result."""

import pytest
import torch

from troupe.kernels.layers import WIDE, Linear


@pytest.mark.parametrize("bias", [True, False])
def test_a_token_of_each_of_16_texts_is_multiplied_the_other_way_around_with_the_same_result(bias: bool) -> None:
    torch.manual_seed(0)
    layer, x_BTD = Linear(WIDE, 40, bias=bias), torch.randn(16, 1, WIDE)
    with torch.no_grad():
        y_BTF = layer(x_BTD)
        exact = torch.nn.functional.linear(x_BTD.double(), layer.weight.double(), layer.bias.double() if bias else None)
    assert y_BTF.squeeze(1).T.is_contiguous()
    # a sum of WIDE products, each rounded and so is every partial sum, whatever their order
    most = (x_BTD.abs() @ layer.weight.abs().T).max() + 1
    assert (y_BTF - exact).abs().max() <= WIDE * torch.finfo(torch.float32).eps * most


@pytest.mark.parametrize("shape", [(15, 1, WIDE), (16, 2, WIDE), (64, 1, WIDE), (16, WIDE)])
def test_other_inputs_are_multiplied_as_they_are(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = Linear(WIDE, 40), torch.randn(shape)
    with torch.no_grad():
        assert layer(x).equal(torch.nn.functional.linear(x, layer.weight, layer.bias))
    assert layer(torch.randn(16, 1, WIDE)).is_contiguous()  # with a gradient to come
