"""The second model through which the adversarial stage's discriminator reads: small, and trained on the same text.

What it finds surprising that the dense model does not is what that model has learned beyond it, and the text of a model
that descends from the dense one holds less of that than real text does. models/features.py says more.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import safetensors.torch
import torch

from troupe.data.batches import Batches
from troupe.data.dataset import TokenDataset
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.params import AdversarialParams, Params, TrainParams
from troupe.seeding import derive_seed, generator
from troupe.stages.progress import track
from troupe.training.context import RunContext
from troupe.training.loop import train
from troupe.training.probe import eager
from troupe.training.validation import validate

SHOWN = "adversarial: small reference"  # in progress lines


def small_reference(dense: GPT, data: TokenDataset, params: Params) -> GPT:
    """A model of the dense one's kind and context, in eval mode: its best look at validation text.

    Equal arguments give equal weights, to the byte. It saves no checkpoints: a stage that goes on trains it anew.
    Raises Diverged (training/loop.py).
    """
    settings, seed = params.adversarial, partial(derive_seed, params.run.seed, "adversarial", "reference")
    model, device = GPT(small(dense.config, settings)), next(dense.parameters()).device
    init_gpt2(model, generator(seed("init")))
    model.to(device)
    torch.manual_seed(seed("dropout"))
    lessons, precision = lessons_of(settings), eager(params.run, dense, settings.reference_batch_size)[0].autocast
    batches = Batches(data.shards("train"), model.config.block_size, lessons.batch_size, seed("batches"))
    look = partial(validate, model, data.ids("validation"), data.n_bytes["validation"], precision)
    with track(SHOWN, lessons.steps) as show:

        def tell(step: int, figures: Mapping[str, float]) -> None:
            show(step, {"loss": figures["train/loss"]})

        train(model, batches, look, lessons, RunContext(precision, log=tell))
    return model.eval()


def lessons_of(params: AdversarialParams) -> TrainParams:
    """Muon, a warm-up of a tenth, the second half down to zero."""
    return TrainParams(
        steps=params.reference_steps,
        batch_size=params.reference_batch_size,
        optimizer="muon",
        learning_rate=params.reference_learning_rate,
        adamw_learning_rate=params.reference_learning_rate / 10,
        warmup_steps=params.reference_steps // 10,
        decay_fraction=0.5,
        weight_decay=0.0,
        grad_clip=1.0,
        eval_interval=max(1, params.reference_steps // 4),
        checkpoint_interval=params.reference_steps,
    )


def digest(model: GPT) -> str:
    """The sha256 of its weights as a bundle writes them."""
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    return hashlib.sha256(safetensors.torch.save(weights)).hexdigest()


def small(config: GPTConfig, params: AdversarialParams) -> GPTConfig:
    """With as many heads, up to the given number, as leave each an even width, which rotary positions need."""
    width = params.reference_embd
    heads = max(n for n in range(1, config.n_head + 1) if width % (2 * n) == 0)
    return replace(config, n_layer=params.reference_layers, n_head=heads, n_embd=width, head_width=None)
