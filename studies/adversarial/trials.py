"""Trials of the study's judges: what classifiers of one seed are trained on, and what they are tested on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from studies.core.jobs import Figures
from troupe.judging.classifiers import Judge
from troupe.judging.two_sample import Judged, Windows, paired, predict, real_against_real
from troupe.judging.windows import Places
from troupe.seeding import derive_seed, generator

Write = Callable[[Places, int], list[str]]  # places, seed -> a text for every place, as `windows.continuations` does


@dataclass(frozen=True)
class Trial:
    train: Windows
    test: Windows
    seed: int


def writer_trials(write: Write, train: Places, test: Places, seeds: Sequence[int]) -> list[Trial]:
    """A writer at the same places in every trial, with other random numbers."""

    def windows(places: Places, seed: int, part: str) -> Windows:
        return paired(places.real(), write(places, derive_seed(seed, "referee", part)), places.starts)

    return [Trial(windows(train, seed, "learn"), windows(test, seed, "hear"), seed) for seed in seeds]


def floor_trials(train: Places, test: Places, seeds: Sequence[int]) -> list[Trial]:
    """Real against real, where nothing can be told apart; from half as many texts of either kind."""

    def windows(places: Places, seed: int, part: str) -> Windows:
        return real_against_real(places.real(), places.starts, generator(seed, "referee", "floor", part))

    return [Trial(windows(train, seed, "learn"), windows(test, seed, "hear"), seed) for seed in seeds]


def detections(judges: Mapping[str, Judge], trials: Sequence[Trial]) -> Figures:
    """{"judges": {family: figures}, "worst": the family with the highest accuracy}."""
    judged = Judged(
        {
            family: [predict(judge, trial.train, trial.test, trial.seed) for trial in trials]
            for family, judge in judges.items()
        }
    )
    figures = {family: detection.model_dump() for family, detection in judged.detections.items()}
    return {"judges": figures, "worst": judged.worst}
