"""The estimated gradient against the exact one, by enumeration; log-probabilities against the sampler that drew."""

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from scipy import stats
from torch import Tensor

from troupe.adversarial.reinforce import (
    LITERAL,
    Baseline,
    GeneratorLoss,
    Reinforce,
    continuation_log_probs,
    generator_loss,
    likelihood_loss,
    sequence_log_prob,
)
from troupe.decoding import Decoding, generate, uniforms
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2

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
PREFIXES = torch.stack(  # of the prompt, of the first token (whatever they are), and of the whole
    [torch.full((9,), 0.8, dtype=F64), torch.tensor([0.5, -2.0, 1.5], dtype=F64).repeat_interleave(3), REWARDS], dim=1
)


def log_prob(model: Bigrams, ids_BT: Tensor) -> Tensor:
    return sequence_log_prob(model, ids_BT, PROMPT)


def test_log_prob_of_a_sequence_is_the_sum_over_its_tokens() -> None:
    """Against a loop over softmaxes in plain floats; the prompt (2 tokens) is given and does not count."""
    model, ids_BT = Bigrams(0), torch.tensor([[0, 2, 1, 1, 0], [1, 0, 0, 2, 2]])
    table = model.logits_VV.tolist()
    logp_B = sequence_log_prob(model, ids_BT, prompt_length=2)
    for ids, logp in zip(ids_BT.tolist(), logp_B.tolist(), strict=True):
        naive = 0.0
        for before, token in itertools.pairwise(ids[1:]):
            naive += math.log(math.exp(table[before][token]) / sum(math.exp(logit) for logit in table[before]))
        assert logp == pytest.approx(naive, abs=1e-12)


def test_the_probabilities_of_all_continuations_sum_to_one() -> None:
    assert log_prob(Bigrams(1), SEQUENCES).exp().sum().item() == pytest.approx(1, abs=1e-12)


def gradient(loss: Tensor, model: Bigrams) -> Tensor:
    (gradient_VV,) = torch.autograd.grad(loss, model.logits_VV)
    return gradient_VV


def exact_gradient(model: Bigrams) -> Tensor:
    """Minus the gradient of the expected reward, which a sum over all nine continuations gives in closed form."""
    return gradient(-(log_prob(model, SEQUENCES).exp() * REWARDS).sum(), model)


def loss_beside(model: Bigrams, start: Bigrams, ids_BT: Tensor, advantage_BS: Tensor) -> GeneratorLoss:
    with torch.no_grad():
        start_BSV = continuation_log_probs(start, ids_BT, PROMPT)
    return generator_loss(model, start_BSV, ids_BT, advantage_BS, PROMPT)


@dataclass
class Moments:
    mean_VV: Tensor
    variance: float  # summed over the weights


def moments(rules: Reinforce, batch_size: int, reward_NP: Tensor = PREFIXES) -> Moments:
    """Of the estimated gradient over *every* batch that could be drawn, each as probable as the model makes it."""
    model = Bigrams(2)
    probability_N = log_prob(model, SEQUENCES).detach().exp()
    mean_VV, square = torch.zeros(V, V, dtype=F64), 0.0
    for batch in itertools.product(range(len(SEQUENCES)), repeat=batch_size):
        rows = list(batch)
        advantages = rules.advantages(reward_NP[rows])
        loss = loss_beside(model, model, SEQUENCES[rows], advantages)
        gradient_VV, probability = gradient(loss.policy, model), probability_N[rows].prod()
        mean_VV += probability * gradient_VV
        square += (probability * gradient_VV.square().sum()).item()
    return Moments(mean_VV, square - mean_VV.square().sum().item())


PLAIN = Reinforce(baseline="none", normalise=False)


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("baseline", ["none", "leave one out"])
def test_the_gradient_is_unbiased(per_token: bool, baseline: Baseline) -> None:
    """The expectation over all 81 batches of two is the exact gradient: whether the reward is one per sequence or is
    paid token by token and credited to what came before it; with a baseline or without."""
    found = moments(replace(PLAIN, per_token=per_token, baseline=baseline), 2)
    torch.testing.assert_close(found.mean_VV, exact_gradient(Bigrams(2)), atol=1e-12, rtol=0)


def test_in_batches_of_three_too() -> None:
    """729 batches."""
    found = moments(replace(PLAIN, baseline="leave one out"), 3)
    torch.testing.assert_close(found.mean_VV, exact_gradient(Bigrams(2)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("batch_size", [2, 3])
def test_the_mean_of_the_whole_batch_shortens_the_gradient_and_turns_it_nowhere(batch_size: int) -> None:
    found = moments(replace(PLAIN, baseline="batch mean"), batch_size)
    expected_VV = exact_gradient(Bigrams(2)) * (batch_size - 1) / batch_size
    torch.testing.assert_close(found.mean_VV, expected_VV, atol=1e-12, rtol=0)


def test_a_baseline_takes_out_the_variance_of_rewards_that_are_all_high() -> None:
    """Rewards around 10, which is what the sign of a reward says nothing about."""
    plain, baseline = (moments(replace(PLAIN, baseline=b), 2, PREFIXES + 10) for b in ("none", "leave one out"))
    assert baseline.variance < 0.2 * plain.variance


def test_credit_where_it_is_due_takes_out_variance() -> None:
    """All that counts is the first token: the second is not credited with it when rewards are paid token by token."""
    first_N = REWARDS[:3].repeat_interleave(3)
    reward_NP = torch.stack([torch.zeros(9, dtype=F64), first_N, first_N], dim=1)
    whole, by_token = (moments(replace(PLAIN, per_token=per), 2, reward_NP) for per in (False, True))
    torch.testing.assert_close(whole.mean_VV, by_token.mean_VV, atol=1e-12, rtol=0)
    assert by_token.variance < 0.8 * whole.variance


def test_the_literal_loss_by_hand() -> None:
    """L_G = -(1/B) sum of D(x_i) log p(x_i), D the reward as it is."""
    model, chosen = Bigrams(2), [3, 3, 8]
    loss = loss_beside(model, model, SEQUENCES[chosen], LITERAL.advantages(PREFIXES[chosen]))
    logps = log_prob(model, SEQUENCES).tolist()
    by_hand = -sum(REWARDS[i].item() * logps[i] for i in chosen) / 3
    assert loss.policy.item() == pytest.approx(by_hand, abs=1e-12)


def small_gpt() -> GPT:
    model = GPT(GPTConfig(vocab_size=4, block_size=8, n_layer=2, n_head=2, n_embd=8, dropout=0.0))
    init_gpt2(model, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.token_embedding.weight.mul_(5)
    return model


def test_log_prob_is_that_of_the_sampler() -> None:
    """The sampler draws a token by where a uniform number falls among the cumulative probabilities. With its numbers
    and our probabilities, every token of 500 sequences lies where the number fell: the sampler's distribution is the
    one that is scored. (A hit within 1e-5 of a border may go either way.)"""
    model, seeds = small_gpt(), list(range(500))
    ids_BT = generate(model, torch.zeros(500, 2, dtype=torch.int64), 5, Decoding(), seeds)
    logp_BSV = continuation_log_probs(model, ids_BT, 2).detach()
    upper_BSV = logp_BSV.double().exp().cumsum(-1)
    written_BS1, uniform_BS = ids_BT[:, 2:].unsqueeze(-1), uniforms(seeds, 5)
    upper_BS = upper_BSV.gather(-1, written_BS1).squeeze(-1)
    lower_BS = upper_BS - logp_BSV.gather(-1, written_BS1).squeeze(-1).double().exp()
    assert (lower_BS - 1e-5 <= uniform_BS).all()
    assert (uniform_BS <= upper_BS + 1e-5).all()
    log_widths_B = (upper_BS - lower_BS).log().sum(-1)  # of a sequence: the product of its tokens' intervals
    torch.testing.assert_close(sequence_log_prob(model, ids_BT, 2).double(), log_widths_B, atol=1e-4, rtol=0)


def test_how_often_a_sequence_is_sampled_is_what_its_log_prob_says() -> None:
    """Sixteen continuations of two tokens, 4000 samples: a chi-squared test that one seed in 1000 would fail."""
    model = small_gpt()
    ids_BT = generate(model, torch.zeros(4000, 1, dtype=torch.int64), 2, Decoding(), list(range(4000)))
    all_NT = torch.tensor([(0, a, b) for a, b in itertools.product(range(4), repeat=2)])
    expected_N = sequence_log_prob(model, all_NT, 1).double().exp().detach()
    counts_N = torch.bincount(ids_BT[:, 1] * 4 + ids_BT[:, 2], minlength=16)
    assert stats.chisquare(counts_N.numpy(), (4000 * expected_N / expected_N.sum()).numpy()).pvalue > 0.001


def test_likelihood_loss_by_hand() -> None:
    """The mean over the tokens after the prompt: three sequences of two, from the table of probabilities."""
    model, ids_BT = Bigrams(0), SEQUENCES[[0, 5, 7]]
    p_VV = model.logits_VV.softmax(-1).tolist()
    by_hand = -sum(math.log(p_VV[x][a]) + math.log(p_VV[a][b]) for x, a, b in ids_BT.tolist()) / 6
    assert likelihood_loss(model, ids_BT, PROMPT).item() == pytest.approx(by_hand, abs=1e-12)


def test_kl_and_entropy_by_hand() -> None:
    """p = (1/2, 1/4, 1/4) after every token, the start is uniform: H = log 2 * 3/2, KL = log 3 - H."""
    model, start = Bigrams(0), Bigrams(0)
    with torch.no_grad():
        model.logits_VV.copy_(torch.tensor([1 / 2, 1 / 4, 1 / 4], dtype=F64).log())
        start.logits_VV.zero_()
    loss = loss_beside(model, start, SEQUENCES, torch.ones(9, 1, dtype=F64))
    entropy = 1.5 * math.log(2)
    assert loss.entropy.item() == pytest.approx(entropy, abs=1e-12)
    assert loss.kl.item() == pytest.approx(math.log(3) - entropy, abs=1e-12)
    assert loss_beside(start, start, SEQUENCES, torch.ones(9, 1, dtype=F64)).kl.item() == 0


def test_the_kl_pulls_back_to_the_start_and_leaves_the_start_alone() -> None:
    model, start = Bigrams(3), Bigrams(4)
    for _ in range(300):
        loss = loss_beside(model, start, SEQUENCES, torch.zeros(9, 1, dtype=F64))
        (gradient_VV,) = torch.autograd.grad(loss.kl, model.logits_VV)
        with torch.no_grad():
            model.logits_VV -= 2 * gradient_VV
    assert loss.kl.item() < 1e-3
    assert start.logits_VV.grad is None
