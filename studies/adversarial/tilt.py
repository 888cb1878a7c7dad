"""An arm of the study that tilts a generator by nine numbers: by likelihood, or as the pipeline's method does it."""

from dataclasses import asdict, replace
from pathlib import Path

from studies.adversarial.measures import START, Bench
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


def tilt_by_ddo(start: GPT, bench: Bench, first: Path) -> tuple[GPT, Figures]:
    """By the pipeline's rounds, of which the pipeline's rule selects one, or the start, on validation text: the model,
    its nine numbers, and what was found in every round."""
    settings, task = bench.settings.tilt_params(), bench.world.task(first)
    rounds, models = all_rounds(replace(task, start=replace(task.start, model=start)), settings)
    candidates = {START: untilted(start, bench.world, settings.order)}
    candidates |= {f"tilt_{number}": model for number, model in enumerate(models, 1)}
    model, selection = bench.select(candidates)
    found: list[Figures] = [{**asdict(one.interval), "cross_entropy": one.cross_entropy} for one in rounds]
    kept = [*candidates].index(selection["selected"])
    return model, {"tilt": candidates[selection["selected"]].tilt.tolist(), "rounds": found, "kept": kept, **selection}
