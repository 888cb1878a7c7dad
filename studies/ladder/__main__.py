"""From bigram to GPT in twelve rungs: `python -m studies.ladder`, or `make study-ladder`.

Each rung is the model before it with one thing changed (rungs.py). Every one is trained on the same characters by two
recipes, that of the lecture that made the ladder known and the project's own, and stands beside compressors and
counting. Any text of your own: `STUDY="--source my/texts/*.txt"`.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial

from studies.core.command import faults_in_one_line, start
from studies.core.configuration import read_configuration
from studies.core.jobs import Figures, Job, run_jobs
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
    runs = {job: found["runs"] for job, found in figures.items()}
    train, validation, test = (bytes_of(folder / text, part) for part in PARTS)
    counted = rivals(train, validation, test, settings.ngram_max_order)
    results = {recipe: {rung: runs[job] for rung, job in jobs.items()} for recipe, jobs in planned.items()}
    ladder = Ladder(settings, results, counted)
    publish(args, sections(args.name, ladder), partial(draw, ladder), records_of(runs), PACKAGES)


def plan(settings: Settings, text: str, seeds: int) -> dict[str, dict[str, Job]]:
    """Of every recipe and rung the job, which trains all seeds."""
    shared = {"text": text, "seeds": seeds, "held_out": settings.held_out_tokens}
    shared |= settings.model_dump(include={"prompt", "sample"})
    return {
        name: {
            rung.name: Job(
                f"{rung.name}, {name}", 1, shared | {"rung": rung.name, "recipe": recipe.of(rung.name).model_dump()}
            )
            for rung in LADDER
        }
        for name, recipe in settings.recipes.items()
    }


def in_order(planned: dict[str, dict[str, Job]]) -> list[Job]:
    """The largest models, which take longest, first: cores that have run out of work wait for a short job."""
    return [jobs[rung.name] for rung in reversed(LADDER) for jobs in planned.values()]


def records_of(runs: Mapping[Job, Sequence[Figures]]) -> list[Figures]:
    """What stands in the file beside the page: of every rung, recipe and seed the figures."""
    return [{"arm": job.arm, "seed": seed, **found} for job, of in runs.items() for seed, found in enumerate(of, 1)]


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", help="another text, as data.source of params.yaml (default: tiny Shakespeare)")


if __name__ == "__main__":
    with faults_in_one_line():
        main()
