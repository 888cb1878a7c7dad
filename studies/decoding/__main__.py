"""How to choose the next token: `python -m studies.decoding`, or `make study-decoding`, in a workspace with a model.

Every strategy of decoding.yaml continues the same held-out text, and its texts are measured beside real ones: how often
they repeat, how varied they are, how likely under an independent model, how often classifiers detect them. The rule of
page.py recommends one; a registered model gets it as a tag.
"""

import argparse
from dataclasses import asdict
from functools import partial
from pathlib import Path

from studies.core.command import faults_in_one_line, start
from studies.core.configuration import read_configuration
from studies.core.jobs import Job, by_arm, records, run_jobs
from studies.core.page import publish
from studies.core.statistics import Results
from studies.decoding.arms import REAL, run_strategy
from studies.decoding.model import Studied, fetched
from studies.decoding.page import best, sections
from studies.decoding.plots import draw
from studies.decoding.settings import Settings
from troupe.cli.common import CHAMPION
from troupe.data.corpus import read_manifest
from troupe.layout import CORPUS, EFFECTIVE_PARAMS
from troupe.params import load_params
from troupe.registry.recommendation import recommend

TITLE = "How to choose the next token"
PACKAGES = ["torch", "numpy", "scikit-learn"]


def main() -> None:
    args = start("decoding", TITLE, extra=_arguments)
    settings = read_configuration(args.config, Settings, args.quick)
    text = read_manifest(CORPUS)["sha256"]
    model = fetched(args.model, (args.work / args.name).absolute())
    planned = plan(settings, model, text, args.seeds or settings.seeds)
    jobs = [job for jobs in planned.values() for job in jobs]
    figures = run_jobs(args.name, run_strategy, jobs, args.work, args.workers)
    results = by_arm(planned, figures)
    name = model.version or args.model
    publish(
        args, sections(args.name, settings, name, model, results), partial(draw, results), records(figures), PACKAGES
    )
    if model.version and not args.no_tag and not args.quick:
        _recommend(settings, model, results)


def _recommend(settings: Settings, model: Studied, results: Results) -> None:
    """Tag the version that was measured, unless it may have learned the text that it was measured on."""
    chosen = best(results)
    if model.version is None or model.has_seen_other_text:
        print(f"{model.version}: not tagged, for it was trained on another text than the workspace's, or another split")
        return
    recommend(model.version, settings.strategies[chosen])
    print(f"{model.version}: `troupe generate` and the server use {chosen} now, unless told otherwise (tag decoding)")


def plan(settings: Settings, model: Studied, text: str, seeds: int) -> dict[str, list[Job]]:
    """Of every strategy, and of real text, a job per seed; `text` digests the corpus."""
    shared = {
        "model": str(model.folder),
        "identity": model.identity,
        "corpus": str(Path(CORPUS).absolute()),
        "text": text,
        "prompt": settings.prompt or load_params(EFFECTIVE_PARAMS).evaluate.prompt,
        **settings.model_dump(include={"texts", "width", "shown_tokens"}),
    }
    arms = {REAL: None, **{name: asdict(strategy) for name, strategy in settings.strategies.items()}}
    numbers = range(1, 1 + seeds)
    return {
        name: [Job(name, seed, shared | {"strategy": strategy}) for seed in numbers] for name, strategy in arms.items()
    }


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default=CHAMPION, help=f"a registered model, a stage, a folder or gpt2 (default: {CHAMPION})"
    )
    parser.add_argument("--no-tag", action="store_true", help="leave the registered version as it is")


if __name__ == "__main__":
    with faults_in_one_line():
        main()
