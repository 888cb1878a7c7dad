"""The adversarial game over text: a language model writes, a discriminator learns to tell, REINFORCE closes the circle.

SeqGAN (Yu et al. 2017, arXiv:1609.05473), started from a trained model and held near it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from troupe.adversarial.discrimination import Examples, Learner, auc_interval, update
from troupe.adversarial.game import Game
from troupe.adversarial.policy import Figures, kl_to_start, likelihood_step, update_generator
from troupe.adversarial.selection import Look, better, distinct_2, fault, no_signal
from troupe.errors import TroupeError
from troupe.models.gpt2 import GPT
from troupe.models.switchhead import expert_usage, routers
from troupe.training.checkpoint import Checkpoint
from troupe.training.context import RunContext
from troupe.training.interruption import stopped
from troupe.training.state import restore, snapshot

Validate = Callable[[GPT], float]  # bits per byte of validation text; leaves the model in the mode it was in
Judge = Callable[[GPT], float]  # how often judges that trained on neither player tell its validation text: the worst's
Learn = Callable[[Game, int], Figures]  # one update of the generator, with draws of that number; "generator/grad_norm"


@dataclass(frozen=True)
class Kept:
    """The generator that stands so far: its weights, how it looked, and how the generator looked at the start."""

    weights: dict[str, Tensor]
    look: Look
    start: Look


@dataclass(frozen=True)
class Outcome:
    """How the game ended: the looks at the first and at the kept generator, and what stopped it early, if anything."""

    start: Look
    kept: Look
    fault: str | None


def refine(
    game: Game,
    validate: Validate,
    context: RunContext,
    learn: Learn = update_generator,
    judge: Judge | None = None,
) -> Outcome:
    """Play the game; afterwards `game.generator` is the generator that was kept: of the looks within `game.bounds`, the
    start among them, the one that `judge` finds best, or the last if there is no judge. It is not played if the
    discriminator has no signal at the start.

    `context.log` is called once for the start (step 0) and after every generator update. Stopped anywhere and called
    again with the newest checkpoint that it saved, it ends with the same weights to the byte.

    Raises TroupeError if the discriminator diverges before the game begins; and Interrupted, after the step in progress
    and a last checkpoint, once `context.interrupted()` gives the number of a signal.
    """
    params, resume = game.params, context.resume
    kept = take_up(game, resume) if resume else begin(game, validate, context, judge)
    if problem := no_signal(kept.start, game.bounds):
        return Outcome(kept.start, kept.look, problem)
    for step in range(resume.step + 1 if resume else 1, params.steps + 1):
        figures = play(game, step, learn)
        if not math.isfinite(figures["generator/grad_norm"]):
            problem = f"the generator's gradient is not finite at step {step}"
        elif _due(step, params.eval_interval, params.steps):
            found = look(game, step, validate, judge)
            figures |= found.figures() | experts(game)
            problem = fault(found, kept.start, game.bounds)
            if not problem and better(found, kept.look):
                kept = Kept(_copy(game.generator), found, kept.start)
        context.log(step, figures)
        if problem:
            break
        number = context.interrupted()
        if number or _due(step, params.checkpoint_interval, params.steps):
            context.save(put_down(game, step, kept))
        if number:
            raise stopped(step, params.steps, number)
    game.generator.load_state_dict(kept.weights)
    return Outcome(kept.start, kept.look, problem)


def begin(game: Game, validate: Validate, context: RunContext, judge: Judge | None = None) -> Kept:
    """Train the discriminator alone for `warmup_critic` updates, then look at where the game starts."""
    for draw in range(game.params.warmup_critic):
        if number := context.interrupted():
            raise stopped(0, game.params.steps, number)
        update_critic(game, draw)
    start = look(game, 0, validate, judge)
    if not math.isfinite(start.gap):
        raise TroupeError("the discriminator diverged in its warm-up; lower adversarial.critic_learning_rate")
    context.log(0, start.figures() | experts(game))
    return Kept(_copy(game.generator), start, start)


def play(game: Game, step: int, learn: Learn = update_generator) -> Figures:
    """One step of the game: `n_critic` updates of the discriminator, then one of the generator."""
    n_critic, every = game.params.n_critic, game.rules.likelihood_every
    first = game.params.warmup_critic + (step - 1) * (n_critic + 1)
    losses = [update_critic(game, draw) for draw in range(first, first + n_critic)]
    figures = {"critic/loss": losses[-1], **learn(game, first + n_critic)}
    return figures | likelihood_step(game, first + n_critic) if every and step % every == 0 else figures


def update_critic(game: Game, draw: int) -> float:
    """Show the discriminator fresh real and generated text once; return its loss."""
    real_BT = game.real(draw)
    batch = Examples(game.read(real_BT), game.read(game.fake(real_BT, draw)))
    learner = Learner(game.critic, game.objective, game.optimizers["critic"], game.trained_score(draw))
    return update(learner, batch, game.rng(draw, "between"))


def look(game: Game, step: int, validate: Validate, judge: Judge | None = None) -> Look:
    """Both players on validation text: the same prompts and the same random numbers at every look."""
    real_BT = game.held_out_BT
    fake_BT = game.fake(real_BT, "look")
    real_B, fake_B = game.scores(real_BT), game.scores(fake_BT)
    told = auc_interval(real_B, fake_B, 0.95)
    written_BS = fake_BT[:, game.params.prompt_length :]
    return Look(
        step,
        bpb=validate(game.generator),
        distinct_2=distinct_2(written_BS),
        auc=told.auc,
        auc_low=told.low,
        gap=(real_B.mean() - fake_B.mean()).item(),
        kl=kl_to_start(game, fake_BT),
        judge=judge(game.generator) if judge else None,
    )


def experts(game: Game) -> Figures:
    """How the routers of a generator that has any choose on validation text; named as in the stage before."""
    if not routers(game.generator):
        return {}
    usage = expert_usage(game.generator, game.held_out_BT)
    return {"moe/effective_experts": usage.effective_LRH.mean().item(), "moe/dead_experts": usage.dead}


def put_down(game: Game, step: int, kept: Kept) -> Checkpoint:
    """Everything the next step depends on; `take_up` is its inverse."""
    networks = {"generator": game.generator.state_dict(), "critic": game.critic.state_dict(), "kept": kept.weights}
    facts = {"kept": kept.look.facts(), "start": kept.start.facts()}
    return snapshot(step, networks, list(game.optimizers.values()), facts)


def take_up(game: Game, checkpoint: Checkpoint) -> Kept:
    networks = restore(checkpoint, list(game.optimizers.values()))
    game.generator.load_state_dict(networks["generator"])
    game.critic.load_state_dict(networks["critic"])
    return Kept(networks["kept"], Look(**checkpoint.facts["kept"]), Look(**checkpoint.facts["start"]))


def _copy(model: GPT) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _due(step: int, interval: int, steps: int) -> bool:
    return step % interval == 0 or step == steps
