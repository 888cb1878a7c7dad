"""Laws of the dense model: causality, the cache, initialisation, tied weights, precision."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.numerics import rounded_share, roundings_of_forward
from troupe.kernels.layers import WIDE
from troupe.models.config import GPTConfig, dense
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.layers import MLP, CausalConv, KVCache, LayerCache, QueryKey

CONFIG = GPTConfig(vocab_size=50, block_size=16, n_layer=3, n_head=2, n_embd=24, dropout=0.2)
MODERN = replace(CONFIG, positions="rotary", norm="rms", activation="relu2", qk_norm=True, conv=4, bias=False)
GATED = replace(CONFIG, activation="swiglu", conv=2)
GROUPED = replace(
    MODERN, n_head=6, n_kv_head=2, head_width=4, mlp_width=20, rotary_base=500.0, norm_eps=1e-4, tied=False, conv=0
)
FAMILIES = {"gpt2": CONFIG, "modern": MODERN, "gated": GATED, "grouped": GROUPED}
families = pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)


def model(config: GPTConfig = CONFIG, seed: int = 0) -> GPT:
    gpt = GPT(config)
    init_gpt2(gpt, torch.Generator().manual_seed(seed))
    return gpt.eval()


def ids(B: int, T: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, CONFIG.vocab_size, (B, T), generator=torch.Generator().manual_seed(seed))


def stirred(config: GPTConfig) -> GPT:
    """In float64, with every parameter away from where it starts: convolutions and gains do something."""
    gpt = model(config).double()
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    return gpt


@families
def test_no_token_sees_a_later_one(config: GPTConfig) -> None:
    before, gpt = ids(2, 16), stirred(config)
    after = before.clone()
    after[:, 9:] = (after[:, 9:] + 1) % CONFIG.vocab_size
    changed = (gpt(before) - gpt(after)).abs().amax((0, 2))
    assert (changed[:9] == 0).all()
    assert (changed[9:] > 0).all()


@families
@pytest.mark.parametrize("pieces", [[16], [1] * 16, [5, 1, 7, 3]])
def test_tokens_fed_in_pieces_through_the_cache_give_the_logits_of_the_whole(
    pieces: list[int], config: GPTConfig
) -> None:
    gpt, whole = stirred(config), ids(3, 16)
    cache = KVCache(CONFIG.n_layer, CONFIG.block_size)
    with torch.no_grad():
        logits = torch.cat([gpt(piece, cache) for piece in whole.split(pieces, dim=1)], dim=1)
        torch.testing.assert_close(logits, gpt(whole), atol=1e-12, rtol=0)
    assert cache.length == 16


def test_a_sequence_does_not_see_its_neighbours_in_the_batch() -> None:
    gpt, batch = model().double(), ids(4, 8)
    torch.testing.assert_close(gpt(batch)[2:3], gpt(batch[2:3]), atol=1e-12, rtol=0)


def test_more_tokens_than_the_context_are_refused() -> None:
    cache = KVCache(CONFIG.n_layer, CONFIG.block_size)
    gpt = model()
    with torch.no_grad():
        gpt(ids(1, 16), cache)
    with pytest.raises(ValueError, match="17 tokens do not fit a context of 16"):
        gpt(ids(1, 1), cache)


def test_parameter_count() -> None:
    """Per block 12 D^2 + 13 D; embeddings (V + T) D; final norm 2 D; the head is tied and adds none."""
    D, V, T, L = 24, 50, 16, 3
    assert sum(p.numel() for p in model().parameters()) == L * (12 * D * D + 13 * D) + (V + T) * D + 2 * D
    assert sum(t.numel() for t in model().state_dict().values()) == sum(p.numel() for p in model().parameters())


def test_initialisation_has_gpt2s_spread() -> None:
    """N(0, 0.04) at a quarter of 768 features; on the 2 * 8 = 16 projections onto the residual stream a quarter."""
    gpt = model(GPTConfig(vocab_size=500, block_size=64, n_layer=8, n_head=4, n_embd=192, dropout=0.0))
    for name, parameter in gpt.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            std = 0.01 if name.endswith("output.weight") else 0.04
            assert parameter.std().item() == pytest.approx(std, rel=0.05), name


def test_the_seed_decides_the_weights_and_nothing_else_does() -> None:
    torch.manual_seed(1)
    first = model(seed=7).state_dict()
    torch.manual_seed(2)
    again, other = model(seed=7).state_dict(), model(seed=8).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["token_embedding.weight"], other["token_embedding.weight"])


def test_an_untrained_model_is_nearly_indifferent() -> None:
    """The logits are a unit vector's products with embeddings, N(0, 0.02^2 * 768): ln V and half that variance."""
    loss = torch.nn.functional.cross_entropy(model()(ids(8, 16)).flatten(0, 1), ids(8, 16, seed=1).flatten())
    assert loss.item() == pytest.approx(torch.tensor(50.0).log().item() + 0.15, abs=0.1)


def test_dropout_acts_in_training_only() -> None:
    gpt, batch = model(), ids(2, 8)
    assert torch.equal(gpt(batch), gpt(batch))
    gpt.train()
    assert not torch.equal(gpt(batch), gpt(batch))


@families
def test_bfloat16_autocast_stays_close_and_trains(config: GPTConfig) -> None:
    gpt, batch = model(config), ids(2, 8)
    with torch.autocast("cpu", torch.bfloat16):
        logits = gpt(batch)
    assert logits.dtype == torch.bfloat16
    exact = gpt(batch)
    assert (logits.float() - exact).norm() <= rounded_share(
        roundings_of_forward(config.n_layer), torch.bfloat16
    ) * exact.norm()
    logits.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in gpt.parameters())


def test_rotated_queries_and_keys_meet_by_distance_alone() -> None:
    """q at position m and k at position n: their product depends on m - n (RoFormer, equation 11)."""
    prepare = QueryKey(replace(CONFIG, positions="rotary"), CONFIG.n_embd // CONFIG.n_head).double()
    q, k = (torch.randn(1, 1, 1, 12, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in (1, 2))

    def product(m: int, n: int) -> float:
        return float((prepare(q, k, m)[0] * prepare(q, k, n)[1]).sum())

    assert product(9, 4) == pytest.approx(product(5, 0), rel=1e-6)  # the angles are kept in float32
    assert product(9, 4) != pytest.approx(product(9, 5), rel=1e-2)
    assert product(3, 3) == pytest.approx(float((q * k).sum()), rel=1e-6)


def test_rotation_turns_pairs_by_the_published_angles() -> None:
    """(1, 0) in the pair (i, i + K/2) becomes (cos, sin) of position * 10000^(-2i/K)."""
    x = torch.zeros(1, 1, 1, 12)
    x[..., 1] = 1
    turned, _ = QueryKey(replace(CONFIG, positions="rotary"), CONFIG.n_embd // CONFIG.n_head)(x, x, 3)
    angle = torch.tensor(3 * 10_000 ** (-2 / 12))
    expected = torch.zeros(12)
    expected[1], expected[7] = angle.cos(), angle.sin()
    torch.testing.assert_close(turned.flatten(), expected)


def test_normed_queries_and_keys_have_length_sqrt_k_whatever_they_were() -> None:
    prepare, q = QueryKey(replace(CONFIG, qk_norm=True), 12), 100 * torch.randn(2, 2, 5, 12)
    for x in prepare(q, 0.1 * q, 0):
        torch.testing.assert_close(x.norm(dim=-1), torch.full((2, 2, 5), 12**0.5), rtol=1e-4, atol=0)


def test_the_three_activations_by_hand() -> None:
    for activation in ("gelu", "relu2", "swiglu"):
        mlp, x = MLP(replace(CONFIG, activation=activation, bias=False, dropout=0.0)), torch.randn(2, 3, 24)
        hidden = x @ mlp.input.weight.T
        gate, up = hidden.chunk(2, -1)
        cubic = 0.044715 * hidden**3
        expected = {
            "gelu": 0.5 * hidden * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (hidden + cubic))),
            "relu2": hidden.clamp(min=0) ** 2,
            "swiglu": gate / (1 + torch.exp(-gate)) * up,
        }[activation]
        torch.testing.assert_close(mlp(x), expected @ mlp.output.weight.T)


def test_a_gated_mlp_costs_what_a_plain_one_does() -> None:
    plain, gated = (sum(p.numel() for p in MLP(replace(CONFIG, activation=a)).parameters()) for a in ("gelu", "swiglu"))
    assert gated == pytest.approx(plain, rel=0.02)


def test_the_convolution_is_torchs_own_over_the_past() -> None:
    conv, x_BTD = CausalConv(24, 4), torch.randn(2, 9, 24)
    assert torch.equal(conv(x_BTD), x_BTD)  # before it has learned anything
    torch.nn.init.normal_(conv.weight)
    kernel = conv.weight.flip(0).T.unsqueeze(1)  # torch counts a kernel from the oldest
    mixed = F.conv1d(F.pad(x_BTD.transpose(1, 2), (3, 0)), kernel, groups=24).transpose(1, 2)
    torch.testing.assert_close(conv(x_BTD), x_BTD + mixed)
    cache = LayerCache(9)
    one_by_one = torch.cat([conv(x_B1D, cache) for x_B1D in x_BTD.split(1, dim=1)], dim=1)
    torch.testing.assert_close(one_by_one, x_BTD + mixed)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_heads_of_a_width_of_their_own(positions: str) -> None:
    """The width of a head scales nothing else: as wide as n_embd / n_head it is the default, to the bit."""
    usual = replace(CONFIG, positions=positions, qk_norm=True)
    stated, narrow = (replace(usual, head_width=width) for width in (CONFIG.n_embd // CONFIG.n_head, 2))
    models = [GPT(config).eval() for config in (usual, stated, narrow)]
    for model in models:
        init_gpt2(model, torch.Generator().manual_seed(0))
    ids = torch.randint(0, CONFIG.vocab_size, (2, CONFIG.block_size))
    assert torch.equal(models[0](ids), models[1](ids))
    assert models[2](ids).shape == models[0](ids).shape
    attention = models[2].blocks[0].attention
    assert attention.query_key_value.weight.shape == (3 * 2 * CONFIG.n_head, CONFIG.n_embd)
    assert attention.output.weight.shape == (CONFIG.n_embd, 2 * CONFIG.n_head)


def test_16_texts_through_the_cache_have_the_logits_of_the_whole() -> None:
    """In single precision and 256 wide, where `Linear` takes the other way; as close as one text through the cache."""
    config = GPTConfig(vocab_size=50, block_size=8, n_layer=2, n_head=4, n_embd=WIDE, dropout=0.0)
    gpt = GPT(config).eval()
    init_gpt2(gpt, torch.Generator().manual_seed(0))
    batch, cache = ids(16, 8), KVCache(2, 8)
    with torch.no_grad():
        pieces = torch.cat([gpt(one, cache) for one in batch.split(1, dim=1)], dim=1)
        torch.testing.assert_close(pieces, gpt(batch), atol=1e-5, rtol=1e-5)


def test_shared_keys_and_values_are_those_of_a_model_that_has_a_copy_for_every_head() -> None:
    grouped, width = stirred(GROUPED), GROUPED.head_width or 0
    whole = model(replace(GROUPED, n_kv_head=None)).double()
    weights = grouped.state_dict()
    for name in [name for name in weights if "query_key_value" in name]:
        q, *shared = weights[name].split([6 * width, 2 * width, 2 * width])
        copied = [part.unflatten(0, (2, width)).repeat_interleave(3, dim=0).flatten(0, 1) for part in shared]
        weights[name] = torch.cat([q, *copied])
    whole.load_state_dict(weights)
    with torch.no_grad():
        torch.testing.assert_close(grouped(ids(2, 16)), whole(ids(2, 16)), atol=1e-12, rtol=0)


def test_what_params_yaml_has_no_word_for_is_left_out_of_a_description_where_it_is_as_ever() -> None:
    """So that models registered before keep their digest."""
    assert list(model().description()[1]) == [
        "vocab_size", "block_size", "n_layer", "n_head", "n_embd", "dropout", "positions", "norm", "activation",
        "qk_norm", "conv", "bias", "head_width",
    ]  # fmt: skip
    assert dense(model(GROUPED).description()[1]) == GROUPED
    assert GROUPED.brought() == {
        "n_kv_head": 2, "mlp_width": 20, "rotary_base": 500.0, "norm_eps": 1e-4, "tied": False,
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"n_kv_head \(4\) must divide n_head \(6\)"):
        dense(replace(GROUPED, n_kv_head=4).dimensions())
