"""The small model through which a discriminator reads, beside the dense one; it is trained on the same text.

What it finds surprising and the dense model does not is what that model has learned beyond it. Text of a model that
descends from the dense one holds less of that than real text does. models/features.py says more.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import safetensors.torch
import torch

from troupe.adversarial.method import Task
from troupe.data.batches import Batches
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.params import ReferenceParams, TrainParams
from troupe.progress import track
from troupe.seeding import derive_seed, generator
from troupe.training.context import RunContext
from troupe.training.loop import train
from troupe.training.loss import validate

SHOWN = "adversarial: small reference"  # in progress lines


def small_reference(task: Task, settings: ReferenceParams) -> GPT:
    """A model of the dense one's kind and context, in eval mode: its best evaluation on validation text.

    Equal arguments give equal weights, to the byte. It saves no checkpoints: a stage that resumes trains it anew.
    Raises Diverged (training/loop.py).
    """
    dense, data, seed = task.dense.model, task.data, partial(derive_seed, task.seed, "adversarial", "reference")
    model = GPT(small(dense.config, settings))
    init_gpt2(model, generator(seed("init")))
    model.to(task.device)
    torch.manual_seed(seed("dropout"))
    training, precision = training_of(settings), task.context.autocast
    batches = Batches(data.shards("train"), model.config.block_size, training.batch_size, seed("batches"))
    look = partial(validate, model, data.ids("validation"), data.n_bytes["validation"], precision)
    with track(SHOWN, training.steps) as show:

        def log(step: int, figures: Mapping[str, float]) -> None:
            show(step, {"loss": figures["train/loss"]})

        train(model, batches, look, training, RunContext(precision, log=log))
    return model.eval()


def training_of(settings: ReferenceParams) -> TrainParams:
    """Muon, a warm-up of a tenth, the second half down to zero."""
    return TrainParams(
        steps=settings.steps,
        batch_size=settings.batch_size,
        optimizer="muon",
        learning_rate=settings.learning_rate,
        adamw_learning_rate=settings.learning_rate / 10,
        warmup_steps=settings.steps // 10,
        decay_fraction=0.5,
        weight_decay=0.0,
        grad_clip=1.0,
        eval_interval=max(1, settings.steps // 4),
        checkpoint_interval=settings.steps,
    )


def digest(model: GPT) -> str:
    """The sha256 of its weights as a bundle writes them."""
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    return hashlib.sha256(safetensors.torch.save(weights)).hexdigest()


def small(config: GPTConfig, settings: ReferenceParams) -> GPTConfig:
    """With as many heads, up to the given number, as leave each an even width, which rotary positions need."""
    width = settings.n_embd
    heads = max(n for n in range(1, config.n_head + 1) if width % (2 * n) == 0)
    return replace(config, n_layer=settings.n_layer, n_head=heads, n_embd=width, head_width=None)
