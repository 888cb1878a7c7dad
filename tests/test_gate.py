"""The rule of promotion, by its laws and by cases worked by hand."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from troupe.gate import Figures, Verdict, decide, judge_gain
from troupe.judging.two_sample import Judged, Predictions, Windows
from troupe.params import PromoteParams

RULE = PromoteParams(bpb_margin=0.01, confidence=0.95)
CHAMPION = Figures(
    weights_sha256="old",
    test_sha256="text",
    judge_digest="judge",
    test_bpb=1.5,
    judge_accuracy=0.80,
    judge_correct=1600,
    judge_n=2000,
    judge_standard_error=0.02,
    known_bad_accuracy=0.99,
    real_accuracy=0.51,
    real_standard_error=0.02,
)
BETTER = replace(CHAMPION, weights_sha256="new", test_bpb=1.4, judge_accuracy=0.70, judge_correct=1400)
NUMBERS = [f.name for f in fields(Figures) if f.type is float]


@st.composite
def measured(draw: st.DrawFn, weights: str) -> Figures:
    n = draw(st.integers(20, 5000))
    correct = draw(st.integers(0, n))
    error = draw(st.floats(0, 0.1))
    return replace(
        CHAMPION,
        weights_sha256=weights,
        test_bpb=draw(st.floats(0.1, 8)),
        judge_accuracy=correct / n,
        judge_correct=correct,
        judge_n=n,
        judge_standard_error=error,
    )


def outcome(candidate: Figures, champion: Figures | None = CHAMPION) -> str:
    return decide(candidate, champion, RULE).outcome


def test_promotes_what_is_better_on_both_counts() -> None:
    verdict = decide(BETTER, CHAMPION, RULE)
    assert verdict.outcome == "promoted"
    assert "1.4000" in verdict.reasons[0]
    assert "1.5000" in verdict.reasons[0]


def test_threshold_by_hand() -> None:
    """Standard errors 0.03 and 0.04 make 0.05 together; z(0.95) = 1.6449, so a gain must exceed 0.08224."""
    champion = replace(CHAMPION, judge_standard_error=0.03)
    close = replace(BETTER, judge_standard_error=0.04)
    gain, error = judge_gain(close, champion)
    assert (gain, error) == (pytest.approx(0.1), pytest.approx(0.05))
    assert outcome(replace(close, judge_accuracy=0.7177), champion) == "promoted"
    assert outcome(replace(close, judge_accuracy=0.7179), champion) == "refused"


def test_certainty_is_not_taken_from_a_standard_error_of_zero() -> None:
    """10 of 10 caught against 9 of 10: with one success and one failure added, errors 0.0874 and 0.1179 say nothing."""
    few = replace(CHAMPION, judge_accuracy=1.0, judge_correct=10, judge_n=10, judge_standard_error=0.0)
    fewer = replace(few, weights_sha256="new", judge_accuracy=0.9, judge_correct=9)
    assert judge_gain(fewer, few)[1] == pytest.approx(math.hypot(0.08740, 0.11785), abs=1e-4)
    assert outcome(fewer, few) == "refused"


def test_worse_than_guessing_is_no_gain() -> None:
    guessed = replace(CHAMPION, judge_accuracy=0.5, judge_correct=1000)
    below = replace(BETTER, judge_accuracy=0.1, judge_correct=200, judge_standard_error=0.001)
    assert judge_gain(below, guessed)[0] == 0
    assert outcome(below, guessed) == "refused"


def test_margin_allows_slightly_worse_bits_per_byte() -> None:
    assert outcome(replace(BETTER, test_bpb=1.509)) == "promoted"
    assert outcome(replace(BETTER, test_bpb=1.511)) == "refused"


def test_the_champion_itself_is_unchanged_even_with_nothing_measured() -> None:
    assert decide(CHAMPION, CHAMPION, RULE).outcome == "unchanged"
    assert outcome(Figures(weights_sha256="old")) == "unchanged"


def test_other_test_text_or_judge_is_refused_by_name() -> None:
    verdict = decide(replace(BETTER, test_sha256="other", judge_digest="other"), CHAMPION, RULE)
    assert verdict.outcome == "refused"
    assert "another test text" in verdict.reasons[0]
    assert "another judge" in verdict.reasons[1]
    assert "another evaluate.stride" in verdict.reasons[1]


@pytest.mark.fault("a candidate with a figure missing, NaN or impossible: refused")
@pytest.mark.parametrize("champion", [CHAMPION, None], ids=["champion", "no champion"])
@pytest.mark.parametrize("fault", [math.nan, math.inf, -math.inf, -1.0])
@pytest.mark.parametrize("name", NUMBERS)
def test_no_figure_may_be_missing_or_impossible(name: str, fault: float, champion: Figures | None) -> None:
    verdict = decide(replace(BETTER, **{name: fault}), champion, RULE)
    assert verdict.outcome == "refused"
    assert any(name in reason for reason in verdict.reasons)


@pytest.mark.parametrize("name", ["weights_sha256", "test_sha256", "judge_digest"])
def test_no_digest_may_be_missing(name: str) -> None:
    assert outcome(replace(BETTER, **{name: ""}), None) == "refused"


def test_a_champion_without_figures_cannot_be_beaten() -> None:
    verdict = decide(BETTER, replace(CHAMPION, test_bpb=math.nan), RULE)
    assert verdict == Verdict("refused", ("champion: test_bpb is missing or not a number",))


def test_first_champion_needs_sound_figures_and_a_sane_judge() -> None:
    assert outcome(BETTER, None) == "promoted"
    assert outcome(replace(BETTER, known_bad_accuracy=0.74), None) == "refused"
    assert outcome(replace(BETTER, real_accuracy=0.57), None) == "refused"
    assert outcome(replace(BETTER, real_accuracy=0.43), None) == "refused"
    assert outcome(replace(BETTER, real_accuracy=0.57, real_standard_error=0.03), None) == "promoted"
    assert outcome(replace(BETTER, real_accuracy=0.559, real_standard_error=0.02), None) == "promoted"
    assert outcome(replace(BETTER, real_accuracy=0.561, real_standard_error=0.02), None) == "refused"


def floor(rng: np.random.Generator, leak: float) -> Figures:
    """What three judges say of real text, half of it called generated: two guess, one is right that often more. The
    worst of validation text is reported of test text."""
    labels = np.tile([False, True], 60)
    windows = Windows([""] * len(labels), labels, np.arange(len(labels)))

    def judged(picked: str | None) -> Judged:
        shares = {"one": 0.5, "two": 0.5, "three": 0.5 + leak}
        return Judged({name: [predictions(share) for _ in range(3)] for name, share in shares.items()}, picked)

    def predictions(share: float) -> Predictions:
        return Predictions(windows, np.where((rng.random(len(labels)) < share) == labels, 1.0, -1.0))

    found = judged(judged(None).worst).detection
    return replace(BETTER, real_accuracy=found.accuracy, real_standard_error=found.standard_error)


def test_the_pick_raises_no_figure_of_honest_judges_and_hides_no_broken_one() -> None:
    rng = np.random.default_rng(0)
    honest, broken = ([floor(rng, leak) for _ in range(times)] for times, leak in ((60, 0), (20, 0.25)))
    error = 0.5 / np.sqrt(60 * 3 * 120)  # of the mean of all honest ones, each of 3 times 120 guesses
    assert abs(np.mean([figures.real_accuracy for figures in honest]) - 0.5) < 3 * error
    assert {outcome(figures) for figures in honest} == {"promoted"}
    assert {outcome(figures) for figures in broken} == {"refused"}


def test_tags_of_another_version_that_speak_of_more_are_passed_over() -> None:
    """Models could once draw among candidates, and the gate asked for the variety of their texts."""
    for more in ({"candidates": "8", "distinct_ratio": "0.98"}, {"candidates": "1.0", "distinct_ratio": "nan"}):
        champion = Figures.from_tags(CHAMPION.tags() | more)
        assert champion == CHAMPION
        assert outcome(BETTER, champion) == "promoted"


def test_figures_from_the_report() -> None:
    judge = {"accuracy": 0.7, "correct": 1400, "n": 2000, "standard_error": 0.02}
    report = {
        "test_sha256": "text",
        "judge": {"digest": "judge"},
        "models": {
            "moe": {"weights_sha256": "new", "test": {"bpb": 1.4, "judge": judge}},
        },
        "controls": {
            "known_bad": {"accuracy": 0.99},
            "real_against_real": {"accuracy": 0.51, "standard_error": 0.02},
        },
    }
    assert Figures.from_report(report, "moe") == BETTER
    assert next(Figures.from_report(report, "pretrain").faults()) == "weights_sha256 is missing or not a number"


@pytest.mark.parametrize("broken", [{}, {"models": None}, {"models": {"moe": {"test": {"bpb": "1.4 bits"}}}}])
def test_a_broken_report_is_refused_not_a_crash(broken: dict[str, object]) -> None:
    assert outcome(Figures.from_report(broken, "moe")) == "refused"


@given(measured("new"))
def test_tags_round_trip(figures: Figures) -> None:
    assert Figures.from_tags(figures.tags() | {"git_commit": "abc"}) == figures


@pytest.mark.fault("a worse candidate: refused")
@given(measured("new"), measured("old"))
def test_never_promotes_bits_per_byte_worse_than_the_margin(candidate: Figures, champion: Figures) -> None:
    assume(candidate.test_bpb > champion.test_bpb + RULE.bpb_margin)
    assert outcome(candidate, champion) == "refused"


@given(measured("new"), measured("old"))
def test_promotion_is_antisymmetric(candidate: Figures, champion: Figures) -> None:
    forth, back = outcome(candidate, champion), outcome(champion, candidate)
    assert not forth == back == "promoted"


@given(st.floats(0, BETTER.test_bpb), st.floats(0, BETTER.judge_accuracy))
def test_a_better_candidate_is_never_treated_worse(bpb: float, accuracy: float) -> None:
    assert outcome(BETTER) == "promoted"
    assert outcome(replace(BETTER, test_bpb=bpb, judge_accuracy=accuracy)) == "promoted"


@given(measured("new"), measured("old"), st.floats(0.51, 0.99), st.floats(0.51, 0.99))
def test_more_confidence_never_promotes_more(candidate: Figures, champion: Figures, one: float, other: float) -> None:
    strict = PromoteParams(bpb_margin=0.01, confidence=max(one, other))
    lenient = PromoteParams(bpb_margin=0.01, confidence=min(one, other))
    if decide(candidate, champion, strict).outcome == "promoted":
        assert decide(candidate, champion, lenient).outcome == "promoted"


@given(measured("new"))
def test_equal_figures_are_not_an_improvement(figures: Figures) -> None:
    assert outcome(figures, replace(figures, weights_sha256="old")) == "refused"
