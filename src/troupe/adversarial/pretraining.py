"""The discriminator before any generator is trained against it: its texts, its features, its training.

Its real class is the critic's split, which no model was trained on; its other class is what the start generates after
the same prompts. It reads what two references say of each token: the frozen dense model and a small one (reference.py).
Whether it has a signal is measured on validation text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from troupe.adversarial.discrimination import Examples, Schedule, SignalTest, train_discriminator
from troupe.adversarial.method import Facts, Task
from troupe.adversarial.reference import digest, small_reference
from troupe.adversarial.texts import HELD_OUT, continued, each_once, sequences, side_by_side
from troupe.compute import torch_threads
from troupe.models.discriminator import LSTMDiscriminator
from troupe.models.features import PER_REFERENCE, ReferenceFeatures
from troupe.models.reader import Discriminator
from troupe.params import DistilParams, GanParams
from troupe.progress import track
from troupe.seeding import generator
from troupe.training.interruption import signals_noted

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
