"""SeqGAN's experiment with a synthetic oracle, as curves over temperature: `make study-oracle`.

An LSTM with random weights writes the text, so the likelihood of what a generator writes is known. Does adversarial
training give a better curve of NLL_oracle against NLL_test than likelihood, or another point of the same curve, which
a temperature reaches as well (Caccia et al. 2020, "Language GANs Falling Short")? arms.py trains and measures,
curves.py compares, page.py writes.
"""

from functools import partial

from studies.core.command import faults_in_one_line, start
from studies.core.configuration import read_configuration
from studies.core.jobs import Job, by_arm, records, run_jobs
from studies.core.page import publish
from studies.oracle.arms import run_task
from studies.oracle.page import sections
from studies.oracle.plots import draw
from studies.oracle.settings import LIKELIHOOD, Settings

TITLE = "A synthetic oracle: likelihood and adversarial training over temperature"
PACKAGES = ["torch", "scipy"]


def main() -> None:
    args = start("oracle", TITLE)
    settings = read_configuration(args.config, Settings, args.quick)
    planned = plan(settings, args.seeds or settings.seeds)
    jobs = [job for of_arm in planned.values() for job in of_arm]
    figures = run_jobs(args.name, run_task, jobs, args.work, args.workers)
    results = by_arm(planned, figures)
    publish(args, sections(args.name, settings, results), partial(draw, settings, results), records(figures), PACKAGES)


def plan(settings: Settings, seeds: int) -> dict[str, list[Job]]:
    """Likelihood of every seed, then the arms that go on from it."""
    begun = [Job(LIKELIHOOD, seed, settings.task(LIKELIHOOD).model_dump()) for seed in range(seeds)]
    arms = {arm: [Job(arm, job.seed, settings.task(arm).model_dump(), job) for job in begun] for arm in settings.arms}
    return {LIKELIHOOD: begun, **arms}


if __name__ == "__main__":
    with faults_in_one_line():
        main()
