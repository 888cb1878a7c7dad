"""The training loop of every likelihood-trained model, dense or with experts. B sequences, T tokens.

The model it leaves behind is the best one that validation saw, not the last: a small corpus is read many times over,
and then the last steps can overfit.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from troupe.data.batches import Batches
from troupe.errors import TroupeError
from troupe.models.gpt2 import GPT
from troupe.params import TrainParams
from troupe.training.checkpoint import Checkpoint
from troupe.training.loss import Autocast, cross_entropy
from troupe.training.optim import build_optimizers, set_rate
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
) -> Figures:
    """Train `model` in place for `params.steps` updates; return the figures of the best look at validation.

    `log(step, values)` gets train/loss (nats per token of the batch), train/lr (of the first optimiser),
    train/grad_norm (before clipping), train/tokens_per_second and, at each look, what `validate()` finds. Stopped
    anywhere and called again with the newest checkpoint that it gave to `save`, it ends with the same weights to the
    byte: a step depends on its number and on what a checkpoint holds, nothing else.

    Raises TroupeError, naming the step, if the loss or its gradient is not finite.
    """
    optimizers = build_optimizers(model, params)
    best, start = Best(), 0
    if resume:
        networks, start = restore(resume, optimizers), resume.step
        model.load_state_dict(networks["model"])
        best.weights, best.figures = networks.get("best", {}), resume.facts
    model.train()
    for step in range(start, params.steps):
        began = time.perf_counter()
        set_rate(optimizers, learning_rate_factor(step, params))
        x_BT, y_BT = (ids_BT.to(_device(model)) for ids_BT in batches.batches(step))
        loss = cross_entropy(model, x_BT, y_BT, autocast)
        loss.backward()  # type: ignore[no-untyped-call]
        grad_norm = clip_grad_norm_(model.parameters(), params.grad_clip)
        figures = {"train/loss": loss.item(), "train/grad_norm": grad_norm.item()}
        _require_finite(step, figures, params)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

        done = step + 1
        figures["train/lr"] = optimizers[0].param_groups[0]["lr"]
        figures["train/tokens_per_second"] = x_BT.numel() / (time.perf_counter() - began)
        if _due(done, params.eval_interval, params.steps):
            seen = validate()
            best.offer(model, {"step": done, **seen})
            figures |= seen
        log(done, figures)
        if _due(done, params.checkpoint_interval, params.steps):
            save(snapshot(done, {"model": model.state_dict(), "best": best.weights}, optimizers, best.figures))
    model.load_state_dict(best.weights)
    return best.figures


def _due(done: int, interval: int, steps: int) -> bool:
    return done % interval == 0 or done == steps


def _device(model: GPT) -> Any:
    return next(model.parameters()).device


def _require_finite(step: int, figures: Figures, params: TrainParams) -> None:
    if not all(math.isfinite(value) for value in figures.values()):
        raise TroupeError(
            f"training diverged at step {step + 1} of {params.steps}: loss {figures['train/loss']}, gradient norm "
            f"{figures['train/grad_norm']}; lower learning_rate or adamw_learning_rate, or raise warmup_steps"
        )
