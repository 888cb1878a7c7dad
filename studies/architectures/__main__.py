"""GPT-2, BERT, BART and T5, small and from random weights: `python -m studies.architectures`.

Each has the public configuration's shape at the same size, is trained on the same text by the objective it was
published with, and is measured on what it is for and on the others' tasks where it has them.
"""

from collections.abc import Mapping
from functools import partial

from studies.architectures.arms import run_family
from studies.architectures.families import FAMILIES
from studies.architectures.page import sections
from studies.architectures.plots import draw
from studies.architectures.settings import Common, Settings
from studies.core.command import faults_in_one_line, start
from studies.core.configuration import part_of, read_configuration
from studies.core.jobs import Job, by_arm, records, run_jobs
from studies.core.page import publish
from studies.core.text import prepare_text

TITLE = "GPT-2, BERT, BART and T5"
PACKAGES = ["torch", "transformers"]


def main() -> None:
    args = start("architectures", TITLE)
    settings = read_configuration(args.config, Settings, args.quick)
    text = prepare_text(settings.data, settings.tokens, args.work / args.name)
    planned = plan(settings, text, args.seeds or settings.seeds)
    figures = run_jobs(
        args.name, run_family, [job for jobs in planned.values() for job in jobs], args.work, args.workers
    )
    results = by_arm(planned, figures)
    publish(args, sections(args.name, settings, results), partial(draw, results), records(figures), PACKAGES)


def plan(settings: Settings, text: str, seeds: int) -> Mapping[str, list[Job]]:
    """Of every architecture a job per seed."""
    shared = {"text": text, "common": part_of(settings, Common)}
    return {name: [Job(name, seed, shared) for seed in range(1, 1 + seeds)] for name in FAMILIES}


if __name__ == "__main__":
    with faults_in_one_line():
        main()
