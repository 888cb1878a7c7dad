"""One step of the generator: sample without gradient, have the samples scored, then follow the gradient; and what
steadies it: likelihood steps on real text, and a cap on how far it may go from where it started.

Shapes: B sequences, T tokens (prompt and continuation), P prefixes from the prompt to the whole.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from troupe.adversarial.game import Game
from troupe.adversarial.reinforce import continuation_log_probs, generator_loss, kl_per_token, likelihood_loss

SHARES = (1.0, 0.5, 0.25, 0.125, 0.0)  # of a step that would pass the cap, tried in this order


def update_generator(game: Game, draw: int) -> dict[str, float]:
    """Learn from continuations of real prompts, sampled from the generator as it is."""
    ids_BT = game.fake(game.real(draw), draw)
    reward_BP = rewards(game, ids_BT)
    figures = policy_step(game, ids_BT, game.rules.advantages(reward_BP), of_start(game, ids_BT))
    return {"reward/mean": reward_BP[:, -1].mean().item(), **figures}


def policy_step(game: Game, ids_BT: Tensor, advantage_BS: Tensor, start_BSV: Tensor) -> dict[str, float]:
    """One step along the policy gradient of sampled continuations, under the pull and the cap of the rules.

    `start_BSV` are the start's log-probabilities there; `advantage_BS` may be (B, 1)."""
    rules, params = game.rules, game.params
    loss = generator_loss(game.generator, start_BSV, ids_BT, advantage_BS, params.prompt_length)
    whole = loss.policy + params.sequence_length * (rules.kl_weight * loss.kl)  # both of whole sequences
    grad_norm, share = take_step(game, whole, ids_BT, start_BSV)
    return {
        "generator/kl": loss.kl.item(),
        "generator/entropy": loss.entropy.item(),
        "generator/grad_norm": grad_norm,
        "generator/step_share": share,
    }


def likelihood_step(game: Game, draw: int) -> dict[str, float]:
    """Learn from real text: from the batch whose prompts the update of the same draw continued."""
    real_BT = game.real(draw)
    loss = likelihood_loss(game.generator, real_BT, game.params.prompt_length)
    take_step(game, loss, real_BT)
    return {"generator/likelihood_loss": loss.item()}


def rewards(game: Game, ids_BT: Tensor) -> Tensor:
    """reward_BP of every prefix if the rules reward tokens, else (B, 1) of the whole text."""
    score_BP = game.prefix_scores(ids_BT) if game.rules.per_token else game.scores(ids_BT).unsqueeze(1)
    return score_BP.sigmoid() if game.rules.reward == "probability" else game.against.objective.reward(score_BP)


def take_step(game: Game, loss: Tensor, ids_BT: Tensor, start_BSV: Tensor | None = None) -> tuple[float, float]:
    """One step of the generator's optimiser down `loss`, scaled back until KL(generator || start) over the generated
    part of `ids_BT` is within the cap: (norm of the gradient before clipping, the share of the step that was taken).

    `start_BSV` are the start's log-probabilities there, where they are known already."""
    model, optimizer = game.generator, game.optimizer
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    grad_norm = clip_grad_norm_(model.parameters(), game.params.grad_clip).item()
    if math.isinf(game.rules.kl_cap):
        optimizer.step()
        return grad_norm, 1.0
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.step()
    start_BSV = of_start(game, ids_BT) if start_BSV is None else start_BSV
    return grad_norm, scale_back(model, before, lambda: kl_to_start(game, ids_BT, start_BSV) <= game.rules.kl_cap)


@torch.no_grad()
def of_start(game: Game, ids_BT: Tensor) -> Tensor:
    """What the start makes of the generated part of `ids_BT`: logp_BSV."""
    return continuation_log_probs(game.start, ids_BT, game.params.prompt_length)


@torch.no_grad()
def kl_to_start(game: Game, ids_BT: Tensor, start_BSV: Tensor | None = None) -> float:
    """KL(generator || start) at the generated prefixes of `ids_BT`, in nats per token."""
    logp_BSV = continuation_log_probs(game.generator, ids_BT, game.params.prompt_length)
    return kl_per_token(logp_BSV, of_start(game, ids_BT) if start_BSV is None else start_BSV).item()


@torch.no_grad()
def scale_back(model: nn.Module, before: list[Tensor], allowed: Callable[[], bool]) -> float:
    """Put the parameters at the largest of `SHARES` of the way from `before` to where they are that is allowed; return
    that share.

    Share 0 is not asked for: then the step is not taken, to the bit. The optimiser's moments keep what they saw.
    """
    after = [parameter.clone() for parameter in model.parameters()]
    for share in SHARES:
        for parameter, old, new in zip(model.parameters(), before, after, strict=True):
            parameter.copy_(torch.lerp(old, new, share) if share else old)  # new may not be finite
        if share == 0 or allowed():
            break
    return share
