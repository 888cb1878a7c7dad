"""What is reported of every writer: the worst judge, the figures of its texts, and points of a curve that are the same
as computed alone."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
import pytest

from tests.judging.scene import MODELS, REPETITIONS, WIDTH, setup
from tests.judging.scene import settings as judging_settings
from troupe.evaluation.judged import JudgedTexts, Judging, description, make_judging, written
from troupe.evaluation.quality import measure
from troupe.judging import classifiers
from troupe.judging.classifiers import QUICK, Scorer
from troupe.judging.protocol import CHECKS, CONTROLS, REAL, TextSet
from troupe.judging.two_sample import Windows, cross_predict
from troupe.judging.words import WORD


@dataclass(frozen=True)
class Glance:
    """Calls generated what holds none of a few letters."""

    letters: str

    def fit(self, real: Sequence[str], fake: Sequence[str], seed: int) -> Scorer:
        return lambda texts: np.array([0.5 - any(letter in text for letter in self.letters) for text in texts])


GLANCES = {"linear": Glance("q"), "likelihood": Glance("v"), "boosted": Glance("aeiou")}  # `boosted` sees most


def judging() -> Judging:
    return make_judging(replace(setup(), judges=GLANCES), MODELS, [0.5])


@pytest.fixture(scope="module")
def found() -> JudgedTexts:
    return judging().run(lambda _: None)


def test_every_model_and_control_is_judged_on_both_splits(found: JudgedTexts) -> None:
    writers = (*MODELS, *CONTROLS, *CHECKS)
    assert found.judged.keys() == {(name, split) for name in writers for split in ("validation", "test")}
    assert found.judged["one", "test"].worst == "boosted"
    for name in writers:
        repetitions = 1 if name in CHECKS else REPETITIONS
        assert {len(several) for several in found.judged[name, "test"].predictions.values()} == {repetitions}
        assert found.judged[name, "test"].picked == found.judged[name, "validation"].worst


def test_real_text_is_corrupted_by_words_of_the_first_model() -> None:
    whole = judging()
    with ThreadPoolExecutor(2) as pool:
        windows = whole._windows(pool, lambda _: None)
    mine, corrupted = (written(windows[TextSet(name, "test", 0)]) for name in ("one", "corrupted_0.2"))
    real = whole.setup.places("test", 0).real()
    new = set(" ".join(corrupted).split()) - set(" ".join(real).split()) - {text.split()[-1] for text in corrupted}
    assert new
    assert all(any(piece in "".join(mine) for piece in WORD.findall(word)) for word in new)
    assert all(WIDTH - 3 < len(text.encode()) <= WIDTH for text in corrupted), "but for a character that was cut"


def test_on_validation_text_it_finds_what_selection_finds(found: JudgedTexts) -> None:
    selected = replace(setup(), judges=GLANCES).on_validation(MODELS, lambda _: None)
    for name in MODELS:
        assert selected[name].detections == found.judged[name, "validation"].detections


def test_points_of_the_curve_equal_what_is_computed_alone(found: JudgedTexts) -> None:
    whole = judging()
    windows = _windows(whole)
    assert found.curve is not None
    for name in MODELS:
        points = found.curve.models[name]
        assert [point["temperature"] for point in points] == [0.5, 1.0]
        for point in points:
            of_point = windows[TextSet(name, "test", 0, point["temperature"])]
            right = [cross_predict(GLANCES[family], of_point, seed=0).correct.mean() for family in QUICK]
            assert point == {
                "temperature": point["temperature"],
                "accuracy": max(right),
                **measure(written(of_point), whole.yardstick),
            }
    real = whole.setup.places("test", 0).real()
    assert found.curve.real_text["bits"] == measure(real, whole.yardstick)["bits"]
    assert found.curve.judges == QUICK


def test_only_models_write_at_other_temperatures_and_once() -> None:
    extra = [task for task in judging().tasks() if task.temperature != 1]
    assert extra == [TextSet(name, "test", 0, 0.5) for name in MODELS]
    assert make_judging(setup(), MODELS, []).run(lambda _: None).curve is None


def test_quality_is_of_the_texts_that_are_judged_a_mean_over_repetitions(found: JudgedTexts) -> None:
    whole = judging()
    windows = _windows(whole)
    several = [measure(written(windows[TextSet("one", "test", r)]), whole.yardstick) for r in range(REPETITIONS)]
    assert found.quality["one"] == {name: fmean(each[name] for each in several) for name in several[0]}
    assert set(found.quality) == {*MODELS, REAL}


def test_the_yardstick_holds_no_test_text_and_no_window_twice() -> None:
    whole = judging()
    real = whole.setup.held_out["validation"].places.real()
    assert whole.yardstick.real.decode() == "\n".join(real[::2])
    few = make_judging(setup(texts=10), MODELS, [])
    assert few.yardstick.references.lengths.total() == 10 < whole.yardstick.references.lengths.total()


def test_progress_is_reported_as_often_as_announced() -> None:
    whole, ticks = judging(), list[Mapping[str, float]]()
    whole.run(ticks.append)
    assert len(ticks) == whole.steps
    assert all(0 <= value <= 1 for one in ticks for value in one.values())


def test_the_digest_names_the_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    text = {"train": "a", "validation": "b"}
    digest = description(judging_settings(), 1, text).digest
    assert digest == description(judging_settings(bits_margin=0.5), 1, text).digest
    assert digest != description(judging_settings(window=64), 1, text).digest
    assert digest != description(judging_settings(), 2, text).digest, "another stride: other bits per byte"
    assert digest != description(judging_settings(), 1, text | {"validation": "c"}).digest
    assert digest != description(judging_settings(transformer_steps=3), 1, text).digest
    monkeypatch.setitem(classifiers.TREES, "max_leaf_nodes", 9)
    assert digest != description(judging_settings(), 1, text).digest


def _windows(whole: Judging) -> dict[TextSet, Windows]:
    with ThreadPoolExecutor(1) as pool:
        return whole._windows(pool, lambda _: None)
