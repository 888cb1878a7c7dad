"""Kneser-Ney against its formula written out with dictionaries, a case worked by hand, and the laws of probability."""

import math
import random
import tracemalloc
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.models.kneser_ney import bits_per_byte, kneser_ney

MORSELS = [b"the ", b"cat ", b"sat ", b"on ", b"a ", b"mat", b". ", b"hat", b"that ", b"\n", "né ".encode()]


def prose(n_morsels: int, seed: int) -> bytes:
    return b"".join(random.Random(seed).choices(MORSELS, k=n_morsels))


def discounts(counts: list[int]) -> list[float]:
    n = Counter(counts)
    if not (n[1] and n[2] and n[3] and n[4]):
        return [0, 0.5, 1, 1.5]
    y = n[1] / (n[1] + 2 * n[2])
    found = [0.0] + [r - (r + 1) * y * n[r + 1] / n[r] for r in (1, 2, 3)]
    return found if min(found[1:]) > 0 else [0, 0.5, 1, 1.5]


def by_formula(train: bytes, order: int, highest: bool, history: bytes, byte: int) -> float:
    """P_order(byte | history), from the formula in the module's docstring, recounting everything on each call."""
    if order == 0:
        return 1 / 256
    grams = [train[i : i + order] for i in range(len(train) - order + 1)]
    if highest:
        count = Counter(grams)
    else:
        before = defaultdict(set)
        for first, gram in pairwise([b"", *grams]):
            before[gram].add(first[:1])
        before[grams[0]].discard(b"")  # nothing stands before the first
        count = Counter({gram: len(bytes_) for gram, bytes_ in before.items()})
    lower = by_formula(train, order - 1, False, history, byte)
    context = history[len(history) - order + 1 :] if len(history) >= order - 1 else None
    followers = {gram: c for gram, c in count.items() if gram[:-1] == context and c > 0}
    if not followers:
        return lower
    d = discounts(list(count.values()))
    total = sum(followers.values())
    own = followers.get(context + bytes([byte]), 0)
    left = sum(d[min(c, 3)] for c in followers.values())
    return (own - d[min(own, 3)]) / total + left / total * lower


@pytest.mark.parametrize("n_morsels", [3, 40, 150])
def test_equals_the_formula_written_with_dictionaries(n_morsels: int) -> None:
    train, text = prose(n_morsels, seed=1), prose(4, seed=2) + b"z\xff"
    p_NI = kneser_ney(train, max_order=4).probabilities(text)
    expected = [[by_formula(train, order, True, text[:i], text[i]) for i in range(len(text))] for order in range(1, 5)]
    np.testing.assert_allclose(p_NI, expected, rtol=1e-12)


def test_worked_by_hand() -> None:
    """Training text "abab", fallback discounts, as the counts are too few to estimate any.

    Order 1: a and b occur twice, D(2) = 1. P(a) = (2 - 1)/4 + (1 + 1)/4 / 256.
    Below order 2: "a" follows b only, "b" follows a only: one continuation each, D(1) = 0.5.
        P_1(b) = (1 - 0.5)/2 + (0.5 + 0.5)/2 / 256.
    Order 2: "ab" twice, D = 1; after "a" always b. P(b | a) = (2 - 1)/2 + 1/2 P_1(b).
    """
    p_NI = kneser_ney(b"abab", max_order=2).probabilities(b"ab")
    p1_b = 0.25 + 0.5 / 256
    assert p_NI[0, 0] == pytest.approx(0.25 + 0.5 / 256)
    assert p_NI[1, 1] == pytest.approx(0.5 + 0.5 * p1_b)
    assert p_NI[1, 0] == pytest.approx(p1_b), "at the start of the text order 2 has no context: it is its lower order"


@pytest.mark.parametrize("history", [b"", b"the c", b"at the hat", b"never seen \xfe\xff", b"\x00"])
def test_probabilities_sum_to_one(history: bytes) -> None:
    model = kneser_ney(prose(500, seed=3), max_order=10)
    total_N = sum(model.probabilities(history + bytes([byte]))[:, -1] for byte in range(256))
    np.testing.assert_allclose(total_N, 1, rtol=1e-12)


@given(train=st.binary(max_size=60), text=st.binary(min_size=1, max_size=30))
def test_no_text_is_impossible(train: bytes, text: bytes) -> None:
    p_NI = kneser_ney(train, max_order=9).probabilities(text)
    assert p_NI.shape == (9, len(text))
    assert ((p_NI > 0) & (p_NI <= 1)).all()


def test_one_pass_gives_what_each_order_gives_alone() -> None:
    train, text = prose(300, seed=4), prose(50, seed=5)
    together = kneser_ney(train, max_order=6).bits_per_byte(text)
    for order in (1, 3, 6):
        assert kneser_ney(train, order).bits_per_byte(text)[-1] == together[order - 1]


def test_without_training_text_every_byte_costs_eight_bits() -> None:
    assert kneser_ney(b"", max_order=3).bits_per_byte(b"anything") == [8.0, 8.0, 8.0]


def test_bits_of_independent_random_bytes_approach_their_entropy() -> None:
    """Two equally likely letters carry one bit each; no order can do better, and the first comes close."""
    letters = bytes(random.Random(6).choices(b"ab", k=40_000))
    bits = kneser_ney(letters[:30_000], max_order=5).bits_per_byte(letters[30_000:])
    assert all(1 - 0.01 < b < 1 + 0.01 for b in bits)


def test_a_periodic_text_costs_almost_nothing_once_the_context_is_long_enough() -> None:
    text = b"abcadbecf" * 400
    bits = kneser_ney(text, max_order=3).bits_per_byte(text)
    assert bits[0] > 2.5
    assert bits[1] > 0.5  # after "a" comes b or d
    assert bits[2] < 0.05


def test_context_flows_through_the_text() -> None:
    train = prose(300, seed=7)
    model, text = kneser_ney(train, max_order=5), prose(30, seed=8)
    whole = model.bits_per_byte(text)[-1] * len(text)
    halves = sum(model.bits_per_byte(half)[-1] * len(half) for half in (text[:60], text[60:]))
    assert whole < halves
    assert math.isclose(whole, -np.log2(model.probabilities(text)[-1]).sum())


@given(st.lists(st.binary(max_size=8) | st.sampled_from([b"the cat", b"on a mat"]), max_size=6))
def test_texts_that_are_read_together_know_nothing_of_each_other(texts: list[bytes]) -> None:
    model = kneser_ney(prose(150, seed=1), max_order=4)
    together = model.probabilities_of(texts)
    assert len(together) == len(texts)
    for p_NI, text in zip(together, texts, strict=True):
        np.testing.assert_array_equal(p_NI, model.probabilities(text))


def test_bits_of_every_order_need_the_tables_of_one() -> None:
    """An order has 5 arrays of 8 bytes an n-gram; beside it, counting holds some 10 such arrays, of two orders."""
    train, texts = np.random.default_rng(0).bytes(2**16), [prose(100, seed=2), prose(50, seed=3)]
    bits_per_byte(train[:100], 2, texts)  # what is imported on the way
    tracemalloc.start()
    found = bits_per_byte(train, 16, texts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [kneser_ney(train, 16).bits_per_byte(text) for text in texts]
    assert peak < 30 * 8 * len(train) < 16 * 5 * 8 * len(train)
