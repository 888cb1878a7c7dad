"""The tilt against its formula in float64, its limits, the cache, and a bundle of it."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.models.test_ngrams import text
from troupe.bundles.architectures import load_bundle
from troupe.bundles.bundle import save_bundle
from troupe.data.bpe import make_tokenizer
from troupe.decoding import Decoding, generate
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.layers import KVCache
from troupe.models.ngrams import NGrams
from troupe.models.switchhead import SwitchHead, SwitchHeadConfig
from troupe.models.tilted import NUMBERS, Evidence, Tilted, tilted
from troupe.seeding import generator

V = 11


def network() -> GPT:
    model = GPT(GPTConfig(vocab_size=V, block_size=16, n_layer=2, n_head=2, n_embd=8, dropout=0.0))
    init_gpt2(model, generator(1, "tilted"))
    torch.nn.init.normal_(model.token_embedding.weight, generator=generator(2, "tilted"))
    return model.eval()


def model(*tilt: float) -> Tilted:
    found = tilted(network(), NGrams.counted(text(500, 1, V), 4, V))
    found.tilt.data[: len(tilt)] = torch.tensor(tilt)
    return found


def ids(*shape: int) -> Tensor:
    return torch.from_numpy(text(math.prod(shape), 9, V).astype(np.int64)).view(*shape)


def by_formula(p: list[float], q: list[float], tilt: list[float]) -> list[float]:
    """p(t) exp(theta . phi(t)), normalised: the module's docstring, one token after the other."""
    u = [[min(2.0, -math.log(x) / math.log(V)) for x in one] for one in (p, q)]
    h_1, h_2 = (sum(x * s for x, s in zip(one, of, strict=True)) for one, of in zip((p, q), u, strict=True))
    weights = []
    for t in range(V):
        z_1, z_2 = h_1 - u[0][t], h_2 - u[1][t]
        phi = [z_1, z_2, z_1**2, z_1 * z_2, z_2**2, h_1 * z_1, h_2 * z_1, h_1 * z_2, h_2 * z_2]
        weights.append(p[t] * math.exp(sum(a * b for a, b in zip(tilt, phi, strict=True))))
    return [weight / sum(weights) for weight in weights]


def test_equals_its_formula() -> None:
    rng = generator(3, "formula")
    p_V, q_V = torch.randn(2, V, generator=rng, dtype=torch.float64).mul(2).softmax(-1)
    tilt = torch.randn(NUMBERS, generator=rng, dtype=torch.float64)
    found_V = Evidence.of(p_V.log()[None, None], q_V.log()[None, None]).logits(tilt).softmax(-1)[0, 0]
    assert found_V.tolist() == pytest.approx(by_formula(p_V.tolist(), q_V.tolist(), tilt.tolist()), rel=1e-12)


def test_without_a_tilt_it_says_what_the_network_says() -> None:
    x_BT = ids(2, 12)
    assert torch.equal(model()(x_BT), network()(x_BT).log_softmax(-1))


def test_the_linear_part_is_a_product_of_powers() -> None:
    """Where no token is so unlikely that its surprisal is cut."""
    p_BTV, q_BTV = torch.randn(2, 3, 4, V, generator=generator(5, "product")).mul(0.5).log_softmax(-1)
    tilt = torch.tensor([-0.4, 0.3, *[0.0] * 7]) * math.log(V)
    product_BTV = (0.6 * p_BTV + 0.3 * q_BTV).softmax(-1)
    assert torch.allclose(Evidence.of(p_BTV, q_BTV).logits(tilt).softmax(-1), product_BTV, atol=1e-6)


def test_no_tilt_makes_a_token_impossible() -> None:
    assert model(*[3.0] * NUMBERS)(ids(4, 12)).isfinite().all()


def test_cached_equals_uncached() -> None:
    found, x_BT, cache = model(-1.0, 2.0, 0.3, -0.5, 0.2, 0.1, 0.4, -0.2, 0.3), ids(3, 14), KVCache(2, 14)
    steps = [found(x_BT[:, :5], cache), *(found(x_BT[:, i : i + 1], cache) for i in range(5, 14))]
    assert torch.allclose(torch.cat(steps, dim=1), found(x_BT), atol=1e-5)


def test_a_text_depends_on_its_prompt_and_seed_alone_also_beyond_the_context() -> None:
    found, prompts_BT = model(-1.0, 2.0), ids(3, 6)
    together_BT = generate(found, prompts_BT, 30, Decoding(), [7, 8, 9])
    assert torch.equal(together_BT[1:2], generate(found, prompts_BT[1:2], 30, Decoding(), [8]))


def test_making_one_leaves_the_network_alone() -> None:
    start = network()
    found = tilted(start, NGrams.counted(text(500, 1, V), 2, V))
    with torch.no_grad():
        found.blocks[0].get_submodule("attention").output.weight.zero_()  # type: ignore[union-attr, operator]
    assert all(map(torch.equal, start.state_dict().values(), network().state_dict().values()))


@pytest.mark.parametrize("with_experts", [False, True])
def test_a_bundle_brings_back_the_same_model(with_experts: bool, tmp_path: Path) -> None:
    tokenizer = make_tokenizer("bytes", [], 257)
    config = GPTConfig(tokenizer.vocab_size, block_size=16, n_layer=1, n_head=2, n_embd=8, dropout=0.0)
    experts = SwitchHeadConfig(n_head=2, head_width=4, n_expert=3, top_k=2, router="sigmoid")
    base = GPT(config, lambda of: SwitchHead(of, experts)) if with_experts else GPT(config)
    init_gpt2(base, generator(4, "bundle"))
    found = tilted(base.eval(), NGrams.counted(text(400, 1, 250), 3, config.vocab_size))
    found.tilt.data.copy_(torch.linspace(-1, 1, NUMBERS))
    sha256 = save_bundle(tmp_path, found, tokenizer, {})
    loaded = load_bundle(tmp_path)
    assert loaded.sha256 == sha256
    assert isinstance(loaded.model, Tilted)
    assert torch.equal(loaded.model(ids(2, 12)), found(ids(2, 12)))
