"""The adversarial game on points of the plane, where claims about its objectives can be measured.

They are the objectives of the text game. Points are continuous, so the generator learns from the gradient of its
reward itself, not through REINFORCE.

Shapes: B points, Z width of the noise, D = 2 coordinates.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from studies.gan.mixtures import Mixture
from troupe.adversarial.objectives import Objective
from troupe.seeding import generator

NOISE = 2  # Z


@dataclass(frozen=True)
class Rules:
    batch_size: int
    n_critic: int  # updates of the critic per update of the generator
    learning_rate: float  # of both players
    generator_hidden: Sequence[int]  # widths of the hidden layers
    critic_hidden: Sequence[int]


class ContinuousGame:
    """Two multilayer perceptrons and the mixture that one of them imitates. Every random draw comes from the seed."""

    def __init__(self, target: Mixture, objective: Objective, rules: Rules, seed: int) -> None:
        self.target, self.objective, self.rules = target, objective, rules
        self.generator = perceptron([NOISE, *rules.generator_hidden, 2], generator(seed, "continuous", "generator"))
        self.critic = perceptron([2, *rules.critic_hidden, 1], generator(seed, "continuous", "critic"))
        objective.constrain(self.critic)
        self.generator_optimizer = objective.optimizer(self.generator.parameters(), rules.learning_rate)
        self.critic_optimizer = objective.optimizer(self.critic.parameters(), rules.learning_rate)
        self.rng = generator(seed, "continuous", "play")

    def real(self) -> Tensor:
        """x_BD: a fresh batch of the mixture."""
        return self.target.sample(self.rules.batch_size, self.rng)

    def fake(self) -> Tensor:
        """x_BD: a fresh batch of the generator, with its gradient."""
        return self.generate(self.rules.batch_size, self.rng)

    def generate(self, n: int, rng: torch.Generator) -> Tensor:
        x_BD: Tensor = self.generator(torch.randn(n, NOISE, generator=rng))
        return x_BD

    def score(self, x_BD: Tensor) -> Tensor:
        score_B1: Tensor = self.critic(x_BD)
        return score_B1.squeeze(-1)


def perceptron(widths: Sequence[int], rng: torch.Generator) -> nn.Sequential:
    """Linear layers with ReLU between them, all uniform within 1 / sqrt(inputs), PyTorch's default."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        linear = nn.Linear(inputs, outputs)
        for parameter in linear.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator=rng)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def play(game: ContinuousGame) -> Iterator[float]:
    """Play without end: `n_critic` updates of the critic, then one of the generator. Yields the critic's last loss."""
    while True:
        for _ in range(game.rules.n_critic):
            loss = update_critic(game)
        update_generator(game)
        yield loss


def update_critic(game: ContinuousGame) -> float:
    """One step down the objective's loss on fresh points; returns that loss."""
    loss = game.objective.critic_loss(game.score, game.real(), game.fake().detach(), game.rng)
    game.critic_optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    game.critic_optimizer.step()
    game.objective.constrain(game.critic)
    return loss.item()


def update_generator(game: ContinuousGame) -> None:
    """One step up the reward of fresh points."""
    for parameter, gradient in zip(game.generator.parameters(), generator_gradient(game), strict=True):
        parameter.grad = gradient
    game.generator_optimizer.step()


def generator_gradient(game: ContinuousGame) -> tuple[Tensor, ...]:
    """Of minus the mean reward of a fresh batch, one tensor per parameter of the generator."""
    loss = -game.objective.reward(game.score(game.fake())).mean()
    return torch.autograd.grad(loss, list(game.generator.parameters()))


def norm(gradients: Iterable[Tensor]) -> float:
    """L2 norm over all tensors together."""
    return math.hypot(*(gradient.norm().item() for gradient in gradients))
