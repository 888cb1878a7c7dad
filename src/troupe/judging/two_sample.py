"""Classifier two-sample tests: how well fresh classifiers tell generated windows of text from real ones.

Lopez-Paz and Oquab 2017, "Revisiting Classifier Two-Sample Tests". Accuracy 0.5: these classifiers guess, trained on
and tested on so many texts. Several families of classifiers are tested (classifiers.py); the one with the highest
accuracy counts, the worst for the generator. The text that a classifier is trained on and the text that it is tested on
must be disjoint from each other and from all text that generators and discriminators were trained on.

The Jensen-Shannon divergence of real and generated text is what a text reveals of its label: one bit, less the
cross-entropy of the ideal classifier (Lin 1991, "Divergence Measures Based on the Shannon Entropy"; Goodfellow et al.
2014, "Generative Adversarial Nets", section 4). Every other classifier pays more, so what it pays bounds the divergence
below:

    JSD >= 1 - mean log2(1 + exp(-y logit)) bits        y = 1 for a generated window, -1 for a real one

Shapes: N places in the held-out text, M windows that are tested, half of them generated, G groups of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score

from troupe.arrays import Floats
from troupe.judging.classifiers import Judge
from troupe.judging.detection import Detection

NEIGHBOURS = 32  # windows in a stretch of text that counts as one: 4096 bytes when a window has 128
FEWEST_STRETCHES = 8
FOLDS = 3  # of cross-validation: real text is short, so that every window is tested and trains the others' classifiers


@dataclass(frozen=True)
class Windows:
    """M labelled texts, as many real ones as generated ones."""

    texts: list[str]
    generated: np.ndarray  # (M,) bool
    place: np.ndarray  # (M,) where in the held-out text: what stands at one place is correlated

    def where(self, mask_M: np.ndarray) -> "Windows":
        return Windows([self.texts[i] for i in np.flatnonzero(mask_M)], self.generated[mask_M], self.place[mask_M])

    def and_also(self, other: "Windows") -> "Windows":
        """Those of another text after these."""
        generated_M, place_M = (
            np.concatenate(both) for both in ((self.generated, other.generated), (self.place, other.place))
        )
        return Windows([*self.texts, *other.texts], generated_M, place_M)


def paired(real: list[str], generated: list[str], place_N: np.ndarray) -> Windows:
    """A real and a generated window for every place."""
    return Windows(real + generated, np.repeat([False, True], len(place_N)), np.tile(place_N, 2))


def real_against_real(real: list[str], place_N: np.ndarray, rng: torch.Generator) -> Windows:
    """The floor: of every two neighbouring real windows one, drawn at random, is labelled generated."""
    first_drawn = torch.randint(2, (len(real) // 2,), generator=rng, dtype=torch.bool).numpy()
    generated_M = np.stack([first_drawn, ~first_drawn], axis=1).flatten()
    return Windows(real[: len(generated_M)], generated_M, place_N[: len(generated_M)])


@dataclass(frozen=True)
class Predictions:
    """What one classifier says of windows that it was not trained on."""

    windows: Windows
    logit: Floats  # (M,) > 0 says generated

    @property
    def correct(self) -> NDArray[np.bool_]:
        """correct_M"""
        return np.asarray((self.logit > 0) == self.windows.generated)

    @property
    def auc(self) -> float:
        return float(roc_auc_score(self.windows.generated, self.logit))

    @property
    def bits(self) -> Floats:
        """(M,) one bit less what the classifier pays for each window."""
        sign_M = np.where(self.windows.generated, 1, -1)
        return np.asarray(1 - np.logaddexp(0, -sign_M * self.logit) / np.log(2))


@dataclass(frozen=True)
class Judged:
    """What the classifiers of every family say of one generator: predictions by family, one for each repetition.

    `picked` is the family that was the worst on other text, where there is such: then no figure flatters the pick.
    """

    predictions: Mapping[str, Sequence[Predictions]]
    picked: str | None = None

    @cached_property
    def detections(self) -> dict[str, Detection]:
        """By family."""
        return {family: detection(several) for family, several in self.predictions.items()}

    @property
    def worst(self) -> str:
        """The family that was picked, or the one with the highest accuracy here, which raises the figure a little."""
        return self.picked or max(self.detections, key=lambda family: self.detections[family].accuracy)

    @property
    def detection(self) -> Detection:
        """That of the worst family."""
        return self.detections[self.worst]


def predict(judge: Judge, train: Windows, held_out: Windows, seed: int) -> Predictions:
    """Train a fresh classifier and test it. It costs seconds for each thousand windows, on the caller's threads."""
    real, fake = (train.where(train.generated == label).texts for label in (False, True))
    return Predictions(held_out, judge.fit(real, fake, seed)(held_out.texts))


def cross_predict(judge: Judge, windows: Windows, seed: int, beside: Windows | None = None) -> Predictions:
    """Train on all stretches of the text but one, and on the windows `beside`, and test on that one; every stretch in
    its turn. No place is in both."""
    logit_M = np.empty(len(windows.texts))
    for stretch in np.array_split(np.unique(windows.place), FOLDS):
        here_M = np.isin(windows.place, stretch)
        train = windows.where(~here_M)
        logit_M[here_M] = predict(judge, train.and_also(beside) if beside else train, windows.where(here_M), seed).logit
    return Predictions(windows, logit_M)


def detection(repetitions: Sequence[Predictions]) -> Detection:
    """Of one family, over all repetitions."""
    places, correct = [one.windows.place for one in repetitions], [one.correct for one in repetitions]
    right, n = int(np.concatenate(correct).sum()), sum(map(len, correct))
    smoothed = (right + 1) / (n + 2)  # Laplace: no mistake in n is not certainty
    accuracy = clustered(correct, places, smoothed * (1 - smoothed) / n)
    bits = [one.bits for one in repetitions]
    bits_M = np.concatenate(bits)
    jsd = clustered(bits, places, float(bits_M.var() / len(bits_M)))
    bound, low, high = (min(1.0, max(0.0, jsd.mean + side)) for side in (0.0, -jsd.reach, jsd.reach))
    return Detection(
        accuracy=accuracy.mean,
        low=max(0.0, accuracy.mean - accuracy.reach),
        high=min(1.0, accuracy.mean + accuracy.reach),
        auc=float(np.mean([one.auc for one in repetitions])),
        correct=right,
        n=n,
        standard_error=accuracy.standard_error,
        jsd=bound,
        jsd_low=low,
        jsd_high=high,
    )


@dataclass(frozen=True)
class Clustered:
    """A mean of correlated values; its 95 % interval is mean ± reach."""

    mean: float
    standard_error: float
    reach: float


def clustered(values: Sequence[np.ndarray], places: Sequence[np.ndarray], least_variance: float) -> Clustered:
    """The mean of what every repetition found for its windows, known for other real text and other generated text.

    The repetitions share the real text, and windows near each other share a subject, so they are not independent. The
    variance is that between stretches of text (which holds the binomial error) plus that between repetitions, each
    with its own degrees of freedom, joined as Welch and Satterthwaite do; it is at least `least_variance`. One
    repetition knows nothing of the second part. The real text that the judge was trained on is taken as given.
    """
    value_M = np.concatenate(values).astype(float)
    mean = float(value_M.mean())
    repetition_M = np.repeat(np.arange(len(values)), [len(one) for one in values])
    parts = [
        _clustered_variance(value_M - mean, group_M) for group_M in (_stretches(np.concatenate(places)), repetition_M)
    ]
    variance = max(sum(v for v, _ in parts), least_variance)
    freedom = variance**2 / max(sum(v**2 / df for v, df in parts if df), 1e-300)
    standard_error = math.sqrt(variance)
    return Clustered(mean, standard_error, float(stats.t.ppf(0.975, max(freedom, 1.0))) * standard_error)


def _stretches(place_M: np.ndarray) -> np.ndarray:
    """(M,) the number of the stretch that each window lies in: neighbours together, in at least eight stretches."""
    places, index_M = np.unique(place_M, return_inverse=True)
    return np.asarray(index_M // max(1, min(NEIGHBOURS, len(places) // FEWEST_STRETCHES)))


def _clustered_variance(residual_M: np.ndarray, group_M: np.ndarray) -> tuple[float, int]:
    """The variance of a mean whose terms are correlated within groups (Liang and Zeger 1986), and G - 1."""
    _, index_M = np.unique(group_M, return_inverse=True)
    sum_G = np.bincount(index_M, weights=residual_M)
    groups = len(sum_G)
    if groups == 1:
        return 0.0, 0
    return float(groups / (groups - 1) * (sum_G**2).sum() / len(residual_M) ** 2), groups - 1
