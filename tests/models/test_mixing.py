"""The mixture: a distribution in every context, Dirichlet smoothing as a special case, one density for every reader."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.models.test_contexts import TOKENIZER, text
from troupe.batching import RowsCache
from troupe.bundles.architectures import ARCHITECTURES, load_bundle
from troupe.bundles.bundle import save_bundle
from troupe.bundles.export import shape_of
from troupe.conversion.attention import folded
from troupe.decoding import Decoding, generate
from troupe.errors import ArtifactError
from troupe.models.config import GPTConfig
from troupe.models.contexts import KINDS, RECENT, SOURCES
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.layers import KVCache
from troupe.models.mixing import Mixed, Mixture, init_mixture, mixed
from troupe.models.switchhead import SwitchHead, SwitchHeadConfig
from troupe.seeding import generator

V = TOKENIZER.vocab_size
OFF = -1e4  # a weight's logit, of which softplus is exactly 0


def network(with_experts: bool = False) -> GPT:
    config = GPTConfig(V, block_size=24, n_layer=2, n_head=2, n_embd=8, dropout=0.0)
    experts = SwitchHeadConfig(n_head=2, head_width=4, n_expert=3, top_k=2, router="sigmoid")
    model = GPT(config, lambda of: SwitchHead(of, experts)) if with_experts else GPT(config)
    init_gpt2(model, generator(1, "mixed"))
    torch.nn.init.normal_(model.token_embedding.weight, generator=generator(2, "mixed"))
    return model.eval()


def model(scale: float = 0.2, with_experts: bool = False) -> Mixed:
    """Its numbers are where a fit begins, and random ones added to them."""
    mixture = Mixture.counted(text(600, 1), 4, TOKENIZER)
    init_mixture(mixture, generator(3, "mixed"))
    for number, parameter in enumerate(mixture.parameters()):
        parameter.data += scale * torch.randn(parameter.shape, generator=generator(4, "mixed", number))
    return mixed(network(with_experts), mixture).eval()


def ids(rows: int, length: int, seed: int = 9) -> Tensor:
    return torch.from_numpy(text(rows * length, seed).astype(np.int64)).view(rows, length)


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_every_next_token_is_possible_and_all_add_up_to_one(scale: float) -> None:
    """Of all places of texts that hold contexts seen often, once and never."""
    anything_BT = torch.randint(V, (2, 24), generator=generator(5, "mixed"))
    with torch.no_grad():
        logp_BTV = model(scale)(torch.cat([ids(6, 24), anything_BT])).double()
    assert logp_BTV.isfinite().all()
    assert (logp_BTV.exp().sum(-1) - 1).abs().max() < 1e-6


def test_one_source_of_weight_one_is_dirichlet_smoothing() -> None:
    """(n(t) + b p_0(t)) / (N + b), with b = e^0.7 and the network as p_0."""
    found, x_BT = model(0.0), ids(3, 20)
    mixture, concentration = found.mixture, 0.7
    counted_in = KINDS + RECENT.index(0)  # all of the text so far
    mixture.choose.bias.data[2 * SOURCES : 2 * SOURCES + 2] = torch.tensor([1.0, 0.0])
    mixture.weight_EK.data.fill_(OFF)
    mixture.weight_EK.data[counted_in] = math.log(math.e - 1)
    mixture.concentration_EK.data[counted_in] = concentration
    prior_BTV, seen_BTV = network()(x_BT).double().softmax(-1), torch.zeros(3, 20, V, dtype=torch.float64)
    for place in range(1, 20):  # the first token has been read, but followed none
        seen_BTV[:, place:].scatter_add_(
            2, x_BT[:, place, None, None].expand(3, 20 - place, 1), torch.ones(3, 20, 1).double()
        )
    b = math.exp(concentration)
    expected_BTV = (seen_BTV + b * prior_BTV) / (seen_BTV.sum(-1, keepdim=True) + b)
    assert torch.allclose(found(x_BT).double().exp(), expected_BTV, rtol=1e-4, atol=1e-9)


def test_without_sources_and_n_grams_it_is_the_network() -> None:
    found, x_BT = model(0.0), ids(2, 20)
    found.mixture.choose.bias.data[2 * SOURCES : 2 * SOURCES + 2] = torch.tensor([1.0, 0.0])
    found.mixture.weight_EK.data.fill_(OFF)
    assert torch.allclose(found(x_BT), network()(x_BT).log_softmax(-1), atol=1e-5)


def test_neither_the_target_nor_what_follows_moves_a_prediction() -> None:
    found, x_BT = model(), ids(2, 24)
    for place in (0, 1, 7, 22):
        other_BT = torch.cat(
            [x_BT[:, : place + 1], torch.randint(V, (2, 23 - place), generator=generator(place, "x"))], 1
        )
        assert torch.allclose(found(x_BT)[:, : place + 1], found(other_BT)[:, : place + 1], atol=1e-5)


def test_what_is_sampled_token_by_token_is_what_is_judged_at_once() -> None:
    found, x_BT, cache = model(), ids(3, 24), KVCache(2, 24)
    steps = [found(x_BT[:, :5], cache), *(found(x_BT[:, i : i + 1], cache) for i in range(5, 24))]
    assert torch.allclose(torch.cat(steps, dim=1), found(x_BT), atol=1e-4)


def test_what_is_served_beside_longer_texts_is_the_same() -> None:
    found, x_BT, rows = model(), ids(2, 20), RowsCache(2, 24, torch.device("cpu"))
    lengths = (4, 15)
    for x_T, length in zip(x_BT, lengths, strict=True):
        alone = KVCache(2, 24)
        found(x_T[None, :length], alone)
        rows.append(alone)
    for step in range(3):
        next_B1 = torch.stack([x_T[length + step, None] for x_T, length in zip(x_BT, lengths, strict=True)])
        served_BV = rows.forward(found, next_B1)
        for row, length in enumerate(lengths):
            judged_V = found(x_BT[row : row + 1, : length + step + 1])[0, -1]
            assert torch.allclose(served_BV[row], judged_V, atol=1e-4)


def test_a_text_depends_on_its_prompt_and_seed_alone_also_beyond_the_context() -> None:
    found, prompts_BT = model(), ids(3, 6)
    together_BT = generate(found, prompts_BT, 40, Decoding(), [7, 8, 9])
    assert torch.equal(together_BT[1:2], generate(found, prompts_BT[1:2], 40, Decoding(), [8]))


@pytest.mark.parametrize("with_experts", [False, True])
def test_a_bundle_brings_back_the_same_model(with_experts: bool, tmp_path: Path) -> None:
    found, x_BT = model(with_experts=with_experts), ids(2, 20)
    sha256 = save_bundle(tmp_path, found, TOKENIZER, {})
    loaded = load_bundle(tmp_path)
    assert loaded.sha256 == sha256
    assert isinstance(loaded.model, Mixed)
    assert torch.equal(loaded.model(x_BT), found(x_BT))


def test_counts_of_another_text_are_weighed_alike() -> None:
    start = model().mixture
    other = Mixture.counted(text(900, 5), 4, TOKENIZER).weighed_as(start)
    assert all(map(torch.equal, other.parameters(), start.parameters()))
    assert other.contexts.size() != start.contexts.size()


@pytest.mark.parametrize("with_experts", [False, True])
def test_it_is_not_exported_as_its_network_alone(with_experts: bool) -> None:
    """Fresh experts are copies of each other, which alone could be folded."""
    with pytest.raises(ArtifactError, match=r"a mixture and its counts cannot be exported.*give --model pretrain"):
        shape_of(folded(model(with_experts=with_experts)))


def test_a_table_may_have_more_entries_than_a_dimension() -> None:
    _, dims = model().description()
    assert ARCHITECTURES["mixed"](dims | {"contexts": (2**24 + 1, 8)}).description()[1]["contexts"] == (2**24 + 1, 8)
