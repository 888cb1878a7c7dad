"""Interpolated Kneser-Ney over bytes or tokens: of bytes, the model that a language model of this size has to beat.

Sources: R. Kneser and H. Ney 1995, "Improved backing-off for m-gram language modeling" (continuation counts);
S. F. Chen and J. Goodman 1999, "An empirical study of smoothing techniques for language modeling", sections 2.7 and 3
(interpolation, three discounts by count).

The model of order n predicts symbol w after the n - 1 symbols h, where h' is h without its first symbol:

    P_n(w | h) = max(c(hw) - D(c(hw)), 0) / c(h•)  +  b(h) P_{n-1}(w | h')       b(h) = sum_w D(c(hw)) / c(h•)

with c the number of occurrences at the highest order, and below it the number of distinct symbols that precede hw
(a sequence is worth as much as the number of contexts it completes). P_0 = 1/V. Where h was never seen, or
reaches back over the start of the text, P_n = P_{n-1}. The discounts D(1), D(2), D(3 and more) of each order come
from n_r, the number of sequences with count r:

    Y = n_1 / (n_1 + 2 n_2)     D(r) = r - (r + 1) Y n_{r+1} / n_r

All orders share their lower orders, so that one pass gives every model up to the highest.
V is the number of symbols: 256, or the size of a tokenizer's vocabulary. Axes: I position in a text, G distinct
n-grams, C distinct contexts ((n-1)-grams), N order.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from troupe.arrays import AnyInts, Floats, Ints

TextBytes = bytes | AnyInts
FALLBACK_DISCOUNTS = np.array([0.0, 0.5, 1.0, 1.5])  # KenLM's, for counts too sparse or too odd to estimate from
UNSEEN = -1  # indexes the last place of an array, where Smoothed keeps what an unseen n-gram or context is worth


class Grams(NamedTuple):
    """The distinct n-grams of a text. One is known by the number of its context, an (n-1)-gram, and its last symbol."""

    key: Ints  # G: context * V + symbol, ascending
    somewhere: Ints  # G: where it occurs, once
    at: Ints  # I: the number of the n-gram that starts there
    occurrences: Ints  # G


class Smoothed(NamedTuple):
    """One order's share of the sum."""

    frequency: Floats  # G + 1: discounted relative frequency, 0 at UNSEEN
    backoff: Floats  # C + 1: what the context leaves to the lower order, 1 at UNSEEN


class OrderCounts(NamedTuple):
    """All that is kept of one order."""

    key: Ints  # G: as in Grams
    highest: Smoothed  # from occurrences
    lower: Smoothed  # from continuations


@dataclass(frozen=True)
class KneserNey:
    """Models of order 1 to len(orders), made by `kneser_ney`."""

    orders: list[OrderCounts]
    vocab_size: int

    def probabilities(self, text: TextBytes) -> Floats:
        """p_NI: the probability of each symbol of `text` given those before it, one row per order."""
        return self.probabilities_of([text])[0]

    def probabilities_of(self, texts: Sequence[TextBytes]) -> list[Floats]:
        """p_NI of every text, none of which has another one before it; in a small part of the time of one by one."""
        joined = Joined.of(texts)
        p_NI = np.empty((len(self.orders), len(joined.symbol_I)))
        for n, p_I in enumerate(_by_order(self.orders, joined, self.vocab_size)):
            p_NI[n] = p_I
        return joined.split(p_NI)

    def bits_per_byte(self, text: bytes) -> list[float]:
        """Cross-entropy in bits per byte of `text` (lower is better), one per order; the context flows through it."""
        return [float(-np.log2(p_I).mean()) for p_I in self.probabilities(text)]


class Joined(NamedTuple):
    """Texts one after the other."""

    symbol_I: Ints
    starts: Ints  # where each of them begins

    @classmethod
    def of(cls, texts: Sequence[TextBytes]) -> Self:
        symbols = [_symbols(text) for text in texts]
        return cls(np.concatenate([np.zeros(0, np.int64), *symbols]), np.cumsum([0, *map(len, symbols)])[:-1])

    @property
    def first_I(self) -> NDArray[np.bool_]:
        """Whether a text begins there, over which no context reaches back."""
        return np.bincount(self.starts, minlength=len(self.symbol_I))[: len(self.symbol_I)] > 0

    def split(self, found: Floats) -> list[Floats]:
        """What was found of each text, where the last axis of `found` is that of `symbol_I`."""
        return np.split(found, self.starts[1:], axis=-1) if len(self.starts) else []


def kneser_ney(train: TextBytes, max_order: int, vocab_size: int = 256) -> KneserNey:
    """Count `train`, bytes or ids below `vocab_size`, and smooth the models of order 1 to `max_order`."""
    return KneserNey(list(_orders(train, max_order, vocab_size)), vocab_size)


def bits_per_byte(train: bytes, max_order: int, texts: Sequence[bytes]) -> list[list[float]]:
    """What `kneser_ney(train, max_order).bits_per_byte` returns for every text, in the memory of a single order."""
    joined = Joined.of(texts)
    by_order = [
        [float(-np.log2(p_I).mean()) for p_I in joined.split(p_of_all_I)]
        for p_of_all_I in _by_order(_orders(train, max_order, 256), joined, 256)
    ]
    return [list(of_text) for of_text in zip(*by_order, strict=True)]


def _by_order(orders: Iterable[OrderCounts], texts: Joined, vocab_size: int) -> Iterator[Floats]:
    """p_I of the model of each order."""
    symbol_I, first_I = texts.symbol_I, texts.first_I
    context_I = np.zeros_like(symbol_I)  # order 1 has one context, the empty one
    lower_I = np.full(len(symbol_I), 1 / vocab_size)
    for order in orders:
        gram_I = _find(order.key, context_I, symbol_I, vocab_size)
        yield _interpolate(order.highest, gram_I, context_I, lower_I)
        lower_I = _interpolate(order.lower, gram_I, context_I, lower_I)
        context_I = np.where(first_I, UNSEEN, np.roll(gram_I, 1))  # the n-gram that ends one symbol before


def _orders(train: TextBytes, max_order: int, vocab_size: int) -> Iterator[OrderCounts]:
    symbol_I = _symbols(train)
    n_contexts, grams = 1, _count(np.zeros_like(symbol_I), symbol_I, vocab_size)
    for n in range(1, max_order + 1):
        longer = _count(grams.at[:-1], symbol_I[n:], vocab_size)
        continuations_G = np.bincount(grams.at[longer.somewhere + 1], minlength=len(grams.key))
        context_G = grams.key // vocab_size
        highest = _smooth(grams.occurrences, context_G, n_contexts)
        yield OrderCounts(grams.key, highest, _smooth(continuations_G, context_G, n_contexts))
        n_contexts, grams = len(grams.key), longer


def _symbols(text: TextBytes) -> Ints:
    return (np.frombuffer(text, np.uint8) if isinstance(text, bytes) else text).astype(np.int64)


def _count(context_I: Ints, symbol_I: Ints, vocab_size: int) -> Grams:
    """Count n-grams, given the number of the (n-1)-gram at each position and the symbol after it."""
    key_I = context_I * vocab_size + symbol_I
    order_I = np.argsort(key_I)  # not stable: twice as fast, and any occurrence will do
    key_I = key_I[order_I]
    new_I = np.append(True, key_I[1:] != key_I[:-1])[: len(key_I)]
    at_I = np.empty_like(order_I)
    at_I[order_I] = np.cumsum(new_I) - 1
    start_G = np.flatnonzero(new_I)
    return Grams(key_I[start_G], order_I[start_G], at_I, np.diff(start_G, append=len(key_I)))


def _smooth(count_G: Ints, context_G: Ints, n_contexts: int) -> Smoothed:
    discount_G = _discounts(count_G)[np.minimum(count_G, 3)]
    total_C = np.bincount(context_G, weights=count_G, minlength=n_contexts)
    left_C = np.bincount(context_G, weights=discount_G, minlength=n_contexts)
    left_C[total_C == 0] = 1  # a context after which nothing was counted leaves everything
    total_C[total_C == 0] = 1
    return Smoothed(np.append((count_G - discount_G) / total_C[context_G], 0), np.append(left_C / total_C, 1))


def _discounts(count_G: Ints) -> Floats:
    """D(0) = 0, D(1), D(2), D(3 and more); the fallback unless the last three are defined and above 0."""
    n1, n2, n3, n4 = (int(n) for n in np.bincount(np.minimum(count_G, 5), minlength=6)[1:5])
    if min(n1, n2, n3, n4) == 0:
        return FALLBACK_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    discounts = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return discounts if (discounts[1:] > 0).all() else FALLBACK_DISCOUNTS


def _find(key_G: Ints, context_I: Ints, symbol_I: Ints, vocab_size: int) -> Ints:
    """The number of the n-gram at each position, or UNSEEN."""
    wanted_I = np.where(context_I == UNSEEN, UNSEEN, context_I * vocab_size + symbol_I)
    place_I = np.searchsorted(key_G, wanted_I)
    return np.where(np.append(key_G, -2)[place_I] == wanted_I, place_I, UNSEEN)  # -2 is no key and is never wanted


def _interpolate(smoothed: Smoothed, gram_I: Ints, context_I: Ints, lower_I: Floats) -> Floats:
    return smoothed.frequency[gram_I] + smoothed.backoff[context_I] * lower_I
