"""What all judges say of every writer, the figures of its texts, and both over temperatures.

Judges of a test figure learn from validation windows and are heard on test windows. Judges of a validation figure, by
which the candidate is chosen, learn from one half of the validation windows and are heard on the other; those of the
curve do the same with test windows, so that a temperature costs no more than one set of texts.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from troupe.evaluation.families import QUICK, Judge, families
from troupe.evaluation.quality import Yardstick, make_yardstick, measure
from troupe.evaluation.realism import Windows
from troupe.evaluation.referee import Opinion, Trial, cross_hear, hear, worst_of
from troupe.evaluation.workers import workers
from troupe.evaluation.writing import CONTROLS, REAL, SPLITS, Task, Writing, written
from troupe.seeding import derive_seed

Figures = dict[str, Any]
Opinions = Mapping[str, Opinion]  # of every family, in one repetition
Written = Mapping[Task, Windows]


@dataclass(frozen=True)
class Judging:
    """One evaluation: who writes, who judges, and what texts are held against."""

    writing: Writing
    judges: Mapping[str, Judge]
    yardstick: Yardstick

    @property
    def steps(self) -> int:
        """How often `figures` ticks: for every set of texts, and every ruling."""
        return len(self.writing.tasks()) + len(self._asked())

    def figures(self, tick: Callable[[Figures], None]) -> Figures:
        """{"rulings": {writer: {split: ruling}}, "quality": {writer: figures}, "curve"}; `tick` is told of progress.

        A ruling is {"judge": figures of the worst family and its name, "judges": {family: figures}}; controls have one
        of test text only. "quality" is that of models and of real text, a mean over repetitions. "curve" is None
        without temperatures.
        """
        with workers() as pool:
            windows = self.writing.windows(pool, lambda: tick({}))
            opinions = self._opinions(pool, windows)
            measured = self._measured(pool, windows)
            curve = self._curve(pool, windows) if self.writing.params.temperatures else None
            rulings: Figures = {}
            for (writer, split), pending in opinions.items():
                found = rulings.setdefault(writer, {})[split] = ruling([opinion.result() for opinion in pending])
                tick({"judge": found["judge"]["accuracy"]})
            quality = {name: mean([found.result() for found in pending]) for name, pending in measured.items()}
            return {"rulings": rulings, "quality": quality, "curve": curve and _settled(curve)}

    def _opinions(self, pool: Executor, windows: Written) -> dict[tuple[str, str], list[Future[Opinions]]]:
        """{(writer, split): one for each repetition}"""
        return {
            (name, split): [pool.submit(self._heard, windows, Task(name, split, r)) for r in self.writing.repetitions]
            for name, split in self._asked()
        }

    def _asked(self) -> list[tuple[str, str]]:
        """(writer, split): controls are no candidates, so that validation figures of theirs have no use."""
        return [(name, split) for name in self.writing.bundles for split in SPLITS] + [(n, "test") for n in CONTROLS]

    def _heard(self, windows: Written, task: Task) -> Opinions:
        learn, seed = windows[task._replace(split="validation")], self._seed(task.repetition)
        if task.split == "validation":
            return {name: cross_hear(judge, learn, seed) for name, judge in self.judges.items()}
        return {name: hear(judge, Trial(learn, windows[task], seed)) for name, judge in self.judges.items()}

    def _measured(self, pool: Executor, windows: Written) -> dict[str, list[Future[dict[str, float]]]]:
        repetitions = self.writing.repetitions
        texts = {name: [written(windows[Task(name, "test", r)]) for r in repetitions] for name in self.writing.bundles}
        texts[REAL] = [self.writing.places("test", r).real() for r in repetitions]
        return {name: [pool.submit(measure, one, self.yardstick) for one in several] for name, several in texts.items()}

    def _curve(self, pool: Executor, windows: Written) -> Figures:
        temperatures = sorted([1.0, *self.writing.params.temperatures])
        real = self.writing.places("test", 0).real()
        tasks = {name: [Task(name, "test", 0, t) for t in temperatures] for name in self.writing.bundles}
        return {
            "models": {
                name: [
                    pool.submit(self._point, windows[one], written(windows[one]), one.temperature) for one in several
                ]
                for name, several in tasks.items()
            },
            "real_text": pool.submit(self._point, windows[Task(REAL, "test", 0)], real),
        }

    def _point(self, windows: Windows, texts: Sequence[str], temperature: float | None = None) -> Figures:
        """The worst of the quick judges, and every figure of the texts."""
        few = {name: [cross_hear(self.judges[name], windows, self._seed(0))] for name in QUICK}
        worst = worst_of(few)
        named = {} if temperature is None else {"temperature": temperature}
        return {**named, "accuracy": worst["judges"][worst["worst"]]["accuracy"], **measure(texts, self.yardstick)}

    def _seed(self, repetition: int) -> int:
        return derive_seed(self.writing.seed, "evaluate", "judge", repetition)


def make_judging(writing: Writing) -> Judging:
    """Every other validation window is a reference, at most `judge_texts` of them; likelihoods are learned from those
    between."""
    places = writing.held_out["validation"].places
    held, learned = (places.take(np.arange(first, len(places.starts), 2)) for first in (0, 1))
    spread = np.linspace(0, len(held.starts) - 1, min(len(held.starts), writing.params.judge_texts)).round().astype(int)
    yardstick = make_yardstick(writing.train, held.take(spread).real(), "\n".join(learned.real()))
    return Judging(writing, families(writing.train), yardstick)


def ruling(repetitions: Sequence[Opinions]) -> Figures:
    """The worst family's figures with its name, and beside them those of all."""
    found = worst_of({family: [opinions[family] for opinions in repetitions] for family in repetitions[0]})
    return {"judge": {"family": found["worst"], **found["judges"][found["worst"]]}, "judges": found["judges"]}


def mean(repetitions: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: fmean(one[name] for one in repetitions) for name in repetitions[0]}


def _settled(curve: Figures) -> Figures:
    points = {name: [point.result() for point in pending] for name, pending in curve["models"].items()}
    return {"judges": list(QUICK), "models": points, "real_text": curve["real_text"].result()}
