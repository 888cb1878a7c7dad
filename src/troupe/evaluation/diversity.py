"""How near generated texts are to held-out ones, how varied they are, how much of them was copied from training text.

Every figure is also taken of held-out real text of the same length: near that figure is good, neither high nor low is.

BLEU-3 is of texts against held-out references, self-BLEU-3 of each text against all the others.
K. Papineni et al. 2002, "BLEU: a Method for Automatic Evaluation of Machine Translation"; self-BLEU: Y. Zhu et al.
2018, "Texygen: A Benchmarking Platform for Text Generation Models". Of a text with c words, whose k-grams g occur h(g)
times in it and at most R(g) times in any one reference; r is the length in words of the reference nearest in length:

    p_k = sum_g min(h(g), R(g)) / sum_g h(g)              0.1 / sum_g h(g) where that were 0
    BLEU-3 = min(1, exp(1 - r/c)) (p_1 p_2 p_3)^(1/3)     0 for a text that shares no word with any reference

The 0.1 is the first smoothing of B. Chen and C. Cherry 2014, "A Systematic Comparison of Smoothing Techniques for
Sentence-Level BLEU". Reported is the mean over texts. For every n-gram the two highest counts are kept, so that R(g)
without a text is known at once, and self-BLEU costs no more than BLEU.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from statistics import fmean

import numpy as np

from troupe.arrays import Ints
from troupe.judging.words import WORD

SPAN = 50  # bytes; about eight English words: chance and grammar alone seldom repeat so much
ORDER = 3  # words of the longest n-grams
SMOOTHING = 0.1
Gram = tuple[str, ...]


def bleu(texts: Sequence[str], references: "References") -> float:
    """The mean of BLEU-3, 0 to 1; higher is nearer to the references, up to what other real text has. It grows with
    their number, so compare equal amounts only. Raises ValueError for no text."""
    _at_least(texts, 1)
    return fmean(references.bleu(text) for text in texts)


def self_bleu(texts: Sequence[str]) -> float:
    """The mean of BLEU-3 of each text against all the others, 0 to 1: high where texts are alike. It grows with their
    number, so compare equal amounts only. Raises ValueError for fewer than two texts."""
    _at_least(texts, 2)
    held = References(texts)
    return fmean(held.bleu(text, own=number) for number, text in enumerate(texts))


class References:
    """Texts that others are held against, counted once. Raises ValueError for no text."""

    def __init__(self, texts: Sequence[str]) -> None:
        _at_least(texts, 1)
        self.lengths = Counter(len(WORD.findall(text)) for text in texts)
        self.highest: dict[Gram, tuple[int, int, int]] = {}  # R(g), the text that reaches it, R(g) without that text
        for number, text in enumerate(texts):
            for gram, count in _counts(text).items():
                most, holder, second = self.highest.get(gram, (0, number, 0))
                higher, lower = ((count, number), most) if count > most else ((most, holder), count)
                self.highest[gram] = (*higher, max(second, lower))

    def bleu(self, text: str, own: int | None = None) -> float:
        """BLEU-3 of one text, against all but the text number `own`, which it is itself."""
        shared, total = [0.0] * ORDER, [0] * ORDER
        for gram, count in _counts(text).items():
            shared[len(gram) - 1] += min(count, self._highest(gram, own))
            total[len(gram) - 1] += count
        if not shared[0]:
            return 0.0
        logs = [math.log((s or SMOOTHING) / max(1, t)) for s, t in zip(shared, total, strict=True)]
        brevity = min(0.0, 1 - self._nearest(total[0], own is not None) / total[0])
        return math.exp(brevity + fmean(logs))

    def _highest(self, gram: Gram, own: int | None) -> int:
        most, holder, second = self.highest.get(gram, (0, None, 0))
        return second if holder is not None and holder == own else most

    def _nearest(self, length: int, own: bool) -> int:
        """The shorter of two that are equally near."""
        others = self.lengths - Counter([length] if own else [])
        return min(others, key=lambda other: (abs(other - length), other))


def _counts(text: str) -> Counter[Gram]:
    words = WORD.findall(text)
    return Counter(tuple(words[i : i + n]) for n in range(1, ORDER + 1) for i in range(len(words) - n + 1))


def _at_least(texts: Sequence[str], n: int) -> None:
    if len(texts) < n:
        raise ValueError(f"BLEU needs {n} or more texts, not {len(texts)}")


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
