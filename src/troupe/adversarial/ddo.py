"""Direct Discriminative Optimization: the generator is its own discriminator (Zheng et al. 2025, arXiv:2503.01103).

ln p(x) / p_start(x) is the score of a GAN discriminator whose real class is text and whose other class is what the
start generates. The best score is ln p_data(x) / p_start(x), so the best p is p_data: no second network, no reward, no
sampling from the model that is trained.

Shapes: B sequences, T tokens (prompt and continuation), P tokens of prompt.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from troupe.adversarial.game import Game, GameText
from troupe.adversarial.loop import play
from troupe.adversarial.method import MethodResult, Task
from troupe.adversarial.policy import take_step
from troupe.adversarial.reinforce import LanguageModel, Reinforce, sequence_log_prob
from troupe.models.gpt2 import GPT, evaluating
from troupe.params import DdoParams


def run(task: Task, settings: DdoParams) -> MethodResult:
    """One candidate, the refined generator; none if no generator stayed within bounds."""
    text = GameText(task.data.shards("critic"), task.data.ids("validation"), task.data.tokenizer)
    rules = Reinforce(kl_cap=settings.kl_cap, likelihood_every=settings.likelihood_every)
    game = Game(task.start.model, text, settings, task.seed, rules)
    return play(task, "ddo", game, partial(ddo_step, start=game.start))


def log_ratio(model: LanguageModel, start: LanguageModel, ids_BT: Tensor, prompt_length: int) -> Tensor:
    """ln p(continuation) / p_start(continuation) given the prompt, in nats: score_B, with gradient to `model` only."""
    with torch.no_grad():
        start_B = sequence_log_prob(start, ids_BT, prompt_length)
    return sequence_log_prob(model, ids_BT, prompt_length) - start_B


def ddo_loss(
    model: LanguageModel, start: LanguageModel, real_BT: Tensor, written_BT: Tensor, prompt_length: int
) -> Tensor:
    """Cross-entropy of the implied discriminator, in nats; `written_BT` was written by `start`. Of the paper's two
    weights both are 1, so that the best model is the data's distribution; there it is 2 ln 2 - 2 JSD(data, start)."""
    real_B, written_B = (log_ratio(model, start, ids_BT, prompt_length) for ids_BT in (real_BT, written_BT))
    return F.softplus(-real_B).mean() + F.softplus(written_B).mean()


def ddo_step(game: Game, draw: int, start: GPT) -> dict[str, float]:
    """One step of the generator, from text and what `start` writes after the same prompts; a `loop.Learn`."""
    real_BT = game.real(draw)
    written_BT = game.fake(real_BT, draw, writer=start)
    with evaluating(start):
        loss = ddo_loss(game.generator, start, real_BT, written_BT, game.params.prompt_length)
    grad_norm, share = take_step(game, loss, written_BT)
    return {"generator/ddo_loss": loss.item(), "generator/grad_norm": grad_norm, "generator/step_share": share}
