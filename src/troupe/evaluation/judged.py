"""What all judges say of every model and control, the figures of their texts, and both over temperatures."""

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
from troupe.judging import classifiers
from troupe.judging.classifiers import FAMILIES, QUICK
from troupe.judging.protocol import CONTROLS, REAL, Setup, TextSet, Tick, joined
from troupe.judging.two_sample import Judged, Predictions, Windows, cross_predict
from troupe.models.gpt2 import GPT
from troupe.params import JudgingParams

NAME = "the worst of " + ", ".join(FAMILIES)
VERSION = 5  # raise it with any change that can change a figure: the gate compares only figures of one version
SPLITS = ("validation", "test")
Point = dict[str, float]  # of a curve: accuracy of the worst of the quick judges, and every figure of the texts


class JudgedTexts(NamedTuple):
    judged: dict[tuple[str, str], Judged]  # by writer and split; controls on test text alone
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
            for name in (*self.models, *CONTROLS)
            for repetition in self.setup.repetitions
            for split in SPLITS
        ]
        return [TextSet(name, "test", 0, t) for name in self.models for t in self.temperatures] + repeated

    def run(self, tick: Tick) -> JudgedTexts:
        """`tick` is called after every set of texts, and with the accuracy of every writer and split."""
        with workers() as pool:
            pending = {task: self.setup.written(pool, task, self.models.get(task.writer)) for task in self.tasks()}
            windows: dict[TextSet, Windows] = {}
            for task, texts in pending.items():
                windows[task] = texts()
                tick({})
            predictions = {asked: self._predictions(pool, windows, *asked) for asked in self._asked()}
            measured = self._measured(pool, windows)
            curve = self._curve(pool, windows) if self.temperatures else None
            judged = {}
            for asked, repetitions in predictions.items():
                judged[asked] = joined(repetitions)
                tick({"judge": judged[asked].detection.accuracy})
            quality = {name: mean([found.result() for found in several]) for name, several in measured.items()}
            return JudgedTexts(judged, quality, curve() if curve else None)

    def _asked(self) -> list[tuple[str, str]]:
        """(writer, split): controls are no candidates, so that validation figures of theirs have no use."""
        return [(name, split) for name in self.models for split in SPLITS] + [(name, "test") for name in CONTROLS]

    def _predictions(
        self, pool: Executor, windows: Mapping[TextSet, Windows], name: str, split: str
    ) -> list[Future[dict[str, Predictions]]]:
        return [pool.submit(self.setup.predictions, windows, TextSet(name, split, r)) for r in self.setup.repetitions]

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
        """Classifiers are trained on one half of the windows and tested on the other, and the other way round, so that
        a temperature costs no more than one set of texts."""
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
        "linear": [classifiers.FEATURES, classifiers.ORDERS, classifiers.KNOWN_TEXT, classifiers.INVERSE_PENALTY],
        "boosted": [classifiers.TREES, classifiers.COUNTED_TEXT, classifiers.MAX_ORDER],
        "prompt": PROMPT_BYTES,
        "stride": stride,
        "learnt_from": dict(learnt_from),
        **setting,
    }
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    return JudgeDescription(name=NAME, families=FAMILIES, **setting, digest=digest)
