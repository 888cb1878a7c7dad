"""Families of judges: unlike classifiers that are trained, afresh each time, to tell generated text from real text.

A judge is a value; `fit` trains a new classifier and returns its scorer. None shares weights or tokens with a
generator or with a discriminator. What they know beforehand (references.py) is learned from the text that the
generators were trained on; the text that they are trained on, and the text that they are tested on, must be no part of
it, nor of each other, nor of what a discriminator was trained on.

Shapes: M texts, F features.
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
from troupe.judging.references import BYTE_ORDER, NAMES, SPANS, STEPS, ReferenceModels, learned
from troupe.seeding import derive_seed

Scorer = Callable[[Sequence[str]], Floats]  # texts -> logit_M: the log odds, in nats, that each is generated
SCORES = {  # families of one number, by the feature that it is
    "transformer bits": "transformer_bits",
    "n-gram bits": f"byte_{BYTE_ORDER}_bits",
    "bits between": "between",
    "unknown words": "unknown_words",
    "improbable run": "improbable_run",
}
FAMILIES = {
    "linear": "logistic regression on character n-grams: TF-IDF, and the share unknown to the training text",
    "likelihood": "logistic regression on what a transformer and Kneser-Ney models of bytes, tokens and words find",
    "boosted": "boosted trees on the same",
    "transformer bits": "one number, the bits per byte that the transformer gives to a text",
    "n-gram bits": "one number, its bits per byte under the Kneser-Ney model of 8 bytes",
    "bits between": "one number, the second of these less the first",
    "unknown words": "one number, the share of its words that the training text does not hold",
    "improbable run": "one number, the bits of its most improbable run of bytes",
}
QUICK = ("linear", "likelihood")  # cheap ones, for what is judged often: every point of a curve
TREES = {"learning_rate": 0.05, "max_leaf_nodes": 8}
NGRAMS = {"analyzer": "char", "ngram_range": (1, 3), "min_df": 2, "sublinear_tf": True, "lowercase": False}
INVERSE_PENALTY = 1.0  # C of the logistic regressions
FEWEST_TO_STOP = 12  # windows: a tenth of fewer, which says when trees have learned enough, lacks one kind


class Judge(Protocol):
    def fit(self, real: Sequence[str], fake: Sequence[str], seed: int) -> Scorer:
        """Train on about as many real as generated texts of equal length; equal arguments give an equal scorer."""


def families(train: str, seed: int, steps: int = STEPS) -> Mapping[str, Judge]:
    """One judge of every family; `train` is the text that the generators were trained on. Their transformer is trained
    here, for so many steps."""
    references = learned(train, seed, steps)
    return {
        "linear": LinearJudge(references),
        "likelihood": LikelihoodJudge(references),
        "boosted": BoostedJudge(references),
        **{family: LikelihoodJudge(references, (feature,)) for family, feature in SCORES.items()},
    }


@dataclass(frozen=True)
class LinearJudge:
    """Logistic regression on the character n-grams that a text holds and the share of them that the training text never
    held."""

    references: ReferenceModels

    def fit(self, real: Sequence[str], fake: Sequence[str], seed: int) -> Scorer:
        texts = [*real, *fake]
        judge = new_judge(self.references, texts).fit(texts, _labels(real, fake))
        return lambda texts: np.asarray(judge.decision_function(texts), dtype=np.float64)


@dataclass(frozen=True)
class LikelihoodJudge:
    """Logistic regression on some of the features of references.py, each at its own scale. Of one feature it is a
    threshold and a side, so that it needs hardly any texts to learn from."""

    references: ReferenceModels
    names: tuple[str, ...] = NAMES

    def fit(self, real: Sequence[str], fake: Sequence[str], seed: int) -> Scorer:
        judge = make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_PENALTY, max_iter=2000))
        judge.fit(self.chosen([*real, *fake]), _labels(real, fake))
        return lambda texts: np.asarray(judge.decision_function(self.chosen(texts)), dtype=np.float64)

    def chosen(self, texts: Sequence[str]) -> Floats:
        """Its features of every text, (M, F)."""
        return self.references.features(texts)[:, [NAMES.index(name) for name in self.names]]


@dataclass(frozen=True)
class BoostedJudge:
    """Gradient-boosted trees (Friedman 2001, "Greedy Function Approximation: A Gradient Boosting Machine") on all
    features of references.py."""

    references: ReferenceModels

    def fit(self, real: Sequence[str], fake: Sequence[str], seed: int) -> Scorer:
        texts, random_state = [*real, *fake], derive_seed(seed, "trees") % 2**32
        stops = len(texts) >= FEWEST_TO_STOP
        trees = HistGradientBoostingClassifier(**TREES, early_stopping=stops, random_state=random_state)
        trees.fit(self.references.features(texts), _labels(real, fake))
        return lambda texts: np.asarray(trees.decision_function(self.references.features(texts)), dtype=np.float64)


def new_judge(references: ReferenceModels, texts: Sequence[str]) -> Pipeline:
    """Untrained, for `texts` to learn from. scikit-learn copies the arguments of its parts, all but functions:
    `references` are large."""
    shares = LikelihoodJudge(references, tuple(f"unknown_{n}" for n in SPANS))
    unknown = make_pipeline(FunctionTransformer(lambda texts: shares.chosen(texts)), StandardScaler())
    least = NGRAMS if _share_a_character(texts) else NGRAMS | {"min_df": 1}  # else no n-gram were left: it fails
    features = make_union(TfidfVectorizer(**least), unknown)
    return make_pipeline(features, LogisticRegression(C=INVERSE_PENALTY, max_iter=2000))


def _share_a_character(texts: Sequence[str]) -> bool:
    """Whether two texts have one in common, in the reading of scikit-learn, to which a run of blanks is one blank."""
    characters = TfidfVectorizer(**NGRAMS | {"ngram_range": (1, 1)}).build_analyzer()
    seen_in = Counter(character for text in texts for character in set(characters(text)))
    return max(seen_in.values(), default=0) > 1


def _labels(real: Sequence[str], fake: Sequence[str]) -> NDArray[np.bool_]:
    """generated_M"""
    return np.repeat([False, True], [len(real), len(fake)])
