"""The set-up for judging: the same places and random numbers for all, and what is trained and tested on which text."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from tests.judging.scene import MODELS, REPETITIONS, TEXTS, TRAIN, setup
from troupe.judging.classifiers import Scorer
from troupe.judging.protocol import COPIED, KNOWN_BAD, REAL, Setup, TextSet
from troupe.judging.two_sample import FOLDS, Windows, cross_predict
from troupe.models.gpt2 import GPT


@dataclass(frozen=True)
class Recorder:
    """Calls every text generated; keeps what it was trained on."""

    trained_on: list[tuple[str, ...]] = field(default_factory=list)

    def fit(self, real: Sequence[str], fake: Sequence[str], seed: int) -> Scorer:
        self.trained_on.append((*real, *fake))
        return lambda texts: np.ones(len(texts))


def windows(of: Setup, *tasks: TextSet, threads: int = 2) -> dict[TextSet, Windows]:
    with ThreadPoolExecutor(threads) as pool:
        return {task: of.written(pool, task, MODELS.get(task.writer))() for task in tasks}


def test_all_write_at_the_same_places_beside_the_same_real_text() -> None:
    names = [*MODELS, KNOWN_BAD]
    for split in ("validation", "test"):
        for repetition in range(REPETITIONS):
            places = setup().places(split, repetition)
            assert len(places.starts) == TEXTS
            found = windows(setup(), *(TextSet(name, split, repetition) for name in names))
            for one in found.values():
                assert one.texts[:TEXTS] == places.real()
                assert one.place.tolist() == [*places.starts, *places.starts]
            assert len({tuple(one.texts) for one in found.values()}) == len(names)
            (real,) = windows(setup(), TextSet(REAL, split, repetition)).values()
            assert real.texts == places.real()


def test_repetitions_have_other_places_and_temperatures_other_texts() -> None:
    first, second, cold = (TextSet("one", "test", 0), TextSet("one", "test", 1), TextSet("one", "test", 0, 0.5))
    found = windows(setup(), first, second, cold)
    assert found[first].texts[:TEXTS] != found[second].texts[:TEXTS]
    assert found[first].texts[:TEXTS] == found[cold].texts[:TEXTS]
    assert found[first].texts != found[cold].texts


def test_texts_depend_neither_on_a_models_name_nor_on_the_number_of_workers() -> None:
    """So that a candidate gets the same figures whatever it is judged beside."""
    task = TextSet("one", "validation", 1)
    (expected,) = windows(setup(), task).values()
    (again,) = windows(setup(), task, threads=1).values()
    with ThreadPoolExecutor(1) as pool:
        renamed = setup().written(pool, TextSet("champion", "validation", 1), MODELS["one"])()
    assert expected.texts == again.texts == renamed.texts


def test_on_test_text_classifiers_are_trained_on_validation_text_and_the_other_stretches() -> None:
    recorder = Recorder()
    of = replace(setup(), judges={"recorder": recorder})
    both = windows(of, TextSet("one", "validation", 0), TextSet("one", "test", 0))
    of.predictions(both, TextSet("one", "test", 0))
    validation, test = (of.places(split, 0).real() for split in ("validation", "test"))
    assert len(recorder.trained_on) == FOLDS
    for trained_on, tested in zip(recorder.trained_on, np.array_split(test, FOLDS), strict=True):
        assert set(validation) <= set(trained_on)
        assert set(trained_on) & set(test) - set(validation) == set(test) - set(tested) - set(validation)


def test_on_validation_text_they_are_trained_on_its_other_stretches_alone() -> None:
    recorder = Recorder()
    of = replace(setup(), judges={"recorder": recorder})
    found = windows(of, TextSet("one", "validation", 0))
    of.predictions(found, TextSet("one", "validation", 0))
    real, test = of.places("validation", 0).real(), of.places("test", 0).real()
    for trained_on, tested in zip(recorder.trained_on, np.array_split(real, FOLDS), strict=True):
        assert set(trained_on) & set(real) == set(real) - set(tested)
        assert not set(trained_on) & (set(test) - set(real))


def test_predictions_are_what_classifiers_say_of_the_windows() -> None:
    of, task = setup(), TextSet("one", "test", 0)
    both = windows(of, task, task._replace(split="validation"))
    seed, validation = of.classifier_seed(0), both[task._replace(split="validation")]
    tested, crossed = of.predictions(both, task), of.predictions(both, task._replace(split="validation"))
    for family, judge in of.judges.items():
        assert tested[family].logit.tolist() == cross_predict(judge, both[task], seed, validation).logit.tolist()
        assert crossed[family].logit.tolist() == cross_predict(judge, validation, seed).logit.tolist()


def test_models_on_validation_text() -> None:
    """The same figures for the same model under two names; progress as often as announced."""
    models: Mapping[str, GPT] = {"a": MODELS["one"], "b": MODELS["one"], "c": MODELS["other"]}
    of, ticks = setup(), list[Mapping[str, float]]()
    found = of.on_validation(models, ticks.append)
    assert list(found) == ["a", "b", "c"]
    assert found["a"].detections == found["b"].detections != found["c"].detections
    assert all(len(several) == REPETITIONS for several in found["a"].predictions.values())
    assert len(ticks) == of.steps(len(models))
    assert ticks[-1] == {"c": found["c"].detection.accuracy}


def test_copied_text_is_of_what_the_judges_have_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("troupe.judging.protocol.LEARNED_TEXT", 40)
    task = TextSet(COPIED, "test", 0)
    found = windows(setup(), task)[task]
    copies = found.where(found.generated).texts
    assert all(copy in TRAIN[:40] for copy in copies)
    assert len(set(copies)) > 1
