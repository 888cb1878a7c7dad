"""A network mixed with counts, part by part: `python -m studies.mixture`, or `make study-mixture`.

Per text and seed a network is trained by the pipeline's recipe; then mixtures of it, an n-gram model and ever more
counts are fitted to the critic's text, and the bits that test text costs are measured after each part.
"""

import argparse
from collections.abc import Mapping
from functools import partial

from studies.core.command import faults_in_one_line, start
from studies.core.configuration import read_configuration
from studies.core.jobs import Job, by_arm, records, run_jobs
from studies.core.page import publish
from studies.core.text import ALL_PARTS, prepare_text
from studies.mixture.arms import mix
from studies.mixture.network import train_network
from studies.mixture.page import sections
from studies.mixture.plots import draw
from studies.mixture.settings import Settings
from troupe.dependencies import code_digest

TITLE = "A network mixed with counts"
PACKAGES = ["torch", "numpy", "scipy"]


def main() -> None:
    args = start("mixture", TITLE, extra=_arguments)
    settings = read_configuration(args.config, Settings, args.quick)
    if args.text:
        settings = settings.only(args.text)
    folder = args.work / args.name
    texts = {name: prepare_text(data, settings.tokens, folder, ALL_PARTS) for name, data in settings.texts.items()}
    networks = plan_networks(settings, texts, args.seeds or settings.seeds)
    trained = run_jobs(args.name, train_network, networks, args.work, args.workers)
    planned = plan_mixtures(settings, networks)
    figures = run_jobs(args.name, mix, [job for jobs in planned.values() for job in jobs], args.work, args.workers)
    results = by_arm(planned, figures)
    found = records(trained) + records(figures)
    publish(args, sections(args.name, settings, results), partial(draw, results), found, PACKAGES)


def plan_networks(settings: Settings, texts: Mapping[str, str], seeds: int) -> list[Job]:
    """A training per seed and text."""
    shared = {"model": settings.model.model_dump(), "train": settings.train.model_dump()}
    return [
        Job(f"{name}, network", seed, shared | {"text": text})
        for seed in range(1, 1 + seeds)
        for name, text in texts.items()
    ]


def plan_mixtures(settings: Settings, networks: list[Job]) -> dict[str, list[Job]]:
    """By text, the mixtures of each network, whose folder is named by what it was trained on and by."""
    digest, planned = code_digest(train_network.__module__), {name: list[Job]() for name in settings.texts}
    shared = {"order": settings.order, "updates": settings.updates, "held_out": settings.held_out_tokens}
    for job in networks:
        name = job.arm.removesuffix(", network")
        of = {"network": job.key(digest), "text": job.settings["text"], "model": job.settings["model"]}
        planned[name].append(Job(f"{name}, mixture", job.seed, shared | of))
    return planned


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text", help="one text of the configuration (default: all)")


if __name__ == "__main__":
    with faults_in_one_line():
        main()
