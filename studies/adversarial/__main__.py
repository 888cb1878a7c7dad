"""Adversarial refinement beside its controls: `python -m studies.adversarial`, or `make study-adversarial`.

Per seed a likelihood model, a reference, an independent model and a discriminator are trained; from there every arm
changes the generator, or how it generates, and independent classifiers measure how well they detect its text.
adversarial.yaml lists the arms; the page states what was promoted, and whether the bars are kept.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from studies.adversarial.arms import CONTROLS, run_arm
from studies.adversarial.costs import Costs, continued_steps
from studies.adversarial.page import sections
from studies.adversarial.plots import draw
from studies.adversarial.settings import TILTS, Beginning, Common, Settings
from studies.core.command import faults_in_one_line, start
from studies.core.configuration import part_of, read_configuration
from studies.core.jobs import Job, by_arm, records, run_jobs
from studies.core.page import publish
from troupe.data.source import describe

TITLE = "Adversarial refinement beside its controls"
PACKAGES = ["torch", "numpy", "scipy", "scikit-learn"]
START = "start"


def main() -> None:
    args = start("adversarial", TITLE)
    settings = read_configuration(args.config, Settings, args.quick)
    planned = plan(settings, range(1, 1 + (args.seeds or settings.seeds)))
    figures = run_jobs(args.name, run_arm, in_order(settings, planned), args.work, args.workers or settings.workers)
    results = by_arm(planned, figures)
    publish(args, sections(args.name, settings, results), partial(draw, settings, results), records(figures), PACKAGES)


def plan(settings: Settings, seeds: Iterable[int]) -> dict[str, list[Job]]:
    """The jobs of `start`, of the controls and of every arm, one per seed."""
    text = describe(settings.text.source).sha256
    steps = continued_steps(settings)
    planned: dict[str, list[Job]] = {START: [], CONTROLS: [], **{name: [] for name in settings.arms}}
    for seed in seeds:
        begun = Job(START, seed, {"text": text, "common": part_of(settings, Beginning)})
        planned[START].append(begun)
        common = {"common": part_of(settings, Common)}
        planned[CONTROLS].append(Job(CONTROLS, seed, common, begun))
        for name, arm in sorted(settings.arms.items(), key=lambda item: item[1].of is not None):
            values = {"arm": arm.model_dump(), "continued_steps": steps if arm.learn == "likelihood" else 0}
            planned[name].append(Job(name, seed, common | values, planned[arm.of][-1] if arm.of else begun))
    return planned


def in_order(settings: Settings, planned: Mapping[str, Sequence[Job]]) -> list[Job]:
    """What others need first, then what writes most, then the dearest: cores without work wait for a short one."""
    costs, needed = Costs(settings), {arm.of for arm in settings.arms.values()}

    def price(name: str) -> tuple[float, ...]:
        if (arm := settings.arms.get(name)) is None:
            return (-1,)
        return (name in needed, arm.candidates, arm.learn in TILTS, costs.whole(arm))

    names = [START, *sorted((name for name in planned if name != START), key=price, reverse=True)]
    return [job for name in names for job in planned[name]]


if __name__ == "__main__":
    with faults_in_one_line():
        main()
