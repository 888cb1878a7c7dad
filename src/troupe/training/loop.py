"""The training loop of every likelihood-trained model, dense or with experts. B sequences, T tokens.

The model it leaves behind is the best one that validation saw, not the last: a small corpus is read many times over,
and then the last steps can overfit.
"""

import math
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from troupe.data.batches import Batches
from troupe.errors import Diverged
from troupe.models.gpt2 import GPT
from troupe.params import TrainParams
from troupe.training.checkpoint import Checkpoint
from troupe.training.divergence import Watch
from troupe.training.interruption import stopped
from troupe.training.loss import Autocast, cross_entropy
from troupe.training.optim import build_optimizers, set_rate
from troupe.training.parallel import Team
from troupe.training.schedule import learning_rate_factor
from troupe.training.state import restore, snapshot

Figures = dict[str, float]

ADVICE = "lower learning_rate or adamw_learning_rate, or raise warmup_steps"


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
) -> Figures:
    """Train `model` in place for `params.steps` updates; return the figures of the best look at validation.

    `log(step, values)` gets train/loss (nats per token of the batch), train/lr (of the first optimiser),
    train/grad_norm (before clipping), train/tokens_per_second and, at each look, what `validate()` finds. Stopped
    anywhere and called again with the newest checkpoint that it gave to `save`, it ends with the same weights to the
    byte: a step depends on its number and on what a checkpoint holds, nothing else.

    `compiled` has torch.compile fuse the steps' forward and backward passes; validation, in other shapes, goes without.

    In a team of several processes each computes on its share of every batch, and all take the same step; only the one
    that leads validates, logs, saves, and returns figures and the best weights.

    Raises Diverged, naming the step, if the loss, its gradient or what validation finds is not finite, or the gradient
    has exploded; and Interrupted, after the step in progress and a last `save`, once `interrupted()` gives the number
    of a signal.
    """
    team = team or Team(device=next(model.parameters()).device)
    optimizers = build_optimizers(model, params)
    best, watch, start = Best(), Watch(), 0
    if resume:
        networks, start = restore(resume, optimizers, team.rank), resume.step
        model.load_state_dict(networks["model"])
        best.weights, best.figures = networks.get("best", {}), resume.facts["best"]
    model.train()
    forward = torch.compile(model, dynamic=False) if compiled else model
    for step in range(start, params.steps):
        began, done = time.perf_counter(), step + 1
        set_rate(optimizers, learning_rate_factor(step, params))
        x_BT, y_BT = (team.share(ids_BT).to(team.device) for ids_BT in batches.batches(step))
        loss = cross_entropy(forward, x_BT, y_BT, autocast)
        loss.backward()  # type: ignore[no-untyped-call]
        team.average_gradients(model)
        grad_norm = clip_grad_norm_(model.parameters(), params.grad_clip)
        figures, asked_to_stop = _read(team, loss, grad_norm, interrupted())
        figures["train/lr"] = optimizers[0].param_groups[0]["lr"]
        _require_health(watch, done, figures, params)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

        figures["train/tokens_per_second"] = team.size * x_BT.numel() / (time.perf_counter() - began)
        if team.leads:
            if _due(done, params.eval_interval, params.steps):
                seen = validate()
                _require_finite(seen, done, params.steps)
                best.offer(model, {"step": done, **seen})
                figures |= seen
            log(done, figures)
        if asked_to_stop or _due(done, params.checkpoint_interval, params.steps):
            networks = {"model": model.state_dict(), "best": best.weights}
            checkpoint = snapshot(done, networks, optimizers, {"best": best.figures}, team)
            if team.leads:
                save(checkpoint)
        if asked_to_stop:
            raise stopped(done, params.steps, interrupted())
    if team.leads:
        model.load_state_dict(best.weights)
    return best.figures


def _due(done: int, interval: int, steps: int) -> bool:
    return done % interval == 0 or done == steps


def _read(team: Team, loss: Tensor, grad_norm: Tensor, signal_number: int) -> tuple[Figures, bool]:
    """The figures of a step, and whether any process has been asked to stop: what one has heard all act upon."""
    mean_loss, norm, asked = team.means(loss.detach(), grad_norm, signal_number)
    return {"train/loss": mean_loss, "train/grad_norm": norm}, asked > 0


def _require_health(watch: Watch, done: int, figures: Figures, params: TrainParams) -> None:
    """Called before the optimisers step, so that a gradient that is not finite never reaches weights or checkpoint."""
    rate = figures["train/lr"]
    if fault := watch.fault(figures["train/loss"], figures["train/grad_norm"]):
        raise Diverged(
            f"training diverged at step {done} of {params.steps}, learning rate {rate:.4g}: {fault}; {ADVICE}",
            since=done - watch.unhealthy,
        )


def _require_finite(seen: Figures, done: int, steps: int) -> None:
    """NaN is less than nothing: once taken for the best, no later look would be better."""
    if odd := {name: value for name, value in seen.items() if not math.isfinite(value)}:
        found = ", ".join(f"{name} {value}" for name, value in odd.items())
        raise Diverged(
            f"training diverged at step {done} of {steps}: {found} at the look at validation; {ADVICE}", done
        )
