"""What a discriminator minimises and a generator is rewarded with: GAN, WGAN and WGAN-GP as values of one interface.

Shapes: B sequences, T tokens, D width of an embedding. A score is raw (no sigmoid); higher means more like real text.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from troupe.params import AdversarialParams

Score = Callable[[Tensor], Tensor]  # embeddings_BTD -> score_B


class Objective(Protocol):
    def critic_loss(self, score: Score, real_BTD: Tensor, fake_BTD: Tensor, rng: torch.Generator) -> Tensor:
        """The scalar that the discriminator minimises over real and generated embeddings."""

    def reward(self, score_B: Tensor) -> Tensor:
        """reward_B for generated sequences with these scores; higher is better."""

    def constrain(self, critic: nn.Module) -> None:
        """Put the discriminator's weights back where the objective allows them; called after each of its updates."""

    def optimizer(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        """The discriminator's optimiser, with the settings its paper gives."""


@dataclass(frozen=True)
class GAN:
    """Goodfellow et al. 2014 (arXiv:1406.2661): D = sigmoid(score), trained by binary cross-entropy on the logits.

    At the best discriminator the score is log p_real(x) / p_fake(x) and the loss is 2 log 2 - 2 JSD(real, fake) nats.
    """

    def critic_loss(self, score: Score, real_BTD: Tensor, fake_BTD: Tensor, rng: torch.Generator) -> Tensor:
        """-mean log D(real) - mean log(1 - D(fake)), in nats."""
        return F.softplus(-score(real_BTD)).mean() + F.softplus(score(fake_BTD)).mean()

    def reward(self, score_B: Tensor) -> Tensor:
        """log D, the non-saturating choice (section 3): it still tells bad samples apart when D rejects them all."""
        return F.logsigmoid(score_B)

    def constrain(self, critic: nn.Module) -> None:
        pass

    def optimizer(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, learning_rate, betas=(0.5, 0.999))  # Radford et al. 2016, arXiv:1511.06434


@dataclass(frozen=True)
class WGAN:
    """Arjovsky et al. 2017 (arXiv:1701.07875), algorithm 1: a critic kept Lipschitz by clipping its weights."""

    clip: float

    def critic_loss(self, score: Score, real_BTD: Tensor, fake_BTD: Tensor, rng: torch.Generator) -> Tensor:
        """mean score(fake) - mean score(real): minus a multiple of the Wasserstein distance, at the best critic."""
        return score(fake_BTD).mean() - score(real_BTD).mean()

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

    def critic_loss(self, score: Score, real_BTD: Tensor, fake_BTD: Tensor, rng: torch.Generator) -> Tensor:
        """mean score(fake) - mean score(real) + weight * gradient penalty."""
        gap = score(real_BTD).mean() - score(fake_BTD).mean()
        return self.weight * gradient_penalty(score, real_BTD, fake_BTD, rng) - gap

    def reward(self, score_B: Tensor) -> Tensor:
        return score_B

    @torch.no_grad()
    def constrain(self, critic: nn.Module) -> None:
        for module in critic.modules():
            if isinstance(module, nn.Embedding):
                module.weight.copy_(module.weight.renorm(p=2, dim=0, maxnorm=1.0))

    def optimizer(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, learning_rate, betas=(0.0, 0.9))


def gradient_penalty(score: Score, real_BTD: Tensor, fake_BTD: Tensor, rng: torch.Generator) -> Tensor:
    """mean over sequences of (|gradient of the score| - 1)^2, at a random point between each real and fake sequence."""
    epsilon_B11 = torch.rand(len(real_BTD), 1, 1, generator=rng, device=rng.device, dtype=real_BTD.dtype)
    between_BTD = torch.lerp(fake_BTD.detach(), real_BTD.detach(), epsilon_B11.to(real_BTD.device)).requires_grad_()
    with torch.backends.cudnn.flags(enabled=False):  # cuDNN's LSTM has no double backward (pytorch issue 5261)
        score_B = score(between_BTD)
    (slope_BTD,) = torch.autograd.grad(score_B.sum(), between_BTD, create_graph=True)
    penalty: Tensor = ((slope_BTD.flatten(1).norm(dim=1) - 1) ** 2).mean()
    return penalty


def objective_from(params: AdversarialParams) -> Objective:
    """The objective that `adversarial.objective` names."""
    by_name: dict[str, Objective] = {
        "gan": GAN(),
        "wgan": WGAN(params.clip),
        "wgan-gp": WGANGP(params.gradient_penalty),
    }
    return by_name[params.objective]
