"""What an arm costs, in MACs (multiplications with their additions), so that likelihood training can be given as much.

Counted by hand from shapes: sampling, discriminator, reference, updates; a backward pass as two forward passes. Not
counted: looks and classifiers, from which no arm learns; of a tilt, n-grams and the fit of nine numbers to what
forward passes have found, which multiply no matrices. B sequences, T tokens of each.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from studies.adversarial.settings import GAMES, Arm, Settings
from studies.core.macs import TRAINING, forward_macs
from troupe.inspection.structure import without_weights
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT
from troupe.models.reader import PER_REFERENCE


class Costs:
    """MACs of every part, by the sizes of a configuration."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        config = GPTConfig(settings.text.vocab_size, **settings.model.model_dump())
        small = replace(config, **settings.small.model_dump())
        self.generator, self.reference = (forward_macs(without_weights(partial(GPT, size))) for size in (config, small))
        E, H, F = settings.game.critic_embd, settings.game.critic_hidden, 2 * PER_REFERENCE
        self.critic = 4 * H * (E + F + H) + H + F * (F + 3) // 2
        self.reading = self.generator + self.reference  # of the two references
        self.token_of_likelihood = TRAINING * self.generator

    def whole(self, arm: Arm) -> int:
        """All that an arm takes beside the likelihood model."""
        learner = self.settings.arms[arm.of] if arm.of else arm
        tilts = self.tilt(arm) + (self.tilt(learner) if arm.of else 0)
        return self.arm(arm) + self.likelihood(learner) + tilts

    def arm(self, arm: Arm) -> int:
        """What its game and its resampling take; more training by likelihood, and a tilt, are not among it."""
        learner = self.settings.arms[arm.of] if arm.of else arm
        game = learner.learn in GAMES
        asks = arm.candidates > 1 or (game and not learner.literal and learner.learn != "ddo")
        return asks * self._discriminator() + (self.game(learner) if game else 0)

    def game(self, arm: Arm) -> int:
        params, rules = self.settings.game_of(arm), self.settings.rules_of(arm)
        g, c, r = self.generator, self.critic, 0 if arm.literal else self.reading
        step = 2 * g  # to see whether the cap is kept
        training = {
            "reinforce": TRAINING * g + g + r + c + g + step,
            "distil": arm.distil_candidates * (g + r + c) + TRAINING * g + step,
            "ddo": g + 2 * g + 2 * TRAINING * g + step,
        }[arm.learn]
        if rules.likelihood_every:
            training += (TRAINING * g + step) // rules.likelihood_every
        passes = 4 if params.objective == "wgan-gp" else 2  # the penalty's own pass is differentiated twice
        critic = 0 if arm.learn == "ddo" else g + 2 * r + passes * TRAINING * c
        tokens = params.batch_size * (params.prompt_length + params.sequence_length)
        return tokens * (params.steps * (training + params.n_critic * critic) + params.warmup_critic * critic)

    def likelihood(self, arm: Arm) -> int:
        steps = {"likelihood": continued_steps(self.settings), "longer": self.settings.longer.steps}.get(arm.learn, 0)
        return self.token_of_likelihood * steps * self.settings.likelihood.batch_size * self.settings.model.block_size

    def tilt(self, arm: Arm) -> int:
        """A forward pass of every real text; by DDO one more of what is written, which costs as much to write."""
        params = self.settings.tilt
        passes = {"tilt by likelihood": 1, "tilt by ddo": 3 * params.rounds}.get(arm.learn, 0)
        return passes * params.texts * self.settings.model.block_size * self.generator

    def _discriminator(self) -> int:
        """With the reference through which it reads."""
        others = self.settings.others
        reference = TRAINING * self.reference * others.steps * others.batch_size * self.settings.model.block_size
        params, game = self.settings.discriminator, self.settings.game
        length = game.prompt_length + game.sequence_length
        updates = params.updates * (params.looks + params.more)  # at most
        shown = 2 * params.batch_size * updates * TRAINING * self.critic
        return reference + length * (params.texts * (self.generator + 2 * self.reading) + shown)


def dearest(settings: Settings, arms: Iterable[Arm]) -> int:
    """MACs of the arm whose game or resampling costs most."""
    return max(map(Costs(settings).arm, arms))


def continued_steps(settings: Settings) -> int:
    """Steps of likelihood training that cost as much as the dearest game or resampling."""
    per_step = Costs(settings).token_of_likelihood * settings.likelihood.batch_size * settings.model.block_size
    return math.ceil(dearest(settings, settings.arms.values()) / per_step)
