"""One job of the study of adversarial objectives: a game on a mixture, by one arm, with one seed.

Shapes: B points, D = 2 coordinates.
"""

import math
import time
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from studies.core.jobs import Figures, Job
from studies.gan.game import ContinuousGame, Rules, generator_gradient, norm, play, update_critic
from studies.gan.mixtures import coverage, mixture, sliced_wasserstein
from troupe.adversarial.objectives import GAN, WGAN, WGANGP, Objective
from troupe.params import Count, Rate, Section, Weight
from troupe.seeding import generator

SAMPLES = 2500  # that a generator is judged by, as in both papers
DRAWN = 400  # points of a run that the figure shows
FAR = 1000.0  # a coordinate that is not finite, or beyond, counts as this one: no figure of a diverged run is a NaN


Part = Literal["main", "sweep", "strong_critic"]


class Arm(Section):
    """An objective with its constants (those of the others stay 0), and how its players learn."""

    objective: Literal["gan", "wgan", "wgan-gp"]
    saturating: bool = False
    clip: Weight = 0.0
    gradient_penalty: Weight = 0.0
    n_critic: Count
    learning_rate: Rate

    def value(self) -> Objective:
        by_name: dict[str, Objective] = {
            "gan": GAN(self.saturating),
            "wgan": WGAN(self.clip),
            "wgan-gp": WGANGP(self.gradient_penalty),
        }
        return by_name[self.objective]


class Task(Section):
    """`main` and `sweep` play `steps` updates of the generator; `strong_critic` makes as many of the critic alone."""

    part: Part
    arm: Arm
    mixture: Literal["ring", "grid"]
    steps: Count
    looks: Count
    batch_size: Count
    generator_hidden: list[Count] = Field(min_length=1)
    critic_hidden: list[Count] = Field(min_length=1)

    def game(self, seed: int) -> ContinuousGame:
        arm = self.arm
        rules = Rules(self.batch_size, arm.n_critic, arm.learning_rate, self.generator_hidden, self.critic_hidden)
        return ContinuousGame(mixture(self.mixture), arm.value(), rules, seed)


def run_task(job: Job, folder: Path, needed: Path | None) -> Figures:
    """The body of a job."""
    task = Task.model_validate(job.settings)
    game = task.game(job.seed)
    return strengthen(game, task.steps) if task.part == "strong_critic" else play_out(game, task, job.seed)


def play_out(game: ContinuousGame, task: Task, seed: int) -> Figures:
    """Looks at evenly spaced steps, with the critic's mean loss since the last; CPU seconds per 1,000 steps."""
    held_out_BD = game.target.sample(SAMPLES, generator(seed, "study", "held out"))
    rounds, every, seconds = play(game), task.steps // task.looks, 0.0
    looks = [look(game, held_out_BD, seed)]
    for step in range(every, every * task.looks + 1, every):
        began = time.process_time()
        losses = list(islice(rounds, every))
        seconds += time.process_time() - began
        looks.append({"step": step, "loss": bounded(mean(losses)), **look(game, held_out_BD, seed)})
    points = points_of(game, seed)[:DRAWN].tolist()
    return {"looks": looks, "seconds": 1000 * seconds / (every * task.looks), "points": points}


def look(game: ContinuousGame, held_out_BD: Tensor, seed: int) -> Figures:
    x_BD = points_of(game, seed)
    return {**vars(coverage(x_BD, game.target)), "distance": sliced_wasserstein(x_BD, held_out_BD)}


@torch.no_grad()
def points_of(game: ContinuousGame, seed: int) -> Tensor:
    """x_BD: `SAMPLES` points, of the same noise at every look."""
    return game.generate(SAMPLES, generator(seed, "study", "noise")).clamp(-FAR, FAR).nan_to_num(FAR)


def bounded(value: float) -> float:
    return max(-FAR, min(FAR, value)) if not math.isnan(value) else FAR


def strengthen(game: ContinuousGame, steps: int) -> Figures:
    """Norms [step, L2 norm of the generator's gradient] as the critic alone learns, at step 0 and at powers of two."""
    norms = []
    for step in range(steps + 1):
        if step & (step - 1) == 0:
            norms.append([step, bounded(norm(generator_gradient(game)))])
        update_critic(game)
    return {"norms": norms}
