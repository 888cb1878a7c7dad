"""Where generator and target are known, the law of what is drawn among k candidates is known too."""

import itertools

import pytest
import torch
from scipy import stats
from torch import Tensor

from tests.adversarial.games import new_game
from troupe.adversarial.distil import distil_step, resampled
from troupe.adversarial.reinforce import Reinforce

GENERATOR = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64)
TARGET = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
SCORES = (TARGET / GENERATOR).log()
DRAWN = 40_000


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(candidates: int, scores: Tensor = SCORES) -> Tensor:
    """counts_V of what `resampled` draws, where a continuation is one token."""
    writing = rng(1)

    def write(prompts_B1: Tensor) -> Tensor:
        tokens_B1 = torch.multinomial(GENERATOR, len(prompts_B1), replacement=True, generator=writing).unsqueeze(-1)
        return torch.cat([prompts_B1, tokens_B1], dim=1)

    prompts_N1 = torch.arange(DRAWN).unsqueeze(-1)
    ids_NT = resampled(write, lambda ids_BT: scores[ids_BT[:, -1]], prompts_N1, candidates, rng(2))
    assert ids_NT[:, 0].equal(torch.arange(DRAWN))  # every prompt got a continuation of its own
    return torch.bincount(ids_NT[:, 1], minlength=4)


def law(candidates: int) -> Tensor:
    """p_V of what is drawn: over all tuples of candidates, their probability times each one's share of the weight."""
    p_V, weight_V = torch.zeros(4, dtype=torch.float64), SCORES.exp()
    for ids in itertools.product(range(4), repeat=candidates):
        rows = list(ids)
        share = weight_V[rows] / weight_V[rows].sum()
        p_V.index_add_(0, torch.tensor(rows), GENERATOR[rows].prod() * share)
    return p_V


def variation(p_V: Tensor, q_V: Tensor) -> float:
    """Total variation: half the sum of absolute differences."""
    return (p_V - q_V).abs().sum().item() / 2


@pytest.mark.parametrize("candidates", [1, 2, 4])
def test_what_is_drawn_follows_the_exact_law(candidates: int) -> None:
    expected_V = law(candidates)
    assert expected_V.sum().item() == pytest.approx(1)
    assert stats.chisquare(drawn(candidates).numpy(), (DRAWN * expected_V).numpy()).pvalue > 0.001


def test_one_candidate_is_the_generator_itself() -> None:
    assert torch.allclose(law(1), GENERATOR)


def test_the_law_approaches_the_target_as_candidates_are_added() -> None:
    """Total variation from 0.4, the generator's own, in proportion to 1/k in the end; exact up to 6 candidates, then
    of 40,000 draws, which alone make up 0.004."""
    exact = [variation(law(k), TARGET) for k in (1, 2, 4, 6)]
    assert exact[0] == pytest.approx(0.4)
    assert all(later < 0.8 * earlier for earlier, later in itertools.pairwise(exact))
    sampled = [variation(drawn(k) / DRAWN, TARGET) for k in (16, 64)]
    assert sampled[0] < 0.5 * exact[-1]
    assert sampled[1] < 0.5 * sampled[0]


def test_a_constant_in_the_scores_changes_nothing_and_equal_scores_are_the_generator() -> None:
    assert drawn(4, SCORES + 300).equal(drawn(4))
    flat = drawn(4, torch.zeros(4, dtype=torch.float64))
    assert stats.chisquare(flat.numpy(), (DRAWN * GENERATOR).numpy()).pvalue > 0.001


def test_distilled_the_generator_comes_to_write_what_was_drawn() -> None:
    """A score of 1 for every token 3: candidates with many of them are drawn, and learned."""
    game = new_game("learning_rate=1e-2 batch_size=32", rules=Reinforce())
    game.scores = lambda ids_BT: (ids_BT == 3).sum(-1).float()  # type: ignore[method-assign]
    share = lambda draw: (game.fake(game.real(draw), "share")[:, 2:] == 3).double().mean().item()  # noqa: E731
    before = share(0)
    for draw in range(40):
        distil_step(game, draw, candidates=8)
    assert before < 0.3
    assert share(0) > 0.8


def test_a_discriminator_that_cannot_tell_leaves_the_generator_about_where_it_is() -> None:
    """Equal scores: it learns its own samples, whose expected gradient is zero."""
    moved = {}
    for favourite in (True, False):
        game = new_game("learning_rate=1e-3 batch_size=64")
        game.scores = lambda ids_BT, like=favourite: like * (ids_BT == 3).sum(-1).float()  # type: ignore[method-assign]
        for draw in range(30):
            distil_step(game, draw, candidates=8)
        pairs = zip(game.generator.parameters(), game.start.parameters(), strict=True)
        moved[favourite] = sum((one - other).square().sum().item() for one, other in pairs)
    assert moved[False] < 0.25 * moved[True]
