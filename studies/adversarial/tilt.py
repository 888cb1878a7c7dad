"""An arm of the study that tilts a generator by nine numbers: by likelihood, or as the pipeline's method does it."""

from dataclasses import asdict, replace
from pathlib import Path

from studies.adversarial.measures import Bench, Writer
from studies.adversarial.world import World
from studies.core.jobs import Figures
from troupe.adversarial.texts import each_once
from troupe.adversarial.tilt import PURPOSE, all_rounds, by_likelihood
from troupe.models.gpt2 import GPT
from troupe.models.ngrams import NGrams
from troupe.models.tilted import Tilted, tilted


def untilted(model: GPT, world: World, order: int) -> Tilted:
    """A copy with the n-grams of the generator's text, whose tilt is zero yet."""
    return tilted(model, NGrams.counted(world.text.ids["generator"], order, model.config.vocab_size))


def tilt_by_likelihood(start: GPT, bench: Bench, first: Path) -> tuple[Tilted, Figures]:
    """Of the real texts that the rounds of DDO are trained on: the tilted model, and its nine numbers."""
    settings, task = bench.settings.tilt_params(), bench.world.task(first)
    model = untilted(start, bench.world, settings.order)
    real_NT = each_once(task, "critic", model.config.block_size, settings.texts, *PURPOSE, "critic")
    by_likelihood(model, real_NT, settings.prompt_length)
    return model, {"tilt": model.tilt.tolist()}


def tilt_by_ddo(start: GPT, bench: Bench, first: Path) -> tuple[Tilted, Figures]:
    """By the pipeline's rounds, of which the classifiers of validation text select one, or the start: the model that
    they detect least, its nine numbers, and what was found in every round."""
    settings, task = bench.settings.tilt_params(), bench.world.task(first)
    rounds, models = all_rounds(replace(task, start=replace(task.start, model=start)), settings)
    candidates = [untilted(start, bench.world, settings.order), *models]
    accuracies = [bench.selection(Writer(model, bench.world.discriminator, 1, 1.0, 1)) for model in candidates]
    kept = accuracies.index(min(accuracies))
    found: list[Figures] = [{**asdict(one.interval), "cross_entropy": one.cross_entropy} for one in rounds]
    for one, accuracy in zip(found, accuracies[1:], strict=False):  # the last may have had no signal
        one["selection"] = accuracy
    return candidates[kept], {"tilt": candidates[kept].tilt.tolist(), "rounds": found, "kept": kept}
