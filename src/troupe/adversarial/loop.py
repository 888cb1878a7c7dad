"""The training of a generator in an adversarial game: steps of both players, measurements, checkpoints.

SeqGAN (Yu et al. 2017, arXiv:1609.05473), started from a trained model and held near it; with another update of the
generator, distillation (distil.py) or direct discriminative optimization (ddo.py).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from troupe.adversarial.discrimination import Examples, Learner, auc_interval, update
from troupe.adversarial.game import Game, Look, distinct_2, fault, no_signal
from troupe.adversarial.method import Facts, MethodResult, Task
from troupe.adversarial.policy import kl_to_start, likelihood_step, update_generator
from troupe.adversarial.pretraining import Pretrained
from troupe.errors import TroupeError
from troupe.models.gpt2 import GPT
from troupe.models.switchhead import expert_usage, routers
from troupe.progress import track
from troupe.training.checkpoint import Checkpoint, restore, snapshot
from troupe.training.loop import RunContext
from troupe.training.stops import signals_noted, stopped

Validate = Callable[[GPT], float]  # bits per byte of validation text; leaves the model in the mode it was in
Learn = Callable[[Game, int], dict[str, float]]  # one generator update, with draws of that number
USAGE = 32  # sequences on which routers are watched: of some thousand tokens the shares are sure to a hundredth
SHOWN = ("critic/loss", "reward/mean", "generator/kl", "val/bpb", "critic/auc")  # in the progress line


@dataclass(frozen=True)
class Kept:
    """The last generator within bounds: its weights, its measurement, and that of the start."""

    weights: dict[str, Tensor]
    look: Look
    start: Look


@dataclass(frozen=True)
class Outcome:
    """How a game ended: the measurements of the first and of the kept generator, and what stopped it early."""

    start: Look
    kept: Look
    fault: str | None

    def facts(self, game: Game) -> Facts:
        """As they are stored."""
        real_BS = game.held_out_BT[:, game.params.prompt_length :]
        return {
            "steps": game.params.steps,
            "stopped": self.fault,
            "collapsed": self.fault is not None and no_signal(self.start, game.bounds) is None,
            "kept_step": self.kept.step,
            **{f"start/{name}": value for name, value in self.start.figures().items()},
            **{f"kept/{name}": value for name, value in self.kept.figures().items()},
            "real/val/distinct_2": distinct_2(real_BS),
        }

    def __str__(self) -> str:
        if self.fault:
            return f"the game stopped: {self.fault}; kept step {self.kept.step}"
        return f"kept step {self.kept.step} of the game"


def play(task: Task, name: str, game: Game, learn: Learn, before: Pretrained | None = None) -> MethodResult:
    """Play a method's game with progress and checkpoints; its candidate is the last generator within bounds.

    `before` is its discriminator as it was trained before the game.

    Raises Interrupted after the step in progress and a last checkpoint, and what `refine` raises.
    """
    context, steps = task.context, game.params.steps
    done = context.resume.step if context.resume else 0
    with track(f"adversarial: {name}", steps, done) as show, signals_noted() as interrupted:

        def log(step: int, figures: Mapping[str, float]) -> None:
            context.log(step, figures)
            show(step, {figure: figures[figure] for figure in SHOWN if figure in figures})

        own = RunContext(log=log, save=context.save, resume=context.resume, interrupted=interrupted)
        outcome = refine(game, task.bits_per_byte, own, learn)
    candidates = {name: game.generator} if outcome.kept.step else {}
    facts = {**(before.facts() if before else {}), **outcome.facts(game), "resumed_at_step": done}
    reason = f"{before.found}; {outcome}" if before else str(outcome)
    return MethodResult(
        candidates,
        facts,
        reason,
        provenance={"kept_step": outcome.kept.step, **(before.provenance() if before else {})},
    )


def refine(game: Game, validate: Validate, context: RunContext, learn: Learn = update_generator) -> Outcome:
    """Play the game; afterwards `game.generator` is the last measured generator within `game.bounds`, which may be the
    start. It is not played if the discriminator has no signal at the start.

    `context.log` is called once for the start (step 0) and after every generator update. Stopped anywhere and called
    again with the newest checkpoint that it saved, it ends with the same weights to the byte.

    Raises TroupeError if the discriminator diverges before the game begins; and Interrupted, after the step in progress
    and a last checkpoint, once `context.interrupted()` gives the number of a signal.
    """
    params, resume = game.params, context.resume
    kept = take_up(game, resume) if resume else begin(game, validate, context)
    if problem := no_signal(kept.start, game.bounds):
        return Outcome(kept.start, kept.look, problem)
    for step in range(resume.step + 1 if resume else 1, params.steps + 1):
        figures = play_step(game, step, learn)
        if not math.isfinite(figures["generator/grad_norm"]):
            problem = f"the generator's gradient is not finite at step {step}"
        elif _due(step, params.eval_interval, params.steps):
            found = look(game, step, validate)
            figures |= found.figures() | experts(game)
            problem = fault(found, kept.start, game.bounds)
            if not problem:
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


def begin(game: Game, validate: Validate, context: RunContext) -> Kept:
    """Train the discriminator alone for `warmup` updates, then measure where the game starts."""
    for draw in range(game.opponent.warmup if game.opponent else 0):
        if number := context.interrupted():
            raise stopped(0, game.params.steps, number)
        update_critic(game, draw)
    start = look(game, 0, validate)
    if start.gap is not None and not math.isfinite(start.gap):
        raise TroupeError("the discriminator diverged in its warm-up; lower its learning_rate")
    context.log(0, start.figures() | experts(game))
    return Kept(_copy(game.generator), start, start)


def play_step(game: Game, step: int, learn: Learn = update_generator) -> dict[str, float]:
    """One step of the game: `n_critic` updates of the discriminator, if there is one, then one of the generator."""
    n_critic, warmup = (game.opponent.n_critic, game.opponent.warmup) if game.opponent else (0, 0)
    every, first = game.rules.likelihood_every, warmup + (step - 1) * (n_critic + 1)
    figures: dict[str, float] = {}
    for draw in range(first, first + n_critic):
        figures["critic/loss"] = update_critic(game, draw)
    figures |= learn(game, first + n_critic)
    return figures | likelihood_step(game, first + n_critic) if every and step % every == 0 else figures


def update_critic(game: Game, draw: int) -> float:
    """Show the discriminator fresh real and generated text once; return its loss."""
    real_BT, opponent = game.real(draw), game.against
    batch = Examples(game.read(real_BT), game.read(game.fake(real_BT, draw)))
    learner = Learner(opponent.critic, opponent.objective, opponent.optimizer, game.trained_score(draw))
    with game.small_steps():
        return update(learner, batch, game.rng(draw, "between"))


def look(game: Game, step: int, validate: Validate) -> Look:
    """Both players on validation text: the same prompts and the same random numbers every time."""
    real_BT = game.held_out_BT
    fake_BT = game.fake(real_BT, "look")
    written_BS = fake_BT[:, game.params.prompt_length :]
    generator = Look(step, validate(game.generator), distinct_2(written_BS), kl_to_start(game, fake_BT))
    if not game.opponent:
        return generator
    real_B, fake_B = game.scores_of(game.held_out), game.scores(fake_BT)
    found = auc_interval(real_B, fake_B, 0.95)
    gap = (real_B.mean() - fake_B.mean()).item()
    return replace(generator, auc=found.auc, auc_low=found.low, gap=gap)


def experts(game: Game) -> dict[str, float]:
    """How the routers of a generator that has any choose on validation text; named as in the stage before."""
    if not routers(game.generator):
        return {}
    usage = expert_usage(game.generator, game.held_out_BT[:USAGE])
    return {"moe/effective_experts": usage.effective_LRH.mean().item(), "moe/dead_experts": usage.dead}


def put_down(game: Game, step: int, kept: Kept) -> Checkpoint:
    """Everything the next step depends on; `take_up` is its inverse."""
    networks = {"generator": game.generator.state_dict(), "kept": kept.weights}
    if game.opponent:
        networks["critic"] = game.opponent.critic.state_dict()
    facts = {"kept": kept.look.facts(), "start": kept.start.facts()}
    return snapshot(step, networks, game.optimizers, facts)


def take_up(game: Game, checkpoint: Checkpoint) -> Kept:
    networks = restore(checkpoint, game.optimizers)
    game.generator.load_state_dict(networks["generator"])
    if game.opponent:
        game.opponent.critic.load_state_dict(networks["critic"])
    return Kept(networks["kept"], Look(**checkpoint.facts["kept"]), Look(**checkpoint.facts["start"]))


def _copy(model: GPT) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _due(step: int, interval: int, steps: int) -> bool:
    return step % interval == 0 or step == steps
