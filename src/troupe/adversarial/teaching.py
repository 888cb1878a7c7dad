"""A discriminator's lessons, before anything follows it: until it has a signal, and on to where its scores are odds.

Axes: N sequences, T tokens (prompt and continuation).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from troupe.adversarial.discrimination import Examples, Learner, Schedule, Verdict, pretrain
from troupe.adversarial.objectives import GAN
from troupe.decoding import Decoding, generate, side_by_side
from troupe.models.discriminator import LSTMDiscriminator, init_discriminator
from troupe.models.gpt2 import GPT
from troupe.models.reader import scores

AT_ONCE = 256  # sequences that are written side by side, at most


@dataclass(frozen=True)
class Course:
    """At most `looks` rounds of `updates` until the AUC clears `bar`; then `rounds` more, of which the best counts."""

    bar: float
    updates: int
    looks: int
    rounds: int
    batch_size: int  # of each class
    learning_rate: float


def teach(
    critic: LSTMDiscriminator,
    train: Examples,
    held_out: Examples,
    course: Course,
    rng: torch.Generator,
    tell: Callable[[int, Verdict], None] = lambda updates, verdict: None,
) -> Verdict:
    """Train a critic, from nothing, by cross-entropy; what it found. It is left as it was where cross-entropy on
    `held_out` was least since it had a signal, or untrusted, at the end of the course, if it never had one.

    It learns from every prefix, so that the score of a text that goes on means what that of a whole one does.
    `tell(updates, verdict)` is called after each round, with how many updates there have been.
    """
    init_discriminator(critic, rng)
    if critic.evidence is not None:
        critic.standardise(train.real.features_NTF)

    def rounds(bar: float, looks: int) -> Verdict:
        schedule = Schedule(bar, course.updates, looks, course.batch_size)
        return pretrain(learner, train, held_out, schedule, rng, told)

    def of_every_prefix(x_BTX: Tensor) -> Tensor:
        return critic.prefix_scores(x_BTX)[:, critic.n_given :]

    def told(verdict: Verdict) -> None:
        tell(done + verdict.updates, verdict)

    objective, done = GAN(), 0
    optimizer = objective.optimizer(critic.parameters(), course.learning_rate)
    learner = Learner(critic, objective, optimizer, of_every_prefix)
    verdict = rounds(course.bar, course.looks)
    if not verdict.signal:
        return verdict
    done, best = verdict.updates, (cost(critic, held_out), verdict, _copy(critic))
    for _ in range(course.rounds):
        later = rounds(course.bar, 1)
        done += course.updates
        if (paid := cost(critic, held_out)) < best[0]:
            best = paid, replace(verdict, interval=later.interval), _copy(critic)
    critic.load_state_dict(best[2])
    return best[1]


def cost(critic: LSTMDiscriminator, held_out: Examples) -> float:
    """Cross-entropy in nats: it asks, beyond an AUC, that exp(score) be the odds, as resampling takes it."""
    real_N, fake_N = scores(critic, held_out.real), scores(critic, held_out.fake)
    return GAN().critic_loss(lambda score_N: score_N, real_N, fake_N, torch.Generator()).item()


def continued(model: GPT, real_NT: Tensor, prompt_length: int, seeds: Sequence[int]) -> Tensor:
    """ids_NT: the same prompts, continued by a model at temperature 1."""
    parts, n_new, at_once = [], real_NT.size(1) - prompt_length, min(AT_ONCE, side_by_side(model.config))
    for first in range(0, len(real_NT), at_once):
        prompts_BP, own = real_NT[first : first + at_once, :prompt_length], seeds[first : first + at_once]
        parts.append(generate(model, prompts_BP, n_new, Decoding(), own))
    return torch.cat(parts)


def _copy(critic: LSTMDiscriminator) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in critic.state_dict().items()}
