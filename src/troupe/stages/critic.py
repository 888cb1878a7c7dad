"""The discriminator of the adversarial stage: what it learns from, and how, before anything follows it.

Its real class is the critic's split, which no model has seen; its other class is what the start writes after the same
prompts. It reads what two references say of each token: the frozen dense model and a small one (reference.py). Whether
it can tell is found on validation text.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from troupe.adversarial.discrimination import Examples, Verdict
from troupe.adversarial.game import HELD_OUT, critic_of
from troupe.adversarial.teaching import Course, continued, teach
from troupe.compute import torch_threads
from troupe.data.corpus import Split
from troupe.data.dataset import TokenDataset
from troupe.models.bundle import Bundle
from troupe.models.features import ReferenceFeatures
from troupe.models.reader import Discriminator
from troupe.params import AdversarialParams, Params
from troupe.seeding import generator
from troupe.stages.progress import track
from troupe.stages.reference import small_reference
from troupe.stages.texts import sequences, side_by_side

SHOWN = "adversarial: discriminator"  # in progress lines


def taught(start: Bundle, dense: Bundle, data: TokenDataset, params: Params) -> tuple[Discriminator, Verdict]:
    """A discriminator of the start's texts, and what it found. Equal arguments give equal weights, to the byte."""
    settings = params.adversarial
    features = ReferenceFeatures(dense.model, small_reference(dense.model, data, params))
    critic = critic_of(start.tokenizer.vocab_size, settings, len(features.references)).to(_device(start))
    discriminator = Discriminator(critic, features, start.tokenizer)
    splits: Mapping[Split, int] = {"critic": settings.critic_texts, "validation": HELD_OUT}
    train, held_out = (examples(discriminator, start, data, split, n, params) for split, n in splits.items())
    updates = (settings.critic_looks + settings.critic_rounds) * settings.critic_updates  # at most
    with torch_threads(settings.threads), track(SHOWN, updates) as show:

        def tell(done: int, found: Verdict) -> None:
            show(done, {"critic/auc": found.interval.auc, "at least": found.interval.low})

        rng = generator(params.run.seed, "adversarial", "discriminator")
        return discriminator, teach(critic, train, held_out, course(settings), rng, tell)


def examples(
    discriminator: Discriminator, start: Bundle, data: TokenDataset, split: Split, n: int, params: Params
) -> Examples:
    """`n` sequences of a split, each once as long as there are, and the start's continuations of their prompts."""
    settings, purpose = params.adversarial, ("adversarial", "discriminator", split)
    length = settings.prompt_length + settings.sequence_length
    real_NT = sequences(data, split, length, n, params, purpose).batches(0)[0].to(_device(start))

    def part(real_BT: Tensor, seeds: Sequence[int]) -> Examples:
        fake_BT = continued(start.model, real_BT, settings.prompt_length, seeds)
        return Examples(discriminator.read(real_BT), discriminator.read(fake_BT))

    return Examples.joined(side_by_side(part, start.model, real_NT, f"{SHOWN}, {split} texts", params, purpose))


def course(params: AdversarialParams) -> Course:
    return Course(
        bar=params.min_auc,
        updates=params.critic_updates,
        looks=params.critic_looks,
        rounds=params.critic_rounds,
        batch_size=params.critic_batch_size,
        learning_rate=params.critic_learning_rate,
    )


def _device(bundle: Bundle) -> torch.device:
    return next(bundle.model.parameters()).device
