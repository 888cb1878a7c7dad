"""What attention experts are worth: `python -m studies.moe`, or `make study-moe`.

Per seed a dense model is pretrained; then it is trained on, as it is and with experts put into it in several ways, and
beside it models that never were dense, on the same batches. A conversion that costs computation is paid for with steps
of training. moe.yaml lists the models; the page states whether the bars of the configuration are kept.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from studies.core.command import faults_in_one_line, start
from studies.core.configuration import part_of, read_configuration
from studies.core.jobs import Job, by_arm, records, run_jobs
from studies.core.page import publish
from studies.core.text import prepare_text
from studies.moe.arms import CONTINUED, DENSE, DISTIL, PRETRAIN, run_arm
from studies.moe.page import sections
from studies.moe.plots import draw
from studies.moe.settings import Arm, Common, Settings

TITLE = "What attention experts are worth"
PACKAGES = ["torch", "numpy", "scipy"]


def main() -> None:
    args = start("moe", TITLE)
    settings = read_configuration(args.config, Settings, args.quick)
    text = prepare_text(settings.data, settings.tokens, args.work / args.name)
    planned = plan(settings, text, range(1, 1 + (args.seeds or settings.seeds)))
    figures = run_jobs(args.name, run_arm, in_order(planned), args.work, args.workers or settings.workers)
    results = by_arm(planned, figures)
    publish(args, sections(args.name, settings, results), partial(draw, settings, results), records(figures), PACKAGES)


def plan(settings: Settings, text: str, seeds: Iterable[int]) -> dict[str, list[Job]]:
    """The last job of every arm, one per seed, which needs that of the first phase. What is the same is planned once:
    the dense model of the first phase, and arms of two names."""
    whole = settings.model_dump()
    shared = {"text": text, "common": part_of(settings, Common)}
    known: dict[str, Job] = {}

    def job(name: str, seed: int, arm: Arm, phases: Sequence[str], needs: Job | None = None) -> Job:
        values = {"arm": arm.model_dump(), "phases": {phase: whole[phase] for phase in phases}}
        return known.setdefault(Job("", seed, values, needs).key(""), Job(name, seed, shared | values, needs))

    planned: dict[str, list[Job]] = {}
    for seed in seeds:
        for name, arm in (settings.arms | settings.remedies).items():
            begins = DENSE if arm.start == "pretrained" else arm
            begun = job("dense, first phase" if begins == DENSE else f"{name}, first phase", seed, begins, [PRETRAIN])
            then = [DISTIL, CONTINUED] if arm.conversion == "distilled" else [CONTINUED]
            planned.setdefault(name, []).append(job(name, seed, arm, then, needs=begun))
    return planned


def in_order(planned: Mapping[str, Sequence[Job]]) -> list[Job]:
    """Each once: those of the first phase, which are the longest, before the others."""
    jobs = [job for of_arm in planned.values() for job in of_arm]
    return list(dict.fromkeys([*(job.needs for job in jobs if job.needs), *jobs]))


if __name__ == "__main__":
    with faults_in_one_line():
        main()
