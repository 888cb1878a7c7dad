"""The training loop of every likelihood-trained model, dense or with experts.

The model it leaves behind is the best one that validation saw, not the last: a small corpus is read many times over,
and then the last steps can overfit.
"""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor
from torch.optim import Optimizer

from troupe.compute import keep_memory
from troupe.data.batches import Batches
from troupe.models.gpt2 import GPT
from troupe.params import TrainParams
from troupe.training.checkpoint import Checkpoint
from troupe.training.divergence import require_finite
from troupe.training.interruption import stopped
from troupe.training.loss import Autocast
from troupe.training.parallel import Team
from troupe.training.state import restore, snapshot
from troupe.training.step import Figures, Step


class Best:
    """The weights of the look at validation with the fewest bits per byte, and what it saw."""

    def __init__(self) -> None:
        self.figures: Figures = {}
        self.weights: dict[str, Tensor] = {}

    def offer(self, model: GPT, figures: Figures) -> None:
        """Keep a copy of the model's weights if it is better than every one before."""
        if not self.weights or figures["val/bpb"] < self.figures["val/bpb"]:
            self.figures = figures
            self.weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}


def train(
    model: GPT,
    batches: Batches,
    validate: Callable[[], Figures],
    params: TrainParams,
    autocast: Autocast,
    log: Callable[[int, Mapping[str, float]], None],
    save: Callable[[Checkpoint], None],
    resume: Checkpoint | None = None,
    team: Team | None = None,
    interrupted: Callable[[], int] = lambda: 0,
    compiled: bool = False,
    penalty: Callable[[], Tensor] | None = None,
) -> Figures:
    """Train `model` in place for `params.steps` updates; return the figures of the best look at validation.

    `log(step, figures)` gets what a step measures (step.py, which takes `penalty` and `compiled`) and, at each look,
    what `validate()` finds. Stopped anywhere and called again with the newest checkpoint that it gave to `save`, it
    ends with the same weights to the byte: a step depends on its number and on what a checkpoint holds, nothing else.

    In a team of several processes each computes on its share of every batch, and all take the same step; only the one
    that leads validates, logs, saves, and returns figures and the best weights.

    Raises Diverged, naming the step, as step.py does and if what validation finds is not finite; and Interrupted, after
    the step in progress and a last `save`, once `interrupted()` gives the number of a signal.
    """
    keep_memory()
    team = team or Team(device=next(model.parameters()).device)
    step, best = Step(model, batches, params, autocast, team, penalty, compiled), Best()
    start = _restore(resume, model, best, step.optimizers, team) if resume else 0
    model.train()
    for done in range(start + 1, params.steps + 1):
        figures, asked_to_stop = step(done, interrupted)
        if team.leads:
            if _due(done, params.eval_interval, params.steps):
                figures |= _look(validate, model, best, done, params.steps)
            log(done, figures)
        if asked_to_stop or _due(done, params.checkpoint_interval, params.steps):
            checkpoint = _snapshot(done, model, best, step.optimizers, team)
            if team.leads:
                save(checkpoint)
        if asked_to_stop:
            raise stopped(done, params.steps, interrupted())
    if team.leads:
        model.load_state_dict(best.weights)
    return best.figures


def _due(done: int, interval: int, steps: int) -> bool:
    return done % interval == 0 or done == steps


def _look(validate: Callable[[], Figures], model: GPT, best: Best, done: int, steps: int) -> Figures:
    seen = validate()
    require_finite(seen, done, steps)  # NaN is less than nothing: once the best, no later look would be better
    best.offer(model, {"step": done, **seen})
    return seen


def _snapshot(done: int, model: GPT, best: Best, optimizers: Sequence[Optimizer], team: Team) -> Checkpoint:
    networks = {"model": model.state_dict(), "best": best.weights}
    return snapshot(done, networks, optimizers, {"best": best.figures}, team)


def _restore(checkpoint: Checkpoint, model: GPT, best: Best, optimizers: Sequence[Optimizer], team: Team) -> int:
    """Put back what `_snapshot` holds; returns the number of steps done."""
    networks = restore(checkpoint, optimizers, team.rank)
    model.load_state_dict(networks["model"])
    best.weights, best.figures = networks.get("best", {}), checkpoint.facts["best"]
    return checkpoint.step
