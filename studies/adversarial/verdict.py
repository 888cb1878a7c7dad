"""What the study of adversarial refinement concludes: which arm is promoted, and whether the bars are kept.

`results` hold what run_arm returns, of the controls and of the start too; differences are taken within a seed. Arms are
chosen by figures of validation text; the bars are held against those of test text. Arms whose start learned the same
text for longer stand beside the contest: what they cut is not an adversary's.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from studies.adversarial.arms import CONTROLS
from studies.adversarial.settings import ADVERSARIAL, Settings
from studies.core.jobs import Figures
from studies.core.statistics import Estimate, Results, estimate, less, over, pairs
from troupe.judging.selection import Candidate, select
from troupe.judging.two_sample import Judged, Predictions, Windows


def verdict(settings: Settings, results: Results) -> list[str]:
    """A line for each bar of the promoted arm, one for the target, one for the stretch, and those of the best arm with
    an adversary."""
    bars, name = settings.bars, promoted(settings, results)
    likelihood, best = settings.likelihood_arm, settings.best_temperature_arm
    cuts = cut(settings, results, name)
    below = less(results, name, best, accuracy)
    rise = estimate([a / b - 1 for a, b in pairs(results, name, likelihood, test_bpb)])
    lines = [
        (
            f"accuracy above one half, cut from {likelihood}'s: {cuts:.1%}; at least {bars.cut:.0%}",
            cuts.mean >= bars.cut,
        ),
        (f"accuracy less that of {best}: {below:+.3f}; below 0", below.mean < 0),
        (f"bits per byte above {likelihood}'s: {rise:+.2%}; at most {bars.bpb:+.0%}", rise.mean <= bars.bpb),
    ]
    for figure in bars.diversities:
        off = estimate([share - 1 for share in of_real(results, name, figure)])
        lines.append(
            (f"{figure} off real text's: {off:+.1%}; within {bars.diversity:.0%}", abs(off.mean) <= bars.diversity)
        )
    kept, control = all(kept for _, kept in lines), not is_adversarial(settings, name)
    detected, of_likelihood = (over(results[one], "selection", "accuracy") for one in (name, likelihood))
    control_line = f"missed**: what is promoted is a control, which {'keeps' if kept else 'misses'} the bars above"
    return [
        f"Promoted: {name}{' (a control)' if control else ''}, by the pipeline's rule for selection. Judges of "
        f"validation text are right about it in {detected:.3f} of cases, about {likelihood} in {of_likelihood:.3f}.",
        *(f"{line}: {_line(kept)}" for line, kept in lines),
        f"**Target: {control_line if control else f'{_line(kept)}**'}",
        stretch(settings, results),
        *best_adversarial(settings, results),
    ]


def promoted(settings: Settings, results: Results) -> str:
    """What the pipeline's rule selects, from the likelihood model on."""
    return _selected(settings, results, contest(settings))


def contest(settings: Settings) -> list[str]:
    """The arms that begin with the likelihood model, not with one that was trained for longer."""
    trained = {name: settings.arms[arm.of or name].learn for name, arm in settings.arms.items()}
    return [name for name, learn in trained.items() if learn != "longer"]


def stretch(settings: Settings, results: Results) -> str:
    """Of the generators that were trained otherwise and write as they are, the one selected on validation text."""
    arms = {name: settings.arms[name] for name in contest(settings) if is_adversarial(settings, name)}
    plain = [name for name, arm in arms.items() if arm.candidates == 1 and arm.temperature == 1.0]
    if not plain:
        return "**Stretch: missed** (no arm changes the generator itself)"
    name = _selected(settings, results, plain)
    cuts = cut(settings, results, name)
    kept = cuts.mean >= settings.bars.stretch
    return (
        f"**Stretch: {_line(kept)}**: {name}, without resampling, cuts the accuracy above one half by {cuts:.1%}; "
        f"at least {settings.bars.stretch:.0%}"
    )


def best_adversarial(settings: Settings, results: Results) -> list[str]:
    """Chosen as what is promoted, but among the arms that are no control; and what the same does to a start that was
    trained for longer. Both beside what likelihood does in the adversary's place, if there is such an arm."""
    found = []
    beside = [name for name in settings.arms if name not in contest(settings)]
    for title, of in (("Best arm with an adversary", contest(settings)), ("With a start trained for longer", beside)):
        if names := [name for name in of if is_adversarial(settings, name)]:
            name = _selected(settings, results, names)
            others = [start_of(settings, name), *by_likelihood(settings, name)]
            found.append(f"{title}: {name}, {'; '.join(_against(results, name, other) for other in others)}")
    return found


def by_likelihood(settings: Settings, name: str) -> list[str]:
    """Of a tilt by an adversary the control: the same start's tilt by likelihood."""
    arm, arms = settings.arms[name], settings.arms.items()
    return [
        twin
        for twin, other in arms
        if (arm.learn, other.learn) == ("tilt by ddo", "tilt by likelihood") and arm.of == other.of
    ]


def _against(results: Results, name: str, other: str) -> str:
    accuracies, bits = (less(results, name, other, figure) for figure in (accuracy, test_bpb))
    return f"against {other}: accuracy {accuracies:+.3f}, bits per byte {bits:+.4f}"


def start_of(settings: Settings, name: str) -> str:
    """The arm whose generator an arm changes, or writes with."""
    return settings.arms[name].of or settings.likelihood_arm


def is_adversarial(settings: Settings, name: str) -> bool:
    """Likelihood training, of a network or of a tilt, longer or at another temperature, is no refinement by an
    adversary: it is a control."""
    arm = settings.arms[name]
    learners = [arm, settings.arms[arm.of]] if arm.of else [arm]
    return arm.candidates > 1 or any(learner.learn in ADVERSARIAL for learner in learners)


def cut(settings: Settings, results: Results, name: str) -> Estimate:
    """By what share of the likelihood model's accuracy above one half an arm's lies below it."""
    of_seeds = pairs(results, name, settings.likelihood_arm, accuracy)
    return estimate([1 - (ours - 0.5) / max(theirs - 0.5, 1e-9) for ours, theirs in of_seeds])


def accuracy(run: Figures) -> float:
    """Of the worst classifier of test text."""
    return worst(run["detected"])["accuracy"]


def worst(detected: Figures) -> dict[str, float]:
    """The figures of the classifier with the highest accuracy."""
    found: dict[str, float] = detected["judges"][detected["worst"]]
    return found


def test_bpb(run: Figures) -> float:
    found: float = run["bpb"]["test"]
    return found


def of_real(results: Results, name: str, figure: str) -> list[float]:
    """A figure of an arm's texts as a share of that of real text, by seed."""
    runs = zip(results[name], results[CONTROLS], strict=True)
    return [run["quality"][figure] / control["real"][figure] for run, control in runs]


def _selected(settings: Settings, results: Results, names: Iterable[str]) -> str:
    """Of these arms, from the first on, by figures of validation text."""
    return select({name: candidate(results[name]) for name in names}, settings.judging.bits_margin).selected


def candidate(runs: Sequence[Figures]) -> Candidate:
    """An arm as the pipeline selects a model, every seed a repetition, by the worst classifier of each."""
    repetitions = []
    for run in runs:
        found = run["selection"]
        generated_M = np.repeat([False, True], len(found["places"]))
        correct_M = np.array([right == "1" for right in found["correct"]])
        windows = Windows([], generated_M, np.tile(found["places"], 2))
        repetitions.append(Predictions(windows, np.where(generated_M == correct_M, 1.0, -1.0)))
    return Candidate(over(runs, "bpb", "validation").mean, Judged({"worst": repetitions}))


def _line(kept: bool) -> str:
    return "kept" if kept else "missed"
