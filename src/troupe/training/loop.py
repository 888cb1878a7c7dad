"""The training loop of every likelihood-trained model, dense or with experts. B sequences, T tokens.

The model it leaves behind is the best one that validation saw, not the last: a small corpus is read many times over,
and then the last steps can overfit.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from troupe.data.batches import Batches
from troupe.models.gpt2 import GPT
from troupe.params import TrainParams
from troupe.training.checkpoint import Checkpoint
from troupe.training.divergence import Watch, require_finite, require_health
from troupe.training.interruption import stopped
from troupe.training.loss import Autocast, cross_entropy
from troupe.training.optim import build_optimizers, set_rate
from troupe.training.parallel import Team
from troupe.training.schedule import learning_rate_factor
from troupe.training.state import restore, snapshot

Figures = dict[str, float]


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

    `log(step, values)` gets train/loss (nats per token of the batch), train/lr (of the first optimiser),
    train/grad_norm (before clipping), train/tokens_per_second and, at each look, what `validate()` finds. Stopped
    anywhere and called again with the newest checkpoint that it gave to `save`, it ends with the same weights to the
    byte: a step depends on its number and on what a checkpoint holds, nothing else.

    `penalty()`, a scalar, is asked for after each forward pass and added to the loss that is differentiated;
    train/loss stays the language model's, and train/penalty is logged beside it.

    `compiled` has torch.compile fuse the steps' forward and backward passes; validation, in other shapes, goes without.

    In a team of several processes each computes on its share of every batch, and all take the same step; only the one
    that leads validates, logs, saves, and returns figures and the best weights.

    Raises Diverged, naming the step, if the loss, its gradient or what validation finds is not finite, or the gradient
    has exploded; and Interrupted, after the step in progress and a last `save`, once `interrupted()` gives the number
    of a signal.
    """
    team = team or Team(device=next(model.parameters()).device)
    optimizers, best, watch = build_optimizers(model, params), Best(), Watch()
    start = _restore(resume, model, best, optimizers, team) if resume else 0
    model.train()
    forward = torch.compile(model, dynamic=False) if compiled else model
    for step in range(start, params.steps):
        began, done = time.perf_counter(), step + 1
        set_rate(optimizers, learning_rate_factor(step, params))
        x_BT, y_BT = (team.share(ids_BT).to(team.device) for ids_BT in batches.batches(step))
        loss = cross_entropy(forward, x_BT, y_BT, autocast)
        added = {"train/penalty": penalty()} if penalty else {}
        sum(added.values(), loss).backward()  # type: ignore[no-untyped-call]
        team.average_gradients(model)
        grad_norm = clip_grad_norm_(model.parameters(), params.grad_clip)
        measured = {"train/loss": loss, **added, "train/grad_norm": grad_norm}
        figures, asked_to_stop = _read(team, measured, interrupted())
        figures["train/lr"] = optimizers[0].param_groups[0]["lr"]
        require_health(watch, done, figures, params.steps)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

        figures["train/tokens_per_second"] = team.size * x_BT.numel() / (time.perf_counter() - began)
        if team.leads:
            if _due(done, params.eval_interval, params.steps):
                figures |= _look(validate, model, best, done, params.steps)
            log(done, figures)
        if asked_to_stop or _due(done, params.checkpoint_interval, params.steps):
            checkpoint = _snapshot(done, model, best, optimizers, team)
            if team.leads:
                save(checkpoint)
        if asked_to_stop:
            raise stopped(done, params.steps, interrupted())
    if team.leads:
        model.load_state_dict(best.weights)
    return best.figures


def _due(done: int, interval: int, steps: int) -> bool:
    return done % interval == 0 or done == steps


def _read(team: Team, measured: Mapping[str, Tensor], signal_number: int) -> tuple[Figures, bool]:
    """The figures of a step, and whether any process has been asked to stop: what one has heard all act upon."""
    *means, asked = team.means(*(value.detach() for value in measured.values()), signal_number)
    return dict(zip(measured, means, strict=True)), asked > 0


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
