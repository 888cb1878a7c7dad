"""A generator that is trained by likelihood on what a discriminator draws among its own candidates.

The residual energy-based model of Deng et al. 2020 (arXiv:2004.11714) is p(x) proportional to q(x) exp(score(x)): q the
generator, score a discriminator trained by cross-entropy (objectives.GAN), which at its best is ln p_data(x) / q(x).
Sampling-importance-resampling (Rubin 1987) draws from it: of several candidates one in proportion to exp(score), which
is exact as the number of candidates grows. Step by step with a discriminator that keeps up, the generator moves towards
the data. Where the discriminator cannot tell, every candidate is as likely to be drawn, and nothing is learned.

Shapes: N prompts of P tokens, K candidates of each, T tokens (prompt and continuation), B sequences at once.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from troupe.adversarial.game import Game, GameText, Opponent
from troupe.adversarial.loop import play
from troupe.adversarial.method import MethodResult, Task
from troupe.adversarial.objectives import GAN
from troupe.adversarial.policy import take_step
from troupe.adversarial.pretraining import Pretrained, pretrained
from troupe.adversarial.reinforce import Reinforce, likelihood_loss
from troupe.params import DistilParams

Write = Callable[[Tensor], Tensor]  # prompts_BP -> ids_BT
Scores = Callable[[Tensor], Tensor]  # ids_BT -> score_B, ln of the odds that a sequence is real


def run(task: Task, settings: DistilParams) -> MethodResult:
    """One candidate, the refined generator; none without a signal, or if no generator stayed within bounds."""
    return run_against(pretrained(task, settings), task, settings)


def run_against(before: Pretrained, task: Task, settings: DistilParams) -> MethodResult:
    """The same with a discriminator that was trained before, and is trained further."""
    if not before.found.signal:
        return MethodResult({}, before.facts(), str(before.found))
    discriminator, rate = before.discriminator, settings.discriminator.learning_rate
    opponent = Opponent(discriminator.critic, discriminator.features, GAN(), rate, settings.n_critic)
    text = GameText(task.data.shards("critic"), task.data.ids("validation"), task.data.tokenizer)
    rules = Reinforce(kl_cap=settings.kl_cap, likelihood_every=settings.likelihood_every)
    game = Game(task.start.model, text, settings, task.seed, rules, opponent)
    learn = partial(distil_step, candidates=settings.candidates)
    return play(task, "distil", game, learn, before)


def distil_step(game: Game, draw: int, candidates: int) -> dict[str, float]:
    """One step of the generator on what was drawn from its own candidates; a `loop.Learn`."""
    prompts_BP = game.real(draw)[:, : game.params.prompt_length]
    rng = game.rng(draw, "resample")
    ids_BT = resampled(lambda prompts_BP: game.fake(prompts_BP, draw), game.scores, prompts_BP, candidates, rng)
    loss = likelihood_loss(game.generator, ids_BT, game.params.prompt_length)
    grad_norm, share = take_step(game, loss, ids_BT)
    return {
        "generator/distil_loss": loss.item(),
        "generator/grad_norm": grad_norm,
        "generator/step_share": share,
    }


def resampled(write: Write, scores: Scores, prompts_NP: Tensor, candidates: int, rng: torch.Generator) -> Tensor:
    """ids_NT: every prompt continued by one of `candidates` continuations, as `resample` draws."""
    ids_BT = write(prompts_NP.repeat_interleave(candidates, dim=0))
    ids_NKT, score_NK = (torch.unflatten(x, 0, (-1, candidates)) for x in (ids_BT, scores(ids_BT)))
    return resample(ids_NKT, score_NK, rng)


def resample(ids_NKT: Tensor, score_NK: Tensor, rng: torch.Generator) -> Tensor:
    """ids_NT: of each row one candidate, drawn in proportion to exp(score)."""
    weight_NK = score_NK.double().softmax(-1).to(rng.device)
    drawn_N1 = torch.multinomial(weight_NK, 1, generator=rng).to(ids_NKT.device)
    return ids_NKT.take_along_dim(drawn_N1.unsqueeze(-1), dim=1).squeeze(1)
