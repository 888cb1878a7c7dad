"""The discriminator before any generator is trained against it: its texts, its features, its training.

Its real class is the critic's split, which no model was trained on; its other class is what the start generates after
the same prompts. Whether it has a signal is measured on validation text.

It reads what two references say of each token: the frozen dense model, and a small one that is trained here on the same
text. What the small one finds surprising and the dense one does not is what the dense one has learned beyond it. Text
of a model that descends from the dense one holds less of that than real text does (models/reader.py).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from troupe.adversarial.discrimination import Examples, Schedule, SignalTest, train_discriminator
from troupe.adversarial.method import Facts, Task
from troupe.adversarial.texts import HELD_OUT, continued, each_once, sequences, side_by_side
from troupe.compute import torch_threads
from troupe.data.batches import Batches
from troupe.models.config import BROUGHT, GPTConfig
from troupe.models.discriminator import LSTMDiscriminator
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.reader import PER_REFERENCE, Discriminator, ReferenceFeatures
from troupe.params import DistilParams, GanParams, ReferenceParams, TrainParams
from troupe.progress import track
from troupe.seeding import derive_seed, generator
from troupe.training.loop import RunContext, train, validate
from troupe.training.stops import signals_noted

REFERENCE_SHOWN = "adversarial: small reference"
SHOWN = "adversarial: discriminator"  # in progress lines
PURPOSE = ("adversarial", "discriminator")  # of random numbers


@dataclass(frozen=True)
class Pretrained:
    """A discriminator of the start's texts, and whether it has a signal."""

    discriminator: Discriminator
    found: SignalTest

    def facts(self) -> Facts:
        """As they are stored."""
        interval = self.found.interval
        return {
            "signal": self.found.signal,
            "discriminator": str(self.found),
            "discriminator/auc": interval.auc,
            "discriminator/auc_low": interval.low,
            "discriminator/auc_high": interval.high,
        }

    def provenance(self) -> Facts:
        """The models through which it reads."""
        dense, small = self.discriminator.features.references
        return {"reference_weights_sha256": digest(dense), "small_reference_weights_sha256": digest(small)}


def pretrained(task: Task, settings: GanParams | DistilParams) -> Pretrained:
    """Equal arguments give equal weights, to the byte. Raises Interrupted: nothing is saved before the end."""
    sizes = settings.discriminator
    with signals_noted("while the discriminator was trained"):
        features = ReferenceFeatures(task.dense.model, small_reference(task, sizes.reference))
        critic = new_critic(task, settings, len(features.references))
        discriminator = Discriminator(critic, features, task.start.tokenizer)
        length = settings.prompt_length + settings.sequence_length
        real = {
            "critic": sequences(task, "critic", length, sizes.texts, *PURPOSE, "critic").batches(0)[0].to(task.device),
            "validation": each_once(task, "validation", length, HELD_OUT, *PURPOSE, "validation"),
        }
        train, held_out = (examples(discriminator, task, split, ids, settings) for split, ids in real.items())
        more_rounds = sizes.more_rounds if goes_on(settings) else 0
        schedule = Schedule(sizes.min_auc, sizes.updates, sizes.rounds, sizes.batch_size, more_rounds)
        most = (sizes.rounds + more_rounds) * sizes.updates
        with torch_threads(settings.threads), track(SHOWN, most) as show:

            def report(done: int, found: SignalTest) -> None:
                show(done, {"auc": found.interval.auc, "at least": found.interval.low})

            rng = generator(task.seed, "adversarial", "discriminator")
            found = train_discriminator(critic, train, held_out, schedule, sizes.learning_rate, rng, report)
    print(f"{SHOWN}: {found}", flush=True)
    return Pretrained(discriminator, found)


def goes_on(settings: GanParams | DistilParams) -> bool:
    """Whether the discriminator is trained further in the game: another objective's scores are of another unit than
    those of cross-entropy."""
    return not isinstance(settings, GanParams) or settings.objective == "gan"


def new_critic(task: Task, settings: GanParams | DistilParams, references: int) -> LSTMDiscriminator:
    """Without weights yet, on the CPU, for texts of the method's prompt and continuation."""
    sizes, vocab_size = settings.discriminator, task.start.tokenizer.vocab_size
    width, prompt = PER_REFERENCE * references, settings.prompt_length
    return LSTMDiscriminator(vocab_size, sizes.n_embd, sizes.n_hidden, width, prompt)


def examples(
    discriminator: Discriminator, task: Task, split: str, real_NT: Tensor, settings: GanParams | DistilParams
) -> Examples:
    """Real sequences of a split and the start's continuations of their prompts."""

    def part(real_BT: Tensor, seeds: Sequence[int]) -> Examples:
        fake_BT = continued(task.start.model, real_BT, settings.prompt_length, seeds)
        return Examples(discriminator.read(real_BT), discriminator.read(fake_BT))

    return Examples.joined(
        side_by_side(part, task.start.model, real_NT, task, f"{SHOWN}, {split} texts", *PURPOSE, split)
    )


def small_reference(task: Task, settings: ReferenceParams) -> GPT:
    """A model of the dense one's kind and context, in eval mode: its best evaluation on validation text.

    Equal arguments give equal weights, to the byte; methods of one stage share it. It saves no checkpoints: a stage
    that resumes trains it anew. Raises Diverged (training/loop.py).
    """
    if settings not in task.references:
        task.references[settings] = trained_reference(task, settings)
    return task.references[settings]


def trained_reference(task: Task, settings: ReferenceParams) -> GPT:
    """The same, trained now."""
    dense, data, seed = task.dense.model, task.data, partial(derive_seed, task.seed, "adversarial", "reference")
    model = GPT(small(dense.config, settings))
    init_gpt2(model, generator(seed("init")))
    model.to(task.device)
    torch.manual_seed(seed("dropout"))
    training, precision = training_of(settings), task.context.autocast
    batches = Batches(data.shards("train"), model.config.block_size, training.batch_size, seed("batches"))
    look = partial(validate, model, data.ids("validation"), data.n_bytes["validation"], precision)
    with track(REFERENCE_SHOWN, training.steps) as show:

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
    own: dict[str, Any] = {"n_layer": settings.n_layer, "n_head": heads, "n_embd": width, "head_width": None}
    return replace(config, **(BROUGHT | own))
