"""Claims about GAN, WGAN and WGAN-GP, measured on points of the plane: `make study-gan`.

Parts: `main` games on the grid of 25 and the ring of 8 Gaussians, a `sweep` over learning rates, and a `strong_critic`
that is trained while the generator stands still. arms.py plays, claims.py compares, page.py writes.
"""

from collections.abc import Iterator
from functools import partial

from studies.core.command import faults_in_one_line, start
from studies.core.configuration import read_configuration
from studies.core.jobs import Job, run_jobs
from studies.core.page import publish
from studies.gan.arms import Arm, Part, Task, run_task
from studies.gan.page import sections
from studies.gan.plots import draw
from studies.gan.runs import Run, Runs
from studies.gan.settings import NAMED, MixtureName, Settings

TITLE = "GAN, WGAN and WGAN-GP on points of the plane"
PACKAGES = ["torch", "scipy"]


def main() -> None:
    args = start("gan", TITLE)
    settings = read_configuration(args.config, Settings, args.quick)
    planned = {
        Job(name, seed, task.model_dump()): task for name, task, seed in plan(settings, args.seeds or settings.seeds)
    }
    figures = run_jobs(args.name, run_task, [*planned], args.work, args.workers)
    runs = Runs([Run(job.arm, task, job.seed, figures[job]) for job, task in planned.items()])
    publish(args, sections(args.name, settings, runs), partial(draw, settings, runs), runs.records(), PACKAGES)


def plan(settings: Settings, seeds: int) -> Iterator[tuple[str, Task, int]]:
    """Arm, task and seed of every job, long ones first: cores that have run out of work wait for a short one."""
    sweep, strong = settings.sweep, settings.strong_critic
    games = [(mixture, *player) for mixture in settings.games for player in settings.players(mixture).items()]
    for mixture, name, arm in sorted(games, key=lambda game: -game[2].n_critic):
        for seed in range(seeds):
            play = settings.games[mixture]
            yield name, _task(settings, "main", arm, mixture, play.steps, play.looks), seed
    for name in NAMED:
        for rate in sweep.learning_rates:
            for seed in range(min(seeds, sweep.seeds)):
                arm = settings.arms[name].model_copy(update={"learning_rate": rate})
                yield name, _task(settings, "sweep", arm, sweep.mixture, sweep.steps), seed
        for seed in range(seeds):
            yield name, _task(settings, "strong_critic", settings.arms[name], strong.mixture, strong.steps), seed


def _task(settings: Settings, part: Part, arm: Arm, mixture: MixtureName, steps: int, looks: int = 1) -> Task:
    same = {name: getattr(settings, name) for name in ("batch_size", "generator_hidden", "critic_hidden")}
    return Task.model_validate({"part": part, "arm": arm, "mixture": mixture, "steps": steps, "looks": looks, **same})


if __name__ == "__main__":
    with faults_in_one_line():
        main()
