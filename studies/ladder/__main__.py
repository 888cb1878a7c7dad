"""From bigram to GPT in twelve rungs: `python -m studies.ladder`, or `make study-ladder`.

Each rung is the model before it with one thing changed (rungs.py). Every one is trained on the same characters by two
recipes, that of the lecture that made the ladder known and the project's own, and stands beside compressors and
counting. Any text of your own: `STUDY="--source my/texts/*.txt"`.
"""

import argparse
from functools import partial

from studies.core.command import faults_in_one_line, start
from studies.core.configuration import read_configuration
from studies.core.jobs import Job, by_arm, records, run_jobs
from studies.core.page import publish
from studies.core.text import PARTS, bytes_of, prepare_text
from studies.ladder.arms import run_rung
from studies.ladder.counting import rivals
from studies.ladder.page import Ladder, sections
from studies.ladder.plots import draw
from studies.ladder.rungs import LADDER
from studies.ladder.settings import Settings

TITLE = "From bigram to GPT in twelve rungs"
PACKAGES = ["torch", "numpy", "scipy"]


def main() -> None:
    args = start("ladder", TITLE, extra=_arguments)
    settings = read_configuration(args.config, Settings, args.quick)
    if args.source:
        settings.data.source = args.source
    folder = args.work / args.name
    text = prepare_text(settings.data, settings.tokens, folder)
    planned = plan(settings, text, args.seeds or settings.seeds)
    figures = run_jobs(args.name, run_rung, in_order(planned), args.work, args.workers)
    train, validation, test = (bytes_of(folder / text, part) for part in PARTS)
    counted = rivals(train, validation, test, settings.ngram_max_order)
    results = {recipe: by_arm(jobs, figures) for recipe, jobs in planned.items()}
    ladder = Ladder(settings, results, counted)
    publish(args, sections(args.name, ladder), partial(draw, ladder), records(figures), PACKAGES)


def plan(settings: Settings, text: str, seeds: int) -> dict[str, dict[str, list[Job]]]:
    """Of every recipe and rung the jobs, one per seed."""
    shared = {"text": text, "prompt": settings.prompt, "sample": settings.sample, "held_out": settings.held_out_tokens}
    return {
        name: {
            rung.name: [
                Job(f"{rung.name}, {name}", seed, shared | {"rung": rung.name, "recipe": recipe.model_dump()})
                for seed in range(1, 1 + seeds)
            ]
            for rung in LADDER
        }
        for name, recipe in settings.recipes.items()
    }


def in_order(planned: dict[str, dict[str, list[Job]]]) -> list[Job]:
    """The largest models, which take longest, first: cores that have run out of work wait for a short job."""
    return [job for rung in reversed(LADDER) for jobs in planned.values() for job in jobs[rung.name]]


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", help="another text, as data.source of params.yaml (default: tiny Shakespeare)")


if __name__ == "__main__":
    with faults_in_one_line():
        main()
