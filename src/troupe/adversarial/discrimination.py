"""Training a discriminator on its own until it has a signal, and on to where its scores are log-odds.

A generator that is trained against a discriminator without a signal is trained on noise. So whether there is one is
measured on text that the discriminator was not trained on, with an interval, before any generator is trained.

Axes: N real and M generated sequences, B batch, T tokens (prompt and continuation).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Self

import torch
from torch import Tensor

from troupe.adversarial.objectives import GAN, Objective, Score
from troupe.models.discriminator import LSTMDiscriminator, init_discriminator
from troupe.models.reader import Read, scores


@dataclass(frozen=True)
class Interval:
    """An area under the ROC curve and its confidence limits; 0.5 = cannot tell, 1 = always can."""

    auc: float
    low: float
    high: float


@dataclass(frozen=True)
class SignalTest:
    """What was found after `updates` updates: a signal if the lower limit of the held-out AUC is above `bar`."""

    interval: Interval
    updates: int
    bar: float

    @property
    def signal(self) -> bool:
        return self.interval.low > self.bar

    def __str__(self) -> str:
        seen, found = self.interval, "signal" if self.signal else "no signal"
        limits = f"AUC {seen.auc:.3f} ({seen.low:.3f} to {seen.high:.3f})"
        return f"{found}: {limits} against a bar of {self.bar:.3f} after {self.updates} updates"


@dataclass(frozen=True)
class Examples:
    """Both classes as the discriminator reads them. Sequences held out should be of other texts than those trained on,
    and the real ones of text that neither generator nor reference was trained on (features.ReferenceFeatures)."""

    real: Read
    fake: Read

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        return cls(_joined([part.real for part in parts]), _joined([part.fake for part in parts]))


def _joined(reads: Sequence[Read]) -> Read:
    return Read(torch.cat([read.ids_NT for read in reads]), torch.cat([read.features_NTF for read in reads]))


@dataclass(frozen=True)
class Learner:
    """A discriminator, and how it is trained."""

    critic: LSTMDiscriminator
    objective: Objective
    optimizer: torch.optim.Optimizer
    # What is trained; None: the critic's own score. `critic.prefix_scores` trains GAN at every prefix; for a critic
    # with a penalty take the mean over prefixes, since the penalty is on the slope of one score per sequence.
    score: Score | None = None


@dataclass(frozen=True)
class Schedule:
    """At most `rounds` of `updates`, until the AUC on held-out text clears `bar`; then `more_rounds`, of which the one
    with the least cross-entropy counts."""

    bar: float
    updates: int
    rounds: int
    batch_size: int  # of each class
    more_rounds: int = 0
    confidence: float = 0.95


Report = Callable[[int, SignalTest], None]  # called after each round: updates so far, and what was found


def train_discriminator(
    critic: LSTMDiscriminator,
    train: Examples,
    held_out: Examples,
    schedule: Schedule,
    learning_rate: float,
    rng: torch.Generator,
    report: Report = lambda updates, found: None,
) -> SignalTest:
    """Train a critic, from nothing, by cross-entropy; returns what was found. Without a signal it is left, untrusted,
    as it was at the end of `rounds`; else as it was, with a signal, where cross-entropy on `held_out` was least.

    It is trained on every prefix, so that the score of a text that goes on means what that of a whole one does.
    """
    init_discriminator(critic, rng)
    critic.to(train.real.ids_NT.device)  # once its weights are drawn, on the CPU as all random numbers are
    if critic.evidence is not None:
        critic.standardise(train.real.features_NTF)

    def of_every_prefix(x_BTX: Tensor) -> Tensor:
        return critic.prefix_scores(x_BTX)[:, critic.n_given :]

    optimizer = GAN().optimizer(critic.parameters(), learning_rate)
    learner = Learner(critic, GAN(), optimizer, of_every_prefix)
    found = until_signal(learner, train, held_out, schedule, rng, report)
    if not found.signal:
        return found
    best = cross_entropy(critic, held_out), found, _copy(critic)
    for number in range(1, schedule.more_rounds + 1):
        later = until_signal(learner, train, held_out, replace(schedule, rounds=1), rng)
        report(found.updates + number * schedule.updates, later)
        if (cost := cross_entropy(critic, held_out)) < best[0] and later.signal:
            best = cost, replace(found, interval=later.interval), _copy(critic)
    critic.load_state_dict(best[2])
    return best[1]


def until_signal(
    learner: Learner,
    train: Examples,
    held_out: Examples,
    schedule: Schedule,
    rng: torch.Generator,
    report: Report = lambda updates, found: None,
) -> SignalTest:
    """Train until there is a signal, or for all `rounds`; the caller goes no further without one.

    The chance of a signal where there is none stays below 1 - confidence however many rounds are measured: the interval
    of each of n has the confidence 1 - (1 - confidence) / n (Bonferroni).
    """
    confidence = 1 - (1 - schedule.confidence) / schedule.rounds
    for number in range(1, schedule.rounds + 1):
        for _ in range(schedule.updates):
            real, fake = (draw(read, schedule.batch_size, rng) for read in (train.real, train.fake))
            update(learner, Examples(real, fake), rng)
        real_N, fake_M = (scores(learner.critic, read) for read in (held_out.real, held_out.fake))
        interval = auc_interval(real_N, fake_M, confidence)
        found = SignalTest(interval, number * schedule.updates, schedule.bar)
        report(found.updates, found)
        if found.signal:
            break
    return found


def cross_entropy(critic: LSTMDiscriminator, held_out: Examples) -> float:
    """In nats: it asks, beyond an AUC, that exp(score) be the odds, as importance resampling takes it."""
    real_N, fake_N = scores(critic, held_out.real), scores(critic, held_out.fake)
    return GAN().critic_loss(lambda score_N: score_N, real_N, fake_N, torch.Generator()).item()


def update(learner: Learner, batch: Examples, rng: torch.Generator) -> float:
    """One update on as many real as generated sequences; returns the loss."""
    critic = learner.critic
    real, fake = critic.embed(*batch.real), critic.embed(*batch.fake)
    loss = learner.objective.critic_loss(learner.score or critic.score, real, fake, rng)
    learner.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    learner.optimizer.step()
    learner.objective.constrain(critic)
    return loss.item()


def draw(read: Read, n: int, rng: torch.Generator) -> Read:
    """`n` of the sequences, with replacement."""
    rows_B = torch.randint(len(read.ids_NT), (n,), generator=rng, device=rng.device)
    return read.rows(rows_B.to(read.ids_NT.device))


def auc_interval(real_N: Tensor, fake_M: Tensor, confidence: float) -> Interval:
    """P(a real sequence scores above a generated one), ties half, with limits for independent sequences.

    The variance is that of DeLong et al. 1988: of each score's mean rank against the other class. The limits are
    symmetric in the logit of the AUC, which keeps them within 0 and 1. Where all pairs are in order that variance is 0;
    then the limit is the exact one of min(N, M) independent pairs (Clopper & Pearson 1934). Scores that are not finite
    say nothing: nan, from 0 to 1. Needs two scores of each class.
    """
    if not (real_N.isfinite().all() and fake_M.isfinite().all()):
        return Interval(math.nan, 0.0, 1.0)
    difference_NM = real_N.double().unsqueeze(1) - fake_M.double()
    above_NM = torch.heaviside(difference_NM, difference_NM.new_tensor(0.5))
    auc = above_NM.mean().item()
    edge = ((1 - confidence) / 2) ** (1 / min(above_NM.shape))
    if auc in (0, 1):
        return Interval(auc, auc * edge, 1 - (1 - auc) * edge)
    variance = (above_NM.mean(1).var() / len(real_N) + above_NM.mean(0).var() / len(fake_M)).item()
    half = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(variance) / (auc * (1 - auc))
    low, high = (1 / (1 + (1 - auc) / auc * math.exp(-side * half)) for side in (-1, 1))
    return Interval(auc, low, high)


def _copy(critic: LSTMDiscriminator) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in critic.state_dict().items()}
