"""How varied generated texts are, and how much of them was copied from the training text.

Every figure is also taken of held-out real text of the same length: near that figure is good, neither high nor low is.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np

from troupe.arrays import Ints

WORD = re.compile(r"\w+|[^\w\s]")
SPAN = 50  # bytes; about eight English words: chance and grammar alone seldom repeat so much


def distinct(texts: Sequence[str], n: int) -> float:
    """Distinct word n-grams / all word n-grams of the texts together (Li et al. 2016, "A Diversity-Promoting Objective
    Function", section 5); it falls as the texts grow, so compare equal amounts only. 1 if there are no n-grams."""
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else 1.0


def repetition(texts: Sequence[str], n: int = 3) -> float:
    """The share of word n-grams that the same text held before; 0 if there are no n-grams."""
    per_text = [list(_grams(text, n)) for text in texts]
    total = sum(map(len, per_text))
    return 1 - sum(len(set(grams)) for grams in per_text) / total if total else 0.0


def memorisation(matches: Iterable[Ints], span: int = SPAN) -> float:
    """The share of 50-byte spans of the texts that occur verbatim in the training split; 0 if there are no spans.

    `matches` are, for every text, those of `Copies.matches`: a span occurs if as many bytes from its first on do.
    """
    spans = [match_T[: max(0, len(match_T) - span + 1)] >= span for match_T in matches]
    return float(np.concatenate(spans).mean()) if any(map(len, spans)) else 0.0


def unigram_entropy(texts: Sequence[str]) -> float:
    """- sum_w p(w) log2 p(w) in bits per word, p(w) the share of word w in the texts together; 0 if there are no words.

    It grows with the texts, so compare equal amounts only.
    """
    counts = Counter(word for text in texts for word in WORD.findall(text))
    total = counts.total()
    return sum(n / total * math.log2(total / n) for n in counts.values())


def out_of_vocabulary(texts: Sequence[str], vocabulary: Collection[str]) -> float:
    """The share of words that are not in `vocabulary`, a set of those of the training text; 0 if there are no words.

    The first and the last word of a text do not count: they may have been cut.
    """
    words = [word for text in texts for word in WORD.findall(text)[1:-1]]
    return sum(word not in vocabulary for word in words) / len(words) if words else 0.0


def _grams(text: str, n: int) -> Iterator[tuple[str, ...]]:
    words = WORD.findall(text)
    return zip(*(words[i:] for i in range(n)), strict=False)
