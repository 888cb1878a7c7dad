"""Training by likelihood, dense model or experts, as one story.

Each step: set the rate, draw a batch, differentiate its loss, clip the gradient, update the weights, log; now and then
evaluate on validation text and save a checkpoint. The model that is left behind is the best one that validation saw,
not the last: a small corpus is read many times over, and then the last steps can overfit.

B sequences, T tokens of context, V vocabulary, N tokens of a split.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from troupe.compute import Autocast, compile_passes, keep_memory
from troupe.data.batches import Batches
from troupe.data.dataset import Ids
from troupe.models.gpt2 import GPT
from troupe.params import TrainParams
from troupe.training.checkpoint import Checkpoint, restore, snapshot
from troupe.training.optim import build_optimizers, learning_rate_factor, precision_of_muon, set_rate, update
from troupe.training.parallel import Team
from troupe.training.stops import Watch, require_finite, require_health, stopped

LOOKED_AT = 2**20  # tokens at most: a look must stay short beside the steps between two looks
LOGITS_PER_BATCH = 2**22  # 16 MB in float32: the batch shrinks as context and vocabulary grow
StepFigures = dict[str, float]
Penalty = Callable[[], Tensor]  # a scalar, asked for after each forward pass


def _ignored(*_: object) -> None:
    """Nobody asked for it."""


def _never() -> int:
    return 0


@dataclass(frozen=True)
class RunContext:
    """How to compute, where figures and checkpoints go, and when to stop. By default: in float32, without a trace."""

    autocast: Autocast = nullcontext  # the precision of a forward pass
    compiled: bool = False  # whether torch.compile fuses forward and backward passes
    team: Team | None = None  # the processes that train together; None: this one alone, on the model's device
    log: Callable[[int, Mapping[str, float]], None] = _ignored  # called with the number of a step and its figures
    save: Callable[[Checkpoint], None] = _ignored
    resume: Checkpoint | None = None  # the newest that `save` was called with before
    interrupted: Callable[[], int] = _never  # the number of the signal that asks to stop, 0 for none

    def team_of(self, model: nn.Module) -> Team:
        """The processes that train `model`."""
        return self.team or Team(device=next(model.parameters()).device)


def train(
    model: GPT,
    batches: Batches,
    validate: Callable[[], StepFigures],
    params: TrainParams,
    context: RunContext,
    penalty: Penalty | None = None,
) -> StepFigures:
    """Train `model` in place for `params.steps` updates; return the figures of the best look at validation.

    `context.log(step, figures)` gets what a step measures (Step) and, at each look, what `validate()` finds. `penalty`
    is added to the loss that is differentiated. Stopped anywhere and called again with the newest checkpoint that it
    saved, it ends with the same weights to the byte: a step depends on its number and on what a checkpoint holds,
    nothing else.

    In a team of several processes each computes on its share of every batch, and all take the same step; only the one
    that leads validates, logs, saves, and returns figures and the best weights.

    Raises Diverged, naming the step, as Step does and if what validation finds is not finite; and Interrupted, after
    the step in progress and a last checkpoint, once `context.interrupted()` gives the number of a signal.
    """
    keep_memory()
    team, best = context.team_of(model), Best()
    step = Step(model, batches, params, context, penalty)
    start = _restore(context.resume, model, best, step.optimizers, team) if context.resume else 0
    model.train()
    for done in range(start + 1, params.steps + 1):
        figures, asked_to_stop = step(done)
        if team.leads:
            if _due(done, params.eval_interval, params.steps):
                figures |= _look(validate, model, best, done, params.steps)
            context.log(done, figures)
        if asked_to_stop or _due(done, params.checkpoint_interval, params.steps):
            checkpoint = _snapshot(done, model, best, step.optimizers, team)
            if team.leads:
                context.save(checkpoint)
        if asked_to_stop:
            raise stopped(done, params.steps, context.interrupted())
    if team.leads:
        model.load_state_dict(best.weights)
    return best.figures


class Step:
    """The steps of one training, each a function of its number, the weights and the optimisers' state."""

    def __init__(
        self, model: GPT, batches: Batches, params: TrainParams, context: RunContext, penalty: Penalty | None = None
    ) -> None:
        self.model, self.batches, self.params, self.context = model, batches, params, context
        self.penalty, self.team = penalty, context.team_of(model)
        self.forward = compile_passes(model, self.team.device) if context.compiled else model
        self.optimizers = build_optimizers(model, params, precision_of_muon(context.autocast, self.team.device))
        self.watch = Watch()

    def __call__(self, done: int) -> tuple[StepFigures, bool]:
        """Take the step after which `done` are done; returns its figures, and whether any process of the team has been
        asked to stop, so that all act upon it.

        Figures: train/loss (nats per token of the batch, without the penalty), train/penalty where there is one,
        train/grad_norm (before clipping), train/lr (of the first optimiser) and train/tokens_per_second.

        Raises Diverged, with the weights as they were, if loss or gradient is not finite or the gradient has exploded.
        """
        began = time.perf_counter()
        set_rate(self.optimizers, learning_rate_factor(done - 1, self.params))
        measured = self._differentiate(done - 1)
        figures, asked_to_stop = self._read(measured)
        figures["train/lr"] = self.optimizers[0].param_groups[0]["lr"]
        require_health(self.watch, done, figures, self.params.steps)
        update(self.optimizers)
        tokens = self.batches.batch_size * self.batches.block_size
        return figures | {"train/tokens_per_second": tokens / (time.perf_counter() - began)}, asked_to_stop

    def _differentiate(self, number: int) -> dict[str, Tensor]:
        """Leave behind the gradient of the whole team's batch, clipped; what is returned is of this process's share."""
        x_BT, y_BT = (self.team.share(ids_BT).to(self.team.device) for ids_BT in self.batches.batches(number))
        loss = cross_entropy(self.forward, x_BT, y_BT, self.context.autocast)
        added = {"train/penalty": self.penalty()} if self.penalty else {}
        sum(added.values(), loss).backward()  # type: ignore[no-untyped-call]
        self.team.average_gradients(self.model)
        grad_norm = clip_grad_norm_(self.model.parameters(), self.params.grad_clip)
        return {"train/loss": loss, **added, "train/grad_norm": grad_norm}

    def _read(self, measured: Mapping[str, Tensor]) -> tuple[StepFigures, bool]:
        """The team's means, in one exchange and with one wait for the device."""
        values = [value.detach() for value in measured.values()]
        *means, asked = self.team.means(*values, self.context.interrupted())
        return dict(zip(measured, means, strict=True)), asked > 0


class Best:
    """The weights of the look at validation with the fewest bits per byte, and what it saw."""

    def __init__(self) -> None:
        self.figures: StepFigures = {}
        self.weights: dict[str, Tensor] = {}

    def offer(self, model: GPT, figures: StepFigures) -> None:
        """Keep a copy of the model's weights if it is better than every one before."""
        if not self.weights or figures["val/bpb"] < self.figures["val/bpb"]:
            self.figures = figures
            self.weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _due(done: int, interval: int, steps: int) -> bool:
    return done % interval == 0 or done == steps


def _look(validate: Callable[[], StepFigures], model: GPT, best: Best, done: int, steps: int) -> StepFigures:
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


def cross_entropy(
    model: Callable[[Tensor], Tensor],
    x_BT: Tensor,
    y_BT: Tensor,
    autocast: Autocast,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """-ln p(y | x) in nats, per token or summed. Logits become float32 first: a sum over V in bfloat16 loses digits."""
    with autocast():
        logits_BTV = model(x_BT)
    return F.cross_entropy(logits_BTV.float().flatten(0, 1), y_BT.flatten(), reduction=reduction)


@torch.no_grad()
def validate(model: GPT, ids_N: Ids, n_bytes: int, autocast: Autocast) -> dict[str, float]:
    """{"val/loss": nats per token, "val/bpb": bits per byte of UTF-8 text}; lower is better for both: of a split, or
    its beginning where it is very long, in windows side by side.

    A token sees what precedes it in its window only, half a context on average, so these figures lie a little above
    those of evaluation's overlapping windows. The first token of the split, which nothing precedes, costs ln V.
    `n_bytes` is the length of the whole split; of a part its bytes are taken to be as many per token.
    Leaves the model in training mode.
    """
    model.eval()
    seen_N, nats = ids_N[:LOOKED_AT], math.log(model.config.vocab_size)
    for x_BT, y_BT in _windows(model, seen_N):
        nats += cross_entropy(model, x_BT, y_BT, autocast, reduction="sum").item()
    model.train()
    loss = nats / len(seen_N)
    return {"val/loss": loss, "val/bpb": loss * len(ids_N) / (math.log(2) * n_bytes)}


def _windows(model: GPT, ids_N: Ids) -> Iterator[tuple[Tensor, Tensor]]:
    """Every token but the first as a target once: batches of whole windows, then the shorter last one."""
    T, device = model.config.block_size, next(model.parameters()).device
    ids = torch.from_numpy(np.asarray(ids_N, dtype=np.int64)).to(device)
    whole = (len(ids) - 1) // T * T
    batch = max(1, LOGITS_PER_BATCH // (T * model.config.vocab_size)) * T
    for start in range(0, whole, batch):
        end = min(start + batch, whole)
        yield ids[start:end].view(-1, T), ids[start + 1 : end + 1].view(-1, T)
    if whole < len(ids) - 1:
        yield ids[None, whole:-1], ids[None, whole + 1 :]
