"""How far two sets of texts lie apart, as MAUVE measures it, in features that need no public model.

K. Pillutla et al. 2021, "MAUVE: Measuring the Gap Between Neural Text and Human Text using Divergence Frontiers",
section 2: both sets are quantised into the same clusters; p and q are the shares of each cluster; the frontier is

    (exp(-c KL(q | r)), exp(-c KL(p | r)))      r = w p + (1 - w) q, for w from 0 to 1, c = 5

and the figure is the area under it: 1 for equal shares, near 0 where the sets share no cluster. The paper's features
are a large language model's; here they are the principal components of counted character n-grams, so that figures
compare with each other only.

Shapes: M texts, F features, C clusters, W points of the frontier.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

Floats = NDArray[np.float64]
SCALE = 5.0  # c
POINTS = 101  # W
FEATURES = 32  # F at most
TEXTS_PER_CLUSTER = 10
SMOOTHED_BY = 0.5  # texts that each cluster is given, so that a share of one set is never told from nothing at all


def similarity(real: Sequence[str], generated: Sequence[str], seed: int = 0) -> float:
    """From 0 to 1, higher is nearer. It depends on the number of texts: compare equal numbers only, and with what
    real text has against other real text."""
    features_MF = _features([*real, *generated], seed)
    clusters = max(2, len(features_MF) // (2 * TEXTS_PER_CLUSTER))
    cluster_M = KMeans(clusters, n_init=4, random_state=seed).fit_predict(features_MF)
    p_C, q_C = (_shares(part, clusters) for part in (cluster_M[: len(real)], cluster_M[len(real) :]))
    return area(p_C, q_C)


def area(p_C: Floats, q_C: Floats) -> float:
    """Under the frontier of two distributions without zeros."""
    w_W1 = np.linspace(0, 1, POINTS)[:, None]
    r_WC = w_W1 * p_C + (1 - w_W1) * q_C
    x_W, y_W = (np.exp(-SCALE * _divergence(one_C, r_WC)) for one_C in (q_C, p_C))
    x_W, y_W = np.append(x_W, 0.0), np.append(y_W, 1.0)  # from the axes: both ends of the frontier lie on a line to one
    order = np.lexsort((-y_W, x_W))
    return float(np.trapezoid(y_W[order], x_W[order]))


def _divergence(one_C: Floats, r_WC: Floats) -> Floats:
    """KL(one | r) in nats, of every r."""
    return np.asarray((one_C * np.log(one_C / r_WC)).sum(axis=1))


def _shares(cluster_M: NDArray[np.integer], clusters: int) -> Floats:
    counts_C = np.bincount(cluster_M, minlength=clusters) + SMOOTHED_BY
    return np.asarray(counts_C / counts_C.sum())


def _features(texts: Sequence[str], seed: int) -> Floats:
    counted_MF = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True, lowercase=False).fit_transform(
        texts
    )
    width = min(FEATURES, len(texts) - 1, counted_MF.shape[1] - 1)
    if width < 1:
        return np.zeros((len(texts), 1))
    return np.asarray(TruncatedSVD(width, random_state=seed).fit_transform(counted_MF))
