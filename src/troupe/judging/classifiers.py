"""Families of judges: unlike classifiers that are trained, afresh each time, to tell generated text from real text.

A judge is a value; `fit` trains a new classifier and returns its scorer. None shares weights, tokens or architecture
with a generator or with a discriminator. What they know beforehand (`known`, `counted`) is counted in the text that the
generators were trained on; the text that they are trained on, and the text that they are tested on, must be no part of
it, nor of each other, nor of what a discriminator was trained on.

Shapes: M texts, F features, N orders of n-grams, T bytes.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from troupe.arrays import Floats
from troupe.judging.byte_network import ByteNetwork, trained
from troupe.models.kneser_ney import KneserNey, kneser_ney
from troupe.seeding import derive_seed, generator

Scorer = Callable[[Sequence[str]], Floats]  # texts -> logit_M: the log odds, in nats, that each is generated
COUNTED_TEXT = 2**21  # bytes of training text that are counted: bounds memory and time for a large corpus
MAX_ORDER = 8  # of the n-grams whose probability a judge sees
FAMILIES = {
    "linear": "logistic regression on character n-grams: TF-IDF, and the share unknown to the training text",
    "boosted": "boosted trees on bytes, their surprise under Kneser-Ney models, and the same share",
    "neural": "a convolutional network on bytes and their surprise",
}
QUICK = ("linear", "boosted")  # cheap ones, for what is judged often: every point of a curve
TREES = {"learning_rate": 0.05, "max_leaf_nodes": 8}
FEATURES = {"analyzer": "char", "ngram_range": (1, 3), "min_df": 2, "sublinear_tf": True, "lowercase": False}
ORDERS = (3, 5, 8)  # of the n-grams that may be unknown: letters, words, phrases
KNOWN_TEXT = 2**21  # characters of training text that count as known: bounds the memory for a large corpus
INVERSE_PENALTY = 1.0  # C of the logistic regression
Known = Mapping[int, set[str]]  # the n-grams of the training text, by order
FEWEST_TO_STOP = 12  # windows: a tenth of fewer, which says when trees have learned enough, lacks one kind


class Judge(Protocol):
    def fit(self, real: Sequence[str], fake: Sequence[str], seed: int) -> Scorer:
        """Train on as many real as generated texts of equal length; equal arguments give an equal scorer."""


def families(train: str) -> Mapping[str, Judge]:
    """One judge of every family; `train` is the text that the generators were trained on."""
    known, counted = known_ngrams(train), kneser_ney(train.encode()[:COUNTED_TEXT], MAX_ORDER)
    return {"linear": LinearJudge(known), "boosted": BoostedJudge(known, counted), "neural": NeuralJudge(counted)}


@dataclass(frozen=True)
class LinearJudge:
    """Logistic regression on the character n-grams that a text holds and the share of them that the training text never
    held."""

    known: Known

    def fit(self, real: Sequence[str], fake: Sequence[str], seed: int) -> Scorer:
        texts = [*real, *fake]
        judge = new_judge(self.known, texts).fit(texts, _labels(real, fake))
        return lambda texts: np.asarray(judge.decision_function(texts), dtype=np.float64)


@dataclass(frozen=True)
class BoostedJudge:
    """Gradient-boosted trees (Friedman 2001, "Greedy Function Approximation: A Gradient Boosting Machine") on how often
    a text holds each byte, how much its bytes surprise Kneser-Ney models, and what share of its n-grams is unknown."""

    known: Known
    counted: KneserNey

    def fit(self, real: Sequence[str], fake: Sequence[str], seed: int) -> Scorer:
        texts, random_state = [*real, *fake], derive_seed(seed, "trees") % 2**32
        stops = len(texts) >= FEWEST_TO_STOP
        trees = HistGradientBoostingClassifier(**TREES, early_stopping=stops, random_state=random_state)
        trees.fit(self._features(texts), _labels(real, fake))
        return lambda texts: np.asarray(trees.decision_function(self._features(texts)), dtype=np.float64)

    def _features(self, texts: Sequence[str]) -> Floats:
        """(M, F)"""
        encoded = [text.encode() for text in texts]
        shares = [np.bincount(np.frombuffer(text, np.uint8), minlength=256) / max(1, len(text)) for text in encoded]
        surprise = [_summary(surprise_NT) for surprise_NT in surprises(self.counted, texts)]
        return np.hstack([np.array(shares), np.array(surprise), unknown_share(texts, self.known)])


@dataclass(frozen=True)
class NeuralJudge:
    """A convolutional network that reads bytes, and how much each surprises Kneser-Ney models (byte_network.py)."""

    counted: KneserNey

    def fit(self, real: Sequence[str], fake: Sequence[str], seed: int) -> Scorer:
        texts, rng = [*real, *fake], generator(seed, "neural judge")
        network = ByteNetwork(len(self.counted.orders), rng)
        trained(network, texts, surprises(self.counted, texts), _labels(real, fake), rng)
        return lambda texts: network.score(texts, surprises(self.counted, texts))


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


def surprises(counted: KneserNey, texts: Sequence[str]) -> list[Floats]:
    """surprise_NT of every text: -log2 of the probability of each of its bytes, at every order; in bits."""
    return [-np.log2(p_NT) for p_NT in counted.probabilities_of([text.encode() for text in texts])]


def _summary(surprise_NT: Floats) -> Floats:
    """Mean, spread, median and ninth decile of each order; all 0 for an empty text."""
    if not surprise_NT.size:
        return np.zeros(4 * len(surprise_NT))
    middle_N, high_N = np.quantile(surprise_NT, [0.5, 0.9], axis=1)
    return np.concatenate([surprise_NT.mean(axis=1), surprise_NT.std(axis=1), middle_N, high_N])


def _labels(real: Sequence[str], fake: Sequence[str]) -> NDArray[np.bool_]:
    """generated_M"""
    return np.repeat([False, True], [len(real), len(fake)])
