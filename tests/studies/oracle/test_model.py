"""The language model of the oracle study: float64 by hand, enumeration of all its sequences, laws of temperature."""

import math
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from studies.oracle.model import LSTMLanguageModel, make_generator, make_oracle, nll, sample

V, H, S = 4, 3, 3  # 4^3 sequences in all


@pytest.fixture(scope="module")
def oracle() -> LSTMLanguageModel:
    return make_oracle(V, H, torch.Generator().manual_seed(3))


def all_sequences() -> Tensor:
    return torch.tensor([(0, *tokens) for tokens in product(range(V), repeat=S)])


def log_probs(model: LSTMLanguageModel, ids_NT: Tensor, temperature: float = 1.0) -> Tensor:
    """ln p of whole sequences, one by one."""
    return torch.tensor([-S * nll(model, ids_NT[row : row + 1], temperature) for row in range(len(ids_NT))]).double()


def by_hand(model: LSTMLanguageModel, ids: list[int], temperature: float) -> float:
    """Hochreiter & Schmidhuber's cell with a forget gate, number by number in float64; nats per token."""
    w = {name: value.double().tolist() for name, value in model.state_dict().items()}
    h, c, total = [0.0] * H, [0.0] * H, 0.0
    for before, token in pairwise(ids):
        x = w["embedding.weight"][before]
        gates = [
            sum(a * b for a, b in zip(w["lstm.weight_ih_l0"][row], x, strict=True))
            + sum(a * b for a, b in zip(w["lstm.weight_hh_l0"][row], h, strict=True))
            + w["lstm.bias_ih_l0"][row]
            for row in range(4 * H)
        ]
        i, f, o = ([1 / (1 + math.exp(-gates[k * H + j])) for j in range(H)] for k in (0, 1, 3))
        g = [math.tanh(gates[2 * H + j]) for j in range(H)]
        c = [f[j] * c[j] + i[j] * g[j] for j in range(H)]
        h = [o[j] * math.tanh(c[j]) for j in range(H)]
        logits = [
            (sum(a * b for a, b in zip(w["head.weight"][v], h, strict=True)) + w["head.bias"][v]) / temperature
            for v in range(V)
        ]
        total -= logits[token] - math.log(sum(map(math.exp, logits)))
    return total / (len(ids) - 1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
def test_nll_is_that_of_a_loop_by_hand(oracle: LSTMLanguageModel, temperature: float) -> None:
    """Mean over sequences and tokens: the unit in which SeqGAN's figures are published."""
    ids = [[0, 2, 1, 3], [0, 0, 3, 3], [0, 1, 2, 0]]
    wanted = sum(by_hand(oracle, one, temperature) for one in ids) / len(ids)
    assert nll(oracle, torch.tensor(ids), temperature) == pytest.approx(wanted, abs=1e-6)


def test_nll_does_not_depend_on_how_many_are_read_at_once(oracle: LSTMLanguageModel) -> None:
    ids_NT = sample(oracle, 150, S, torch.Generator().manual_seed(0))
    parts = [nll(oracle, ids_NT[:10]), nll(oracle, ids_NT[10:])]
    assert nll(oracle, ids_NT) == pytest.approx((10 * parts[0] + 140 * parts[1]) / 150, abs=1e-6)


def test_the_oracle_on_its_own_sequences_is_its_entropy(oracle: LSTMLanguageModel) -> None:
    """The floor: over all 64 sequences the entropy is exact; 20,000 samples come within four standard errors."""
    logp_N = log_probs(oracle, all_sequences())
    p_N = logp_N.exp()
    assert p_N.sum().item() == pytest.approx(1, abs=1e-5)
    entropy = -(p_N * logp_N).sum().item()
    error = ((p_N * logp_N.square()).sum().item() - entropy**2) ** 0.5 / 20_000**0.5
    ids_NT = sample(oracle, 20_000, S, torch.Generator().manual_seed(0))
    assert nll(oracle, ids_NT) == pytest.approx(entropy / S, abs=4 * error / S)


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.5])
def test_samples_have_the_temperature_that_they_are_scored_at(oracle: LSTMLanguageModel, temperature: float) -> None:
    """NLL_oracle of a generator at a temperature, by enumeration: sum over x of q_t(x) (-ln p(x)) / S."""
    model = make_generator(V, H, torch.Generator().manual_seed(5))
    q_N, logp_N = log_probs(model, all_sequences(), temperature).exp(), log_probs(oracle, all_sequences())
    exact = -(q_N * logp_N).sum().item()
    error = ((q_N * logp_N.square()).sum().item() - exact**2) ** 0.5 / 20_000**0.5
    ids_NT = sample(model, 20_000, S, torch.Generator().manual_seed(0), temperature)
    assert nll(oracle, ids_NT) == pytest.approx(exact / S, abs=4 * error / S)


def test_a_lower_temperature_lowers_nll_oracle_below_the_floor(oracle: LSTMLanguageModel) -> None:
    """Of the oracle's own sequences, too: NLL_oracle alone prefers a model that always writes the same."""
    at = {
        t: nll(oracle, sample(oracle, 4000, S, torch.Generator().manual_seed(0), t)) for t in (1e-4, 0.3, 0.6, 1.0, 1.5)
    }
    assert list(at.values()) == sorted(at.values())
    same = sample(oracle, 20, S, torch.Generator().manual_seed(1), 1e-4)
    assert len(same.unique(dim=0)) == 1


def test_temperature_one_changes_nothing(oracle: LSTMLanguageModel) -> None:
    plain, at_one = (sample(oracle, 20, S, torch.Generator().manual_seed(2), *more) for more in ((), (1.0,)))
    assert torch.equal(plain, at_one)
    assert nll(oracle, plain) == nll(oracle, plain, 1.0)


@given(st.integers(0, 1000), st.floats(0.3, 3), st.floats(0.3, 3))
def test_nll_test_is_convex_in_the_inverse_temperature(seed: int, one: float, other: float) -> None:
    """What the comparison of curves rests on: from its lowest point a curve goes up on either side."""
    model = make_generator(V, H, torch.Generator().manual_seed(seed))
    ids_NT = torch.tensor([[0, 2, 1, 3], [0, 0, 3, 3]])
    middle = nll(model, ids_NT, 2 / (one + other))
    assert middle <= (nll(model, ids_NT, 1 / one) + nll(model, ids_NT, 1 / other)) / 2 + 1e-6


def test_the_oracles_weights_are_standard_normal() -> None:
    """Each mean and standard deviation within five standard errors; PyTorch's second bias stays 0."""
    weights = make_oracle(5000, 32, torch.Generator().manual_seed(0)).state_dict()
    assert weights.pop("lstm.bias_hh_l0").count_nonzero() == 0
    for name, weight in weights.items():
        n = weight.numel()
        assert abs(weight.mean().item()) < 5 / n**0.5, name
        assert abs(weight.std().item() - 1) < 5 / (2 * n) ** 0.5, name


def test_a_seed_gives_the_same_weights_and_sequences() -> None:
    def made(make: object, seed: int) -> tuple[Tensor, Tensor]:
        rng = torch.Generator().manual_seed(seed)
        model = make(V, H, rng)  # type: ignore[operator]
        return model.head.weight, sample(model, 50, S, rng)

    for make in (make_oracle, make_generator):
        one, again, other = made(make, 0), made(make, 0), made(make, 1)
        assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
        assert not torch.equal(one[0], other[0])


def test_sequences_start_with_the_start_token(oracle: LSTMLanguageModel) -> None:
    ids_NT = sample(oracle, 130, S, torch.Generator().manual_seed(0))
    assert ids_NT.shape == (130, S + 1)
    assert ids_NT[:, 0].count_nonzero() == 0
    assert ids_NT.max() < V
