"""What is said of GAN, WGAN and WGAN-GP, measured on points of the plane: `make study-gan`.

Parts: `main` games on the grid of 25 and the ring of 8 Gaussians, a `sweep` over learning rates, and a `strong_critic`
that learns while the generator stands still. gan_games.py plays, gan_claims.py judges, gan_page.py writes.
"""

from collections.abc import Iterator

from benchmarks.common import faults_in_one_line
from studies import common
from studies.configuration import read_configuration
from studies.gan_figure import draw
from studies.gan_games import Arm, Part, Task, run_task
from studies.gan_page import sections
from studies.gan_runs import Run, Runs
from studies.gan_settings import NAMED, MixtureName, Settings
from studies.jobs import Job, run_jobs

TITLE = "GAN, WGAN and WGAN-GP on points of the plane"


def main() -> None:
    args = common.start("gan", TITLE)
    settings = read_configuration(args.config, Settings, args.quick)
    seeds = args.seeds or settings.seeds
    planned = list(plan(settings, seeds))
    jobs = [Job(name, seed, task.model_dump()) for name, task, seed in planned]
    workers = args.workers or common.physical_cores()
    found = run_jobs("gan", run_task, jobs, args.work, workers)
    runs = Runs([Run(*one, figures) for one, figures in zip(planned, found, strict=True)])
    with common.styled():
        figure = draw(settings, runs)
    common.publish(
        args, sections(settings, runs, f"{args.name}.svg"), figure, runs.records(), packages=["torch", "scipy"]
    )


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
