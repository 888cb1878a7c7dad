"""The control of every method: the expert model trained on by likelihood, without an adversary.

It reads its own training text and the critic's split, which the other methods learn from too. What a method is worth is
what it gains beyond this; at equal compute, as studies/adversarial compares them.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from troupe.adversarial.method import MethodResult, Task
from troupe.data.batches import Batches
from troupe.params import LikelihoodParams
from troupe.progress import track
from troupe.seeding import derive_seed
from troupe.training.loop import train, validate
from troupe.training.stops import signals_noted


def run(task: Task, settings: LikelihoodParams) -> MethodResult:
    """One candidate: the model of the best look at validation text, the start not among them.

    Raises Diverged and, after the step in progress and a last checkpoint, Interrupted (training/loop.py).
    """
    data, context, seed = task.data, task.context, partial(derive_seed, task.seed, "adversarial", "likelihood")
    model, done = copy.deepcopy(task.start.model), context.resume.step if context.resume else 0
    ids = np.concatenate([data.ids("train"), data.ids("critic")])
    batches = Batches(ids, model.config.block_size, settings.batch_size, seed("batches"))
    look = partial(validate, model, data.ids("validation"), data.n_bytes["validation"], context.autocast)
    torch.manual_seed(seed("dropout"))
    with track("adversarial: likelihood", settings.steps, done) as show, signals_noted() as interrupted:

        def log(step: int, figures: Mapping[str, float]) -> None:
            context.log(step, figures)
            show(step, {"loss": figures["train/loss"]})

        best = train(model, batches, look, settings, replace(context, log=log, interrupted=interrupted))
    facts = {"steps": settings.steps, "resumed_at_step": done, **{f"kept/{name}": best[name] for name in best}}
    reason = f"{best['val/bpb']:.4f} bits per byte of validation text at step {best['step']} of {settings.steps}"
    return MethodResult({"likelihood": model.eval()}, facts, reason, {"kept_step": best["step"]})
