"""How often a fresh classifier tells generated text from real text: windows, the linear judge, and the interval.

0.5 is indistinguishable. A classifier two-sample test: Lopez-Paz and Oquab 2017, "Revisiting Classifier Two-Sample
Tests". The linear judge sees which character n-grams a text holds and what share of them the training text never held;
families.py has others, and referee.py asks them all.

Shapes: N places in the held-out text, M windows that are judged (half of them generated), G groups of them.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler

NEIGHBOURS = 32  # windows in a stretch of text that counts as one: 4096 bytes when a window has 128
FEWEST_STRETCHES = 8
FEATURES = {"analyzer": "char", "ngram_range": (1, 3), "min_df": 2, "sublinear_tf": True, "lowercase": False}
ORDERS = (3, 5, 8)  # of the n-grams that may be unknown: letters, words, phrases
KNOWN_TEXT = 2**21  # characters of training text that count as known: bounds the memory for a large corpus
INVERSE_PENALTY = 1.0  # C of the logistic regression
Known = Mapping[int, set[str]]  # the n-grams of the training text, by order


@dataclass(frozen=True)
class Windows:
    """M labelled texts, as many real ones as generated ones."""

    texts: list[str]
    generated: np.ndarray  # (M,) bool
    place: np.ndarray  # (M,) where in the held-out text: what stands at one place is correlated

    def where(self, mask_M: np.ndarray) -> "Windows":
        return Windows([self.texts[i] for i in np.flatnonzero(mask_M)], self.generated[mask_M], self.place[mask_M])


@dataclass(frozen=True)
class Ruling:
    """What one judge said about M windows that it had not seen before."""

    correct: np.ndarray  # (M,) bool
    place: np.ndarray  # (M,)
    auc: float


@dataclass(frozen=True)
class Clustered:
    """A mean of correlated values; its 95 % interval is mean ± reach."""

    mean: float
    standard_error: float
    reach: float


def paired(real: list[str], generated: list[str], place_N: np.ndarray) -> Windows:
    """A real and a generated window for every place."""
    return Windows(real + generated, np.repeat([False, True], len(place_N)), np.tile(place_N, 2))


def real_against_real(real: list[str], place_N: np.ndarray, rng: torch.Generator) -> Windows:
    """The floor: of every two neighbouring real windows one, drawn by lot, is called generated."""
    first_drawn = torch.randint(2, (len(real) // 2,), generator=rng, dtype=torch.bool).numpy()
    generated_M = np.stack([first_drawn, ~first_drawn], axis=1).flatten()
    return Windows(real[: len(generated_M)], generated_M, place_N[: len(generated_M)])


def known_ngrams(train_text: str) -> Known:
    """What a judge takes for known."""
    text = train_text[:KNOWN_TEXT]
    return {n: set(_ngrams(text, n)) for n in ORDERS}


def unknown_share(texts: Sequence[str], known: Known) -> np.ndarray:
    """(texts, orders): the share of each text's n-grams that are not known; 0 for a text too short to have one."""
    return np.array([[_share(text, n, known[n]) for n in known] for text in texts])


def _share(text: str, n: int, known: set[str]) -> float:
    grams = _ngrams(text, n)
    return sum(gram not in known for gram in grams) / max(1, len(grams))


def _ngrams(text: str, n: int) -> list[str]:
    return [text[i : i + n] for i in range(len(text) - n + 1)]


def new_judge(known: Known, texts: Sequence[str]) -> Pipeline:
    """Untrained, for `texts` to learn from. scikit-learn copies the arguments of its parts, all but functions: `known`
    is large."""
    unknown = make_pipeline(FunctionTransformer(lambda texts: unknown_share(texts, known)), StandardScaler())
    least = FEATURES if _share_a_character(texts) else FEATURES | {"min_df": 1}  # else no n-gram were left: it fails
    features = make_union(TfidfVectorizer(**least), unknown)
    return make_pipeline(features, LogisticRegression(C=INVERSE_PENALTY, max_iter=2000))


def _share_a_character(texts: Sequence[str]) -> bool:
    """Whether two texts have one in common, in the reading of scikit-learn, to which a run of blanks is one blank."""
    characters = TfidfVectorizer(**FEATURES | {"ngram_range": (1, 1)}).build_analyzer()
    seen_in = Counter(character for text in texts for character in set(characters(text)))
    return max(seen_in.values(), default=0) > 1


def verdict(rulings: Sequence[Ruling]) -> dict[str, float]:
    """Accuracy over all repetitions, with a 95 % interval; its variance is never below that of a binomial."""
    correct_M = np.concatenate([r.correct for r in rulings]).astype(float)
    n = len(correct_M)
    smoothed = (correct_M.sum() + 1) / (n + 2)  # Laplace: no mistake in n is not certainty
    found = clustered([r.correct for r in rulings], [r.place for r in rulings], smoothed * (1 - smoothed) / n)
    return {
        "accuracy": found.mean,
        "low": max(0.0, found.mean - found.reach),
        "high": min(1.0, found.mean + found.reach),
        "auc": float(np.mean([r.auc for r in rulings])),
        "correct": int(correct_M.sum()),
        "n": n,
        "standard_error": found.standard_error,
    }


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
