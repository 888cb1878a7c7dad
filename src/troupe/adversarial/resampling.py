"""A generator that learns what was drawn among its own candidates.

The residual energy-based model of Deng et al. 2020 (arXiv:2004.11714) is p(x) proportional to q(x) exp(score(x)): q the
generator, score a discriminator trained by cross-entropy (objectives.GAN), which at its best is ln p_data(x) / q(x).
Sampling-importance-resampling (Rubin 1987) draws from it: exactly as the number of candidates grows; with one
candidate, from the generator.

Shapes: N prompts of P tokens, K candidates of each, T tokens (prompt and continuation), B sequences at once.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from troupe.adversarial.game import Game
from troupe.adversarial.policy import Figures, take_step
from troupe.adversarial.reinforce import likelihood_loss

Write = Callable[[Tensor], Tensor]  # prompts_BP -> ids_BT
Scores = Callable[[Tensor], Tensor]  # ids_BT -> score_B, ln of the odds that a sequence is real


def resample(ids_NKT: Tensor, score_NK: Tensor, rng: torch.Generator) -> Tensor:
    """ids_NT: of each row one candidate, drawn in proportion to exp(score)."""
    weight_NK = score_NK.double().softmax(-1).to(rng.device)
    drawn_N1 = torch.multinomial(weight_NK, 1, generator=rng).to(ids_NKT.device)
    return ids_NKT.take_along_dim(drawn_N1.unsqueeze(-1), dim=1).squeeze(1)


def resampled(write: Write, scores: Scores, prompts_NP: Tensor, candidates: int, rng: torch.Generator) -> Tensor:
    """ids_NT: every prompt continued by one of `candidates` continuations, `resample` says which."""
    ids_BT = write(prompts_NP.repeat_interleave(candidates, dim=0))
    ids_NKT, score_NK = (torch.unflatten(x, 0, (-1, candidates)) for x in (ids_BT, scores(ids_BT)))
    return resample(ids_NKT, score_NK, rng)


def distil_step(game: Game, draw: int, candidates: int) -> Figures:
    """The generator learns by likelihood what was drawn from its own candidates; a `loop.Learn` for `loop.refine`.

    Step by step with a discriminator that keeps up, it follows its residual model towards the data. It rests where the
    discriminator cannot tell: then every candidate is as likely to be drawn, and its own text teaches it nothing.
    """
    prompts_BP = game.real(draw)[:, : game.params.prompt_length]
    rng = game.rng(draw, "resample")
    ids_BT = resampled(lambda prompts_BP: game.fake(prompts_BP, draw), game.scores, prompts_BP, candidates, rng)
    loss = likelihood_loss(game.generator, ids_BT, game.params.prompt_length)
    grad_norm, share = take_step(game, loss, ids_BT)
    return {
        "generator/likelihood_loss": loss.item(),
        "generator/grad_norm": grad_norm,
        "generator/step_share": share,
    }
