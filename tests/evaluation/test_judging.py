"""What is reported of every writer: the worst judge, the figures of its texts, and points of a curve that are the same
as computed alone."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
import pytest

from tests.evaluation.scene import REPETITIONS, scene
from troupe.evaluation.families import QUICK, Floats, Scorer
from troupe.evaluation.judging import Figures, Judging, make_judging, ruling
from troupe.evaluation.quality import measure
from troupe.evaluation.realism import Windows, paired
from troupe.evaluation.referee import Opinion, Trial, cross_hear, hear, worst_of
from troupe.evaluation.writing import REAL, Task, written


@dataclass(frozen=True)
class Glance:
    """Calls generated what holds none of a few letters; notes what it learned from."""

    letters: str
    learned: list[tuple[str, ...]] = field(default_factory=list)

    def fit(self, real: Sequence[str], fake: Sequence[str], seed: int) -> Scorer:
        self.learned.append((*real, *fake))
        return lambda texts: np.array([0.5 - any(letter in text for letter in self.letters) for text in texts])


def judging() -> Judging:
    """Judges that are quick; `neural` sees most."""
    whole = make_judging(scene())
    glances = {"linear": Glance("q"), "boosted": Glance("v"), "neural": Glance("aeiou")}
    return Judging(whole.writing, glances, whole.yardstick)


@pytest.fixture(scope="module")
def figures() -> Figures:
    return judging().figures(lambda _: None)


def test_there_is_a_ruling_of_every_model_about_both_splits_and_of_controls_about_test(figures: Figures) -> None:
    assert {name: set(by_split) for name, by_split in figures["rulings"].items()} == {
        "plain": {"validation", "test"},
        "other": {"validation", "test"},
        "known_bad": {"test"},
        "real_against_real": {"test"},
    }


def test_the_worst_counts_and_stands_whole_beside_the_others(figures: Figures) -> None:
    for by_split in figures["rulings"].values():
        for found in by_split.values():
            accuracies = {family: one["accuracy"] for family, one in found["judges"].items()}
            assert found["judge"]["accuracy"] == max(accuracies.values())
            assert found["judge"] == {"family": found["judge"]["family"], **found["judges"][found["judge"]["family"]]}
    assert figures["rulings"]["plain"]["test"]["judge"]["family"] == "neural"


def test_the_worst_is_picked_over_all_repetitions_not_in_each() -> None:
    """One judge is right of 9 and 5 in 10, the other of 6 and 7: the first is worse, with 14 in 20."""

    def opinion(right: int) -> Opinion:
        windows = paired([""] * 5, [""] * 5, np.arange(5))
        correct = np.arange(10) < right
        return Opinion(windows, np.where(correct == windows.generated, 1.0, -1.0))

    found = ruling([{"a": opinion(9), "b": opinion(6)}, {"a": opinion(5), "b": opinion(7)}])
    assert (found["judge"]["family"], found["judge"]["accuracy"], found["judge"]["correct"]) == ("a", 0.7, 14)


def test_rulings_are_what_judges_say_of_the_windows(figures: Figures) -> None:
    whole = judging()
    windows = _windows(whole)
    for family, judge in whole.judges.items():
        learn, test = (
            [windows[Task("plain", split, r)] for r in range(REPETITIONS)] for split in ("validation", "test")
        )
        heard = [hear(judge, Trial(*both, seed=0)) for both in zip(learn, test, strict=True)]
        crossed = [cross_hear(judge, one, seed=0) for one in learn]
        for split, opinions in (("test", heard), ("validation", crossed)):
            assert (
                figures["rulings"]["plain"][split]["judges"][family] == worst_of({family: opinions})["judges"][family]
            )


def test_judges_of_test_text_learn_from_validation_text_only() -> None:
    whole = judging()
    validation, test = (set(whole.writing.places(s, 0).real()) for s in ("validation", "test"))
    whole._heard(_windows(whole), Task("plain", "test", 0))
    (learned,) = whole.judges["linear"].learned  # type: ignore[attr-defined]
    assert validation <= set(learned)
    assert not (test - validation) & set(learned)


def test_points_of_the_curve_equal_what_is_computed_alone(figures: Figures) -> None:
    whole = judging()
    windows = _windows(whole)
    for name in whole.writing.bundles:
        points = figures["curve"]["models"][name]
        assert [point["temperature"] for point in points] == [0.5, 1.0]
        for point in points:
            of_point = windows[Task(name, "test", 0, point["temperature"])]
            told = [np.mean(_right(cross_hear(whole.judges[family], of_point, seed=0))) for family in QUICK]
            assert point == {
                "temperature": point["temperature"],
                "accuracy": max(told),
                **measure(written(of_point), whole.yardstick),
            }
    real = figures["curve"]["real_text"]
    assert real["bits"] == measure(whole.writing.places("test", 0).real(), whole.yardstick)["bits"]
    assert figures["curve"]["judges"] == list(QUICK)


def test_quality_is_of_the_texts_that_are_judged_a_mean_over_repetitions(figures: Figures) -> None:
    whole = judging()
    windows = _windows(whole)
    several = [measure(written(windows[Task("other", "test", r)]), whole.yardstick) for r in range(REPETITIONS)]
    assert figures["quality"]["other"] == {name: fmean(one[name] for one in several) for name in several[0]}
    assert set(figures["quality"]) == {"plain", "other", REAL}


def test_the_yardstick_holds_no_test_text_and_no_window_twice() -> None:
    whole = make_judging(scene())
    real = whole.writing.held_out["validation"].places.real()
    assert whole.yardstick.real.decode() == "\n".join(real[::2])
    few = make_judging(scene(judge_texts=10))
    assert few.yardstick.references.lengths.total() == 10 < whole.yardstick.references.lengths.total()


def test_progress_is_told_as_often_as_announced() -> None:
    whole, told = judging(), list[Figures]()
    whole.figures(told.append)
    assert len(told) == whole.steps
    assert all(0 <= value <= 1 for one in told for value in one.values())


def _windows(whole: Judging) -> dict[Task, Windows]:
    with ThreadPoolExecutor(1) as pool:
        return whole.writing.windows(pool, lambda: None)


def _right(opinion: Opinion) -> Floats:
    return (opinion.logit > 0) == opinion.windows.generated
