"""How to choose the next token: `python -m studies.decoding`, or `make study-decoding`, in a workspace with a model.

Every strategy of decoding.yaml continues the same held-out text, and its texts are measured beside real ones: how often
they repeat, how varied they are, how likely under an independent model, how often classifiers detect them. The rule of
page.py recommends one; a registered model gets it as a tag.
"""

import argparse
from functools import partial
from pathlib import Path

from studies.core.command import faults_in_one_line, start
from studies.core.configuration import read_configuration
from studies.core.jobs import Job, by_arm, records, run_jobs
from studies.core.page import publish
from studies.decoding.arms import REAL, run_strategy
from studies.decoding.model import folder_with
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
    planned = plan(settings, args)
    figures = run_jobs(
        args.name, run_strategy, [job for jobs in planned.values() for job in jobs], args.work, args.workers
    )
    results = by_arm(planned, figures)
    publish(
        args, sections(args.name, settings, args.model, results), partial(draw, results), records(figures), PACKAGES
    )
    chosen = best(results)
    if args.model.startswith("models:") and not args.no_tag and not args.quick:
        version = recommend(args.model, settings.strategies[chosen].decoding())
        print(f"{version.uri}: `troupe generate` and the server use {chosen} now, unless told otherwise (tag decoding)")


def plan(settings: Settings, args: argparse.Namespace) -> dict[str, list[Job]]:
    """Of every strategy, and of real text, a job per seed. Raises ArtifactError where there is no text or no model."""
    corpus = read_manifest(CORPUS)["sha256"]
    folder, identity = folder_with(args.model, (args.work / args.name).absolute())
    prompt = settings.prompt or load_params(EFFECTIVE_PARAMS).evaluate.prompt
    shared = {
        "model": str(folder),
        "identity": identity,
        "corpus": str(Path(CORPUS).absolute()),
        "text": corpus,
        "prompt": prompt,
        **settings.model_dump(include={"texts", "width", "shown_tokens"}),
    }
    seeds = range(1, 1 + (args.seeds or settings.seeds))
    arms = {REAL: None, **{name: strategy.model_dump() for name, strategy in settings.strategies.items()}}
    return {
        name: [Job(name, seed, shared | {"strategy": strategy}) for seed in seeds] for name, strategy in arms.items()
    }


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default=CHAMPION, help=f"a registered model, a stage, a folder or gpt2 (default: {CHAMPION})"
    )
    parser.add_argument("--no-tag", action="store_true", help="leave the registered version as it is")


if __name__ == "__main__":
    with faults_in_one_line():
        main()
