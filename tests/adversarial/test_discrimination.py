"""An interval that covers, a discriminator that finds a signal where there is one, and says so where there is none."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from troupe.adversarial.discrimination import (
    Examples,
    Interval,
    Learner,
    Schedule,
    SignalTest,
    auc_interval,
    until_signal,
)
from troupe.adversarial.objectives import GAN, WGAN, WGANGP, Objective
from troupe.models.discriminator import LSTMDiscriminator, init_discriminator
from troupe.models.reader import Read, no_features

VOCAB, T = 6, 8


scores = st.lists(st.integers(-3, 3), min_size=2, max_size=20)  # few values, so that ties happen


@given(scores, scores)
def test_auc_agrees_with_scikit_learn(real: list[int], fake: list[int]) -> None:
    found = auc_interval(torch.tensor(real, dtype=torch.float32), torch.tensor(fake, dtype=torch.float32), 0.95)
    assert found.auc == pytest.approx(roc_auc_score([1] * len(real) + [0] * len(fake), real + fake))
    assert 0 <= found.low <= found.auc <= found.high <= 1


def test_the_interval_by_hand() -> None:
    """Real 1, 3 against generated 0, 2: of four pairs three are in order, so the AUC is 3/4.

    Mean ranks: of the real scores 1/2 and 1, of the generated ones 1 and 1/2; both have variance 1/8, so the variance
    is 1/16 + 1/16 = 1/8. At 95 % the logit, ln 3, is off by 1.96 sqrt(1/8) / (3/16) = 3.6957.
    """
    found = auc_interval(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0]), 0.95)
    logit = [math.log(found.low / (1 - found.low)), math.log(found.high / (1 - found.high))]
    assert found.auc == 0.75
    assert logit == pytest.approx([math.log(3) - 3.69576, math.log(3) + 3.69576], abs=1e-4)


@pytest.mark.parametrize(("shift", "places"), [(0, (50, 80)), (2, (30, 30))])
def test_the_limits_hold_the_true_auc_as_often_as_they_say(shift: float, places: tuple[int, int]) -> None:
    """Two normal distributions `shift` apart, so an AUC of Phi(shift / sqrt 2), to within sampling error and 1 %."""
    rng, true = torch.Generator().manual_seed(0), 0.5 * (1 + math.erf(shift / 2))
    held = 0
    for _ in range(500):
        real, fake = torch.randn(places[0], generator=rng) + shift, torch.randn(places[1], generator=rng)
        found = auc_interval(real, fake, 0.9)
        held += found.low <= true <= found.high
    assert held / 500 == pytest.approx(0.9, abs=3 * math.sqrt(0.09 / 500) + 0.01)


def test_where_all_pairs_are_in_order_the_limit_is_that_of_as_many_coins() -> None:
    """Five of five at 95 %: the chance p with p^5 = 0.025 is 0.478."""
    five = torch.arange(5.0)
    assert auc_interval(five + 9, five, 0.95) == Interval(1.0, pytest.approx(0.4782, abs=1e-4), 1.0)
    assert auc_interval(five - 9, five, 0.95) == Interval(0.0, 0.0, pytest.approx(0.5218, abs=1e-4))


def test_scores_that_are_not_finite_say_nothing() -> None:
    found = auc_interval(torch.tensor([1.0, math.nan]), torch.tensor([0.0, 0.0]), 0.95)
    assert math.isnan(found.auc)
    assert (found.low, found.high) == (0.0, 1.0)
    assert not SignalTest(found, 1, 0.6).signal


def counting(n: int, seed: int) -> Tensor:
    start_N1 = torch.randint(0, VOCAB, (n, 1), generator=torch.Generator().manual_seed(seed))
    return (start_N1 + torch.arange(T)) % VOCAB


def noise(n: int, seed: int) -> Tensor:
    return torch.randint(0, VOCAB, (n, T), generator=torch.Generator().manual_seed(100 + seed))


def read(ids_NT: Tensor) -> Read:
    return Read.of(ids_NT, no_features)


def trained(objective: Objective, real: Tensor, held_out: Tensor, rate: float, rounds: int = 5) -> SignalTest:
    critic = LSTMDiscriminator(VOCAB, n_embd=8, n_hidden=8)
    init_discriminator(critic, torch.Generator().manual_seed(0))
    objective.constrain(critic)
    train, test = Examples(read(real), read(noise(200, 0))), Examples(read(held_out), read(noise(100, 1)))
    schedule = Schedule(bar=0.6, updates=40, rounds=rounds, batch_size=16)
    learner = Learner(critic, objective, objective.optimizer(critic.parameters(), rate))
    return until_signal(learner, train, test, schedule, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("objective", "rate"), [(GAN(), 1e-2), (WGAN(0.5), 1e-2), (WGANGP(1.0), 1e-2)])
def test_it_stops_as_soon_as_it_can_tell(objective: Objective, rate: float) -> None:
    found = trained(objective, counting(200, 0), counting(100, 1), rate)
    assert found.signal
    assert found.interval.low > 0.6
    assert found.updates < 200
    assert str(found).startswith("signal: AUC ")


def test_what_is_learned_by_heart_is_no_signal() -> None:
    """Both classes are noise: it can learn the training sequences, and the held-out ones tell on it."""
    found = trained(GAN(), noise(200, 7), noise(100, 8), 1e-2)
    assert not found.signal
    assert found.updates == 200
    assert 0.35 < found.interval.auc < 0.65
    assert str(found).startswith("no signal: AUC ")


def test_looking_often_makes_no_signal() -> None:
    """Scores without information, looked at 20 times, with a bar of 0.5: in 100 trials at most a handful clear it."""
    rng, cleared = torch.Generator().manual_seed(0), {True: 0, False: 0}
    for careful, _ in product((True, False), range(100)):
        confidence = 1 - 0.05 / 20 if careful else 0.95
        looks = [
            auc_interval(torch.rand(40, generator=rng), torch.rand(40, generator=rng), confidence) for _ in range(20)
        ]
        cleared[careful] += any(look.low > 0.5 for look in looks)
    assert cleared[True] <= 6
    assert cleared[False] > 20  # what is lost without the correction
