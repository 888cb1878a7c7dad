"""The rule of promotion: a pure function of measured figures. It reads no file and knows no registry."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from statistics import NormalDist
from typing import Any, Literal, Self

from troupe.params import PromoteParams

# An accuracy is that of the worst of several judges: on test text, of the one that is the worst on validation text. So
# the pick raises no figure, and an honest judge of real text against real text is seldom more than 3 standard errors
# off one half. One that sees in real text what is not there is picked, and is enough to refuse.
KNOWN_BAD_ACCURACY = 0.75  # half-way between guessing and certainty: judges below it are blind
REAL_TOLERANCE = 0.05  # how far from guessing real against real may lie, or
REAL_ERRORS = 3  # so many standard errors if that is more
START_AFRESH = "if this change is meant to last: `troupe promote --fresh`"
MISSING = math.nan  # a figure that is absent or unreadable is not a number


@dataclass(frozen=True)
class Figures:
    """What the gate needs to know of one model, all measured on test text; NaN or "" where it is missing.

    Accuracies are the worst judge's share of texts told apart correctly: 0.5 is guessing, lower is a better generator.
    """

    weights_sha256: str = ""
    test_sha256: str = ""
    judge_digest: str = ""  # of the judges and of how bits per byte are measured
    test_bpb: float = MISSING  # bits per UTF-8 byte, lower is better
    judge_accuracy: float = MISSING
    judge_correct: float = MISSING  # texts
    judge_n: float = MISSING  # texts
    judge_standard_error: float = MISSING
    known_bad_accuracy: float = MISSING  # on text that is known to be bad
    real_accuracy: float = MISSING  # on real text against real text
    real_standard_error: float = MISSING

    @classmethod
    def from_report(cls, report: Mapping[str, Any], stage: str) -> Self:
        """The figures of one stage's model in reports/metrics.json."""
        model = f"models/{stage}"
        return cls(
            weights_sha256=str(_at(report, f"{model}/weights_sha256") or ""),
            test_sha256=str(_at(report, "test_sha256") or ""),
            judge_digest=str(_at(report, "judge/digest") or ""),
            test_bpb=_number(_at(report, f"{model}/test/bpb")),
            judge_accuracy=_number(_at(report, f"{model}/test/judge/accuracy")),
            judge_correct=_number(_at(report, f"{model}/test/judge/correct")),
            judge_n=_number(_at(report, f"{model}/test/judge/n")),
            judge_standard_error=_number(_at(report, f"{model}/test/judge/standard_error")),
            known_bad_accuracy=_number(_at(report, "controls/known_bad/accuracy")),
            real_accuracy=_number(_at(report, "controls/real_against_real/accuracy")),
            real_standard_error=_number(_at(report, "controls/real_against_real/standard_error")),
        )

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> Self:
        """The figures that `tags()` wrote; whatever else stands there is passed over."""
        known: dict[str, Any] = {
            f.name: tags.get(f.name, "") if f.type is str else _number(tags.get(f.name, f.default)) for f in fields(cls)
        }
        return cls(**known)

    def tags(self) -> dict[str, str]:
        """The figures as tags of a registered version."""
        return {name: str(value) for name, value in asdict(self).items()}

    def faults(self) -> Iterator[str]:
        """One line for each figure that is missing or impossible."""
        for name, value in asdict(self).items():
            if value == "" or value != value:
                yield f"{name} is missing or not a number"
            elif isinstance(value, str):
                continue
            elif math.isinf(value) or value < 0:
                yield f"{name} is {value}, not a finite number from zero up"
            elif name.endswith("accuracy") and value > 1:
                yield f"{name} is {value}, not a share between 0 and 1"
        if self.judge_n < 1 or self.judge_correct > self.judge_n:
            yield f"judge_correct is {self.judge_correct:g} of judge_n {self.judge_n:g}: not a count of texts"


@dataclass(frozen=True)
class Verdict:
    outcome: Literal["promoted", "unchanged", "refused"]
    reasons: tuple[str, ...]  # one line each: every fault when refused, else why


def decide(candidate: Figures, champion: Figures | None, rule: PromoteParams) -> Verdict:
    """Say whether the candidate becomes champion. It does when all of this holds:

    1. its figures and the champion's are present and finite;
    2. the judges can be trusted: one catches the known-bad generator at least KNOWN_BAD_ACCURACY of the time, and none
       tells real text from real text (within REAL_TOLERANCE or REAL_ERRORS standard errors of one half);
    3. both were measured on the same test text in the same way;
    4. test bits per byte are at most the champion's plus `rule.bpb_margin`;
    5. the judge is fooled more often than by the champion, with confidence `rule.confidence` (see `judge_gain`).

    Without a champion, 1 and 2 decide: there is nothing to be compared with, so the first model that was measured
    soundly is the first champion. A candidate with the champion's own weights leaves it unchanged.
    """
    if champion and candidate.weights_sha256 and candidate.weights_sha256 == champion.weights_sha256:
        return Verdict("unchanged", ("the candidate is the champion: same weights",))
    faults = [f"candidate: {fault}" for fault in candidate.faults()]
    if champion:
        faults += [f"champion: {fault}" for fault in champion.faults()]
    if not faults:
        faults = [*_distrust(candidate), *(_comparison(candidate, champion, rule) if champion else ())]
    if faults:
        return Verdict("refused", tuple(faults))
    return Verdict("promoted", (_praise(candidate, champion, rule),))


def judge_gain(candidate: Figures, champion: Figures) -> tuple[float, float]:
    """How much less often the judge catches the candidate than the champion, and the standard error of that.

    The test is one-sided and normal: better with confidence c when gain > z(c) * error. Accuracies below one half
    count as one half, for no judge does worse than guess. The judge's standard errors are taken as given, but never
    below the binomial one at Laplace's (correct + 1) / (n + 2): always right in n texts is not certainty.
    """
    gain = max(champion.judge_accuracy, 0.5) - max(candidate.judge_accuracy, 0.5)
    return gain, math.hypot(_standard_error(candidate), _standard_error(champion))


def _comparison(candidate: Figures, champion: Figures, rule: PromoteParams) -> Iterator[str]:
    if candidate.test_sha256 != champion.test_sha256:
        yield f"measured on another test text than the champion: the figures cannot be compared; {START_AFRESH}"
    if candidate.judge_digest != champion.judge_digest:
        yield (
            f"measured by another judge than the champion, or with another evaluate.stride: "
            f"the figures cannot be compared; {START_AFRESH}"
        )
    if candidate.test_bpb > champion.test_bpb + rule.bpb_margin:
        yield (
            f"test bits per byte {candidate.test_bpb:.4f} against the champion's {champion.test_bpb:.4f}: "
            f"worse by more than {rule.bpb_margin}"
        )
    gain, error = judge_gain(candidate, champion)
    if not gain > NormalDist().inv_cdf(rule.confidence) * error:
        yield (
            f"judge accuracy {candidate.judge_accuracy:.3f} against the champion's {champion.judge_accuracy:.3f}: "
            f"not better with {rule.confidence:.0%} confidence (gain {gain:.3f}, standard error {error:.3f})"
        )


def _distrust(figures: Figures) -> Iterator[str]:
    if figures.known_bad_accuracy < KNOWN_BAD_ACCURACY:
        yield (
            f"the judge catches known-bad text only {figures.known_bad_accuracy:.1%} of the time, "
            f"less than {KNOWN_BAD_ACCURACY:.0%}"
        )
    tolerance = max(REAL_TOLERANCE, REAL_ERRORS * figures.real_standard_error)
    if abs(figures.real_accuracy - 0.5) > tolerance:
        yield (
            f"the judge tells real text from real text: accuracy {figures.real_accuracy:.3f}, "
            f"more than {tolerance:.3f} from one half"
        )


def _praise(candidate: Figures, champion: Figures | None, rule: PromoteParams) -> str:
    mine = f"test bits per byte {candidate.test_bpb:.4f}, judge accuracy {candidate.judge_accuracy:.3f}"
    if champion is None:
        return f"first champion: {mine}; all figures are sound and there is nothing to beat"
    theirs = f"{champion.test_bpb:.4f} and {champion.judge_accuracy:.3f}"
    return f"{mine}, against the champion's {theirs}: better with {rule.confidence:.0%} confidence"


def _standard_error(figures: Figures) -> float:
    share = (figures.judge_correct + 1) / (figures.judge_n + 2)
    return max(figures.judge_standard_error, math.sqrt(share * (1 - share) / figures.judge_n))


def _at(report: Mapping[str, Any], path: str) -> Any:
    """What stands at "models/moe/test/bpb" in nested mappings; None when there is no such place."""
    node: Any = report
    for key in path.split("/"):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _number(value: Any) -> float:
    if isinstance(value, bool):
        return MISSING
    try:
        return float(value)
    except (TypeError, ValueError):
        return MISSING
