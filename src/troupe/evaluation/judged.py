"""What all judges say of every model and control, the figures of their texts, and both over temperatures.

Of test text the worst judge is the one that is the worst on validation text, so that no figure flatters the pick.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np

from troupe.compute import workers
from troupe.data.room import PROMPT_BYTES
from troupe.evaluation.quality import Yardstick, make_yardstick, measure
from troupe.evaluation.result import Curve, JudgeDescription
from troupe.judging import classifiers, references
from troupe.judging.classifiers import FAMILIES, QUICK
from troupe.judging.protocol import CHECKS, CONTROLS, REAL, SHARES, Setup, TextSet, Tick, joined
from troupe.judging.two_sample import FOLDS, Judged, Predictions, Windows, cross_predict
from troupe.models.gpt2 import GPT
from troupe.params import JudgingParams

NAME = "the worst of " + ", ".join(FAMILIES)
VERSION = 6  # raise it with any change that can change a figure: the gate compares only figures of one version
SPLITS = ("validation", "test")
Point = dict[str, float]  # of a curve: accuracy of the worst of the quick judges, and every figure of the texts


class JudgedTexts(NamedTuple):
    judged: dict[tuple[str, str], Judged]  # by writer and split
    quality: dict[str, Point]  # of models and of real text, a mean over repetitions
    curve: Curve | None


@dataclass(frozen=True)
class Judging:
    """One evaluation: models, how they are judged, what their texts are compared with."""

    setup: Setup
    models: Mapping[str, GPT]
    temperatures: Sequence[float]  # beside 1; none: no curve
    yardstick: Yardstick

    @property
    def steps(self) -> int:
        """How often `run` calls `tick`."""
        return len(self.tasks()) + len(self._asked())

    def tasks(self) -> list[TextSet]:
        """Every set of texts. Only models, on test text and once, write at other temperatures."""
        repeated = [
            TextSet(name, split, repetition)
            for name in (*self.models, *CONTROLS, *CHECKS)
            for repetition in self._repetitions(name)
            for split in SPLITS
        ]
        return [TextSet(name, "test", 0, t) for name in self.models for t in self.temperatures] + repeated

    def _repetitions(self, name: str) -> range:
        return range(1) if name in CHECKS else self.setup.repetitions

    def run(self, tick: Tick) -> JudgedTexts:
        """`tick` is called after every set of texts, and with the accuracy of every writer and split."""
        with workers() as pool:
            windows = self._windows(pool, tick)
            predictions = {asked: self._predictions(pool, windows, *asked) for asked in self._asked()}
            measured = self._measured(pool, windows)
            curve = self._curve(pool, windows) if self.temperatures else None
            judged: dict[tuple[str, str], Judged] = {}
            for (name, split), repetitions in predictions.items():
                picked = judged[name, "validation"].worst if split == "test" else None
                judged[name, split] = joined(repetitions, picked)
                tick({"judge": judged[name, split].detection.accuracy})
            quality = {name: mean([found.result() for found in several]) for name, several in measured.items()}
            return JudgedTexts(judged, quality, curve() if curve else None)

    def _windows(self, pool: Executor, tick: Tick) -> dict[TextSet, Windows]:
        """Of every task; the words that corrupt real text are those of the first model."""
        first, windows = next(iter(self.models)), dict[TextSet, Windows]()
        corrupting = [task for task in self.tasks() if task.writer in SHARES]
        for tasks in ([task for task in self.tasks() if task not in corrupting], corrupting):
            pending = {}
            for task in tasks:
                drawn = written(windows[task._replace(writer=first)]) if task in corrupting else ()
                pending[task] = self.setup.written(pool, task, self.models.get(task.writer), drawn)
            for task, texts in pending.items():
                windows[task] = texts()
                tick({})
        return windows

    def _asked(self) -> list[tuple[str, str]]:
        """(writer, split)."""
        return [(name, split) for name in (*self.models, *CONTROLS, *CHECKS) for split in SPLITS]

    def _predictions(
        self, pool: Executor, windows: Mapping[TextSet, Windows], name: str, split: str
    ) -> list[Future[dict[str, Predictions]]]:
        repetitions = self._repetitions(name)
        return [pool.submit(self.setup.predictions, windows, TextSet(name, split, r)) for r in repetitions]

    def _measured(self, pool: Executor, windows: Mapping[TextSet, Windows]) -> dict[str, list[Future[Point]]]:
        repetitions = self.setup.repetitions
        texts = {name: [written(windows[TextSet(name, "test", r)]) for r in repetitions] for name in self.models}
        texts[REAL] = [self.setup.places("test", r).real() for r in repetitions]
        return {name: [pool.submit(measure, one, self.yardstick) for one in several] for name, several in texts.items()}

    def _curve(self, pool: Executor, windows: Mapping[TextSet, Windows]) -> Callable[[], Curve]:
        temperatures = sorted([1.0, *self.temperatures])
        tasks = {name: [TextSet(name, "test", 0, t) for t in temperatures] for name in self.models}
        points = {
            name: [pool.submit(self._point, windows[one], written(windows[one])) for one in several]
            for name, several in tasks.items()
        }
        real = pool.submit(self._point, windows[TextSet(REAL, "test", 0)], self.setup.places("test", 0).real())

        def curve() -> Curve:
            models = {
                name: [{"temperature": t, **point.result()} for t, point in zip(temperatures, several, strict=True)]
                for name, several in points.items()
            }
            return Curve(judges=QUICK, models=models, real_text=real.result())

        return curve

    def _point(self, windows: Windows, texts: Sequence[str]) -> Point:
        """Classifiers are trained on test windows alone, so that a temperature costs no more than one set of texts."""
        seed = self.setup.classifier_seed(0)
        judged = Judged({name: [cross_predict(self.setup.judges[name], windows, seed)] for name in QUICK})
        return {"accuracy": judged.detection.accuracy, **measure(texts, self.yardstick)}


def make_judging(setup: Setup, models: Mapping[str, GPT], temperatures: Sequence[float]) -> Judging:
    """Every other validation window is a reference, at most `texts` of them; likelihoods are learned from those
    between."""
    places = setup.held_out["validation"].places
    held, learned = (places.take(np.arange(first, len(places.starts), 2)) for first in (0, 1))
    spread = np.linspace(0, len(held.starts) - 1, min(len(held.starts), setup.settings.texts)).round().astype(int)
    yardstick = make_yardstick(setup.train, held.take(spread).real(), "\n".join(learned.real()))
    return Judging(setup, models, temperatures, yardstick)


def mean(repetitions: Sequence[Mapping[str, float]]) -> Point:
    return {name: fmean(one[name] for one in repetitions) for name in repetitions[0]}


def written(windows: Windows) -> Sequence[str]:
    """The generated texts."""
    return windows.where(windows.generated).texts


def description(settings: JudgingParams, stride: int, learnt_from: Mapping[str, str]) -> JudgeDescription:
    """Who judges, with a digest: figures under different digests cannot be compared.

    The digest covers `stride` too, which changes bits per byte. The text that is measured has a digest of its own in
    metrics.json, and how far a window reaches back is the model's. `learnt_from` are the digests of the real text that
    classifiers are trained on or take for known.
    """
    setting = {"seeds": settings.seeds, "window_bytes": settings.window, "texts": settings.texts}
    whole = {
        "version": VERSION,
        "families": FAMILIES,
        "classifiers": [classifiers.NGRAMS, classifiers.INVERSE_PENALTY, classifiers.TREES, classifiers.SCORES],
        "references": [
            *(references.SIZES, references.LEARNED_TEXT, references.NAMES, references.TOKENS, references.CONTEXT),
            *(references.SPANS, references.IMPROBABLE, FOLDS),
        ],
        "transformer_steps": settings.transformer_steps,
        "prompt": PROMPT_BYTES,
        "stride": stride,
        "learnt_from": dict(learnt_from),
        **setting,
    }
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    return JudgeDescription(name=NAME, families=FAMILIES, **setting, digest=digest)
