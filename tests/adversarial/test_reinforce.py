import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from troupe.adversarial.reinforce import (
    continuation_log_probs,
    generator_loss,
    leave_one_out,
    normalised,
    sequence_log_prob,
)

F64 = torch.float64
V, PROMPT = 3, 1


class Bigrams:
    """The smallest language model: the next token depends on the last one."""

    def __init__(self, seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.logits_VV = torch.randn(V, V, generator=rng, dtype=F64, requires_grad=True)

    def __call__(self, ids_BT: Tensor) -> Tensor:
        return self.logits_VV[ids_BT]


SEQUENCES = torch.tensor([(1, a, b) for a, b in itertools.product(range(V), repeat=2)])  # prompt 1, all continuations
REWARDS = torch.tensor([0.3, -1.0, 2.0, 0.7, 0.0, -0.4, 5.0, 1.1, -2.5], dtype=F64)


def log_prob(model: Bigrams, ids_BT: Tensor) -> Tensor:
    return sequence_log_prob(continuation_log_probs(model, ids_BT, PROMPT), ids_BT)


def test_log_prob_of_a_sequence_is_the_sum_over_its_tokens() -> None:
    """Against a loop over softmaxes in plain floats; the prompt (2 tokens) is given and does not count."""
    model, ids_BT = Bigrams(0), torch.tensor([[0, 2, 1, 1, 0], [1, 0, 0, 2, 2]])
    table = model.logits_VV.tolist()
    logp_B = sequence_log_prob(continuation_log_probs(model, ids_BT, prompt_length=2), ids_BT)
    for ids, logp in zip(ids_BT.tolist(), logp_B.tolist(), strict=True):
        naive = 0.0
        for before, token in itertools.pairwise(ids[1:]):
            naive += math.log(math.exp(table[before][token]) / sum(math.exp(logit) for logit in table[before]))
        assert logp == pytest.approx(naive, abs=1e-12)


def test_the_probabilities_of_all_continuations_sum_to_one() -> None:
    assert log_prob(Bigrams(1), SEQUENCES).exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("batch_size", [2, 3])
def test_the_gradient_is_unbiased(batch_size: int) -> None:
    """The expected gradient over *every* batch that could be drawn is exactly -gradient of the expected reward.

    Nine continuations, so 81 batches of two and 729 of three, each weighted by the product of its probabilities.
    """
    model = Bigrams(2)
    p_N = log_prob(model, SEQUENCES).exp()
    (exact_VV,) = torch.autograd.grad((p_N * REWARDS).sum(), model.logits_VV)
    expected_VV = torch.zeros_like(exact_VV)
    for batch in itertools.product(range(len(SEQUENCES)), repeat=batch_size):
        chosen = list(batch)
        loss = generator_loss(model, model, SEQUENCES[chosen], leave_one_out(REWARDS[chosen]), PROMPT)
        (gradient_VV,) = torch.autograd.grad(loss.policy, model.logits_VV)
        expected_VV += p_N[chosen].detach().prod() * gradient_VV
    assert torch.allclose(expected_VV, -exact_VV, atol=1e-12)


def test_leave_one_out_by_hand() -> None:
    """Rewards 1, 2, 6: the others' means are 4, 3.5 and 1.5, so the advantages are -3, -1.5 and 4.5."""
    assert leave_one_out(torch.tensor([1.0, 2.0, 6.0], dtype=F64)).tolist() == pytest.approx([-3, -1.5, 4.5])


rewards = st.lists(st.floats(-100, 100), min_size=2, max_size=16)


@given(rewards, st.floats(0.5, 1000), st.floats(-1000, 1000))
def test_normalised_advantages_do_not_depend_on_the_unit_of_the_reward(
    values: list[float], unit: float, zero: float
) -> None:
    reward_B = torch.tensor(values, dtype=F64)
    if reward_B.std() < 1e-3:
        return
    advantage_B = normalised(leave_one_out(reward_B))
    assert torch.allclose(advantage_B, normalised(leave_one_out(unit * reward_B + zero)), atol=1e-6)
    assert advantage_B.square().mean().item() == pytest.approx(1)
    assert advantage_B.sum().item() == pytest.approx(0, abs=1e-6)


def test_equal_rewards_teach_nothing() -> None:
    assert normalised(leave_one_out(torch.full((4,), 0.5))).tolist() == [0, 0, 0, 0]


def test_kl_and_entropy_by_hand() -> None:
    """p = (1/2, 1/4, 1/4) after every token, the start is uniform: H = log 2 * 3/2, KL = log 3 - H."""
    model, start = Bigrams(0), Bigrams(0)
    with torch.no_grad():
        model.logits_VV.copy_(torch.tensor([1 / 2, 1 / 4, 1 / 4], dtype=F64).log())
        start.logits_VV.zero_()
    loss = generator_loss(model, start, SEQUENCES, torch.ones(9, dtype=F64), PROMPT)
    entropy = 1.5 * math.log(2)
    assert loss.entropy.item() == pytest.approx(entropy, abs=1e-12)
    assert loss.kl.item() == pytest.approx(math.log(3) - entropy, abs=1e-12)
    assert generator_loss(start, start, SEQUENCES, torch.ones(9, dtype=F64), PROMPT).kl.item() == 0


def test_the_kl_pulls_back_to_the_start_and_leaves_the_start_alone() -> None:
    model, start = Bigrams(3), Bigrams(4)
    for _ in range(300):
        loss = generator_loss(model, start, SEQUENCES, torch.zeros(9, dtype=F64), PROMPT)
        (gradient_VV,) = torch.autograd.grad(loss.kl, model.logits_VV)
        with torch.no_grad():
            model.logits_VV -= 2 * gradient_VV
    assert loss.kl.item() < 1e-3
    assert start.logits_VV.grad is None
