"""What a discriminator minimises and a generator is rewarded with: GAN, WGAN and WGAN-GP as values of one interface.

The same values play over text, where an example is a sequence of embeddings (B, T, D), and over points (B, D).

Shapes: B examples, ... the axes of one example. A score is raw (no sigmoid); higher means more like a real example.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Score = Callable[[Tensor], Tensor]  # x_B... -> score_B


class Objective(Protocol):
    def critic_loss(self, score: Score, real: Tensor, fake: Tensor, rng: torch.Generator) -> Tensor:
        """The scalar that the discriminator minimises over real and generated examples, of shape (B, ...)."""

    def reward(self, score_B: Tensor) -> Tensor:
        """reward_B for generated examples with these scores; higher is better."""

    def constrain(self, critic: nn.Module) -> None:
        """Put the discriminator's weights back where the objective allows them; called after each of its updates."""

    def optimizer(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        """The optimiser, with the settings that the paper gives to both players."""


@dataclass(frozen=True)
class GAN:
    """Goodfellow et al. 2014 (arXiv:1406.2661): D = sigmoid(score), trained by binary cross-entropy on the logits.

    At the best discriminator the score is log p_real(x) / p_fake(x) and the loss is 2 log 2 - 2 JSD(real, fake) nats.
    The generator plays the minimax game if `saturating`, else it maximises log D (both section 3).
    """

    saturating: bool = False

    def critic_loss(self, score: Score, real: Tensor, fake: Tensor, rng: torch.Generator) -> Tensor:
        """-mean log D(real) - mean log(1 - D(fake)), in nats."""
        return F.softplus(-score(real)).mean() + F.softplus(score(fake)).mean()

    def reward(self, score_B: Tensor) -> Tensor:
        """-log(1 - D) if `saturating`: it is flat where D rejects everything; log D still tells bad examples apart."""
        return F.softplus(score_B) if self.saturating else F.logsigmoid(score_B)

    def constrain(self, critic: nn.Module) -> None:
        pass

    def optimizer(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, learning_rate, betas=(0.5, 0.999))  # Radford et al. 2016, arXiv:1511.06434


@dataclass(frozen=True)
class WGAN:
    """Arjovsky et al. 2017 (arXiv:1701.07875), algorithm 1: a critic kept Lipschitz by clipping its weights."""

    clip: float

    def critic_loss(self, score: Score, real: Tensor, fake: Tensor, rng: torch.Generator) -> Tensor:
        """mean score(fake) - mean score(real): minus a multiple of the Wasserstein distance, at the best critic."""
        return score(fake).mean() - score(real).mean()

    def reward(self, score_B: Tensor) -> Tensor:
        return score_B

    @torch.no_grad()
    def constrain(self, critic: nn.Module) -> None:
        for parameter in critic.parameters():
            parameter.clamp_(-self.clip, self.clip)

    def optimizer(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(parameters, learning_rate)  # momentum harmed their critic (section 4)


@dataclass(frozen=True)
class WGANGP:
    """Gulrajani et al. 2017 (arXiv:1704.00028), algorithm 1: a critic whose slope is held near 1.

    Tokens are discrete, so the sequences are interpolated as embeddings, with one epsilon per sequence. The penalty
    measures the slope per unit of embedding, so a critic that may scale its embedding widens the gap at no cost.
    Hence rows of its embedding never exceed norm 1: two sequences of T tokens are then at most 2 sqrt(T) apart, which
    bounds the gap of a critic of slope 1. Bounded rather than frozen, so that it can still learn which tokens differ.
    """

    weight: float

    def critic_loss(self, score: Score, real: Tensor, fake: Tensor, rng: torch.Generator) -> Tensor:
        """mean score(fake) - mean score(real) + weight * gradient penalty."""
        gap = score(real).mean() - score(fake).mean()
        return self.weight * gradient_penalty(score, real, fake, rng) - gap

    def reward(self, score_B: Tensor) -> Tensor:
        return score_B

    @torch.no_grad()
    def constrain(self, critic: nn.Module) -> None:
        for module in critic.modules():
            if isinstance(module, nn.Embedding):
                module.weight.copy_(module.weight.renorm(p=2, dim=0, maxnorm=1.0))

    def optimizer(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, learning_rate, betas=(0.0, 0.9))


def gradient_penalty(score: Score, real: Tensor, fake: Tensor, rng: torch.Generator) -> Tensor:
    """mean over examples of (|gradient of the score| - 1)^2, at a random point between each real and generated one."""
    epsilon_B = torch.rand(len(real), generator=rng, device=rng.device, dtype=real.dtype).to(real.device)
    share = epsilon_B.reshape(-1, *[1] * (real.dim() - 1))  # one epsilon for the whole of an example
    between = torch.lerp(fake.detach(), real.detach(), share).requires_grad_()
    with torch.backends.cudnn.flags(enabled=False):  # cuDNN's LSTM has no double backward (pytorch issue 5261)
        score_B = score(between)
    (slope,) = torch.autograd.grad(score_B.sum(), between, create_graph=True)
    penalty: Tensor = ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()
    return penalty


def objective_of(name: str, clip: float, gradient_penalty: float) -> Objective:
    """The objective of that name, with the constants that the others do not need."""
    by_name: dict[str, Objective] = {"gan": GAN(), "wgan": WGAN(clip), "wgan-gp": WGANGP(gradient_penalty)}
    return by_name[name]
