"""SeqGAN's experiment with a synthetic oracle, as curves over temperature: `make study-oracle`.

An LSTM with random weights writes the text, so the likelihood of what a generator writes is known. Does adversarial
training give a better curve of NLL_oracle against NLL_test than likelihood, or another point of the same curve, which
a temperature reaches as well (Caccia et al. 2020, "Language GANs Falling Short")? oracle_arms.py trains and measures,
oracle_curves.py compares, oracle_page.py writes.
"""

from benchmarks.common import faults_in_one_line
from studies import common
from studies.configuration import read_configuration
from studies.jobs import Job, run_jobs
from studies.oracle_arms import run_task
from studies.oracle_figure import draw
from studies.oracle_page import sections
from studies.oracle_settings import LIKELIHOOD, Settings

TITLE = "A synthetic oracle: likelihood and adversarial training over temperature"


def main() -> None:
    args = common.start("oracle", TITLE)
    settings = read_configuration(args.config, Settings, args.quick)
    jobs = plan(settings, args.seeds or settings.seeds)
    found = run_jobs("oracle", run_task, jobs, args.work, args.workers or common.physical_cores())
    arms = (LIKELIHOOD, *settings.arms)
    results = {arm: [one for job, one in zip(jobs, found, strict=True) if job.arm == arm] for arm in arms}
    with common.styled():
        figure = draw(settings, results)
    records = [{"arm": job.arm, "seed": job.seed, **one} for job, one in zip(jobs, found, strict=True)]
    common.publish(args, sections(settings, results, f"{args.name}.svg"), figure, records, ["torch", "scipy"])


def plan(settings: Settings, seeds: int) -> list[Job]:
    """Likelihood of every seed, then the arms that go on from it."""
    begun = [Job(LIKELIHOOD, seed, settings.task(LIKELIHOOD).model_dump()) for seed in range(seeds)]
    return begun + [Job(arm, job.seed, settings.task(arm).model_dump(), job) for arm in settings.arms for job in begun]


if __name__ == "__main__":
    with faults_in_one_line():
        main()
