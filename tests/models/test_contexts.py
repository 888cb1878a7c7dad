"""What followed each context before, against counting by hand."""

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from troupe.data.bpe import make_tokenizer
from troupe.models.contexts import KINDS, LONGEST, ORDERS, RECENT, SOURCES, Contexts, Rows, recent

TOKENIZER = make_tokenizer("bytes", [], 257)
Counts = dict[int, dict[int, Counter[int]]]  # by source and place


def text(length: int, seed: int) -> np.ndarray:
    """Words of few letters, so that all contexts recur."""
    return np.random.default_rng(seed).choice(np.frombuffer(b"aab  b\xc3.", np.uint8), length)


def as_counts(rows: Rows) -> Counts:
    found: Counts = defaultdict(lambda: defaultdict(Counter))
    for source, place, token, count in zip(*(part.tolist() for part in rows), strict=True):
        assert token not in found[source][place]
        found[source][place][token] = int(count)
    return found


def words(ids: list[int]) -> list[list[int]]:
    """The tokens of the word so far, of the one before, ... of as many as there are; the last first."""
    found: list[list[int]] = [[]]
    for token in ids:
        if token in b" ." and found[0]:
            found.insert(0, [])
        found[0].append(token)
    return found


def context(kind: int, ids: list[int]) -> object:
    """What the last tokens are to a kind of context; None where the text is too short for it."""
    if kind < len(ORDERS):
        return tuple(ids[-ORDERS[kind] :]) if len(ids) >= ORDERS[kind] else None
    so_far, *before = words(ids)
    n_before = min(kind - len(ORDERS), len(before))
    return (tuple(so_far[-LONGEST:]), *(tuple(word[-LONGEST:]) for word in before[:n_before]))


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 200), st.integers(0, 9), st.integers(1, 20))
def test_the_table_is_what_counting_by_hand_finds(length: int, seed: int, T: int) -> None:
    train, read = text(length, seed), text(30, seed + 100)
    by_hand: dict[tuple[int, object], Counter[int]] = defaultdict(Counter)
    for kind in range(KINDS):
        for end in range(1, length):
            if (key := context(kind, train[:end].tolist())) is not None:
                by_hand[kind, key][int(train[end])] += 1
    rows = Contexts.counted(train, TOKENIZER)(torch.from_numpy(read.astype(np.int64))[None], T)
    found = as_counts(rows)
    for kind in range(KINDS):
        for place in range(T):
            key = context(kind, read[: len(read) - T + 1 + place].tolist())
            assert found[kind][place] == by_hand.get((kind, key), Counter()), (kind, place)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(0, 9), st.integers(1, 60))
def test_the_text_so_far_is_what_looking_through_it_finds(length: int, seed: int, T: int) -> None:
    ids, T = text(length, seed).tolist(), min(T, length)
    found = as_counts(Rows(*map(torch.cat, zip(*recent(torch.tensor([ids]), T, 256), strict=True))))
    for place in range(T):
        now = length - T + place
        shared = []
        for earlier in range(now):
            n = 0
            while n < LONGEST and n <= earlier and ids[earlier - n] == ids[now - n]:
                n += 1
            shared.append(n)
        for number, least in enumerate(RECENT):
            counted = Counter(ids[earlier + 1] for earlier, n in enumerate(shared) if n >= least)
            assert found[KINDS + number][place] == counted, (least, place)
        longest = max(shared, default=0)
        latest = max((earlier for earlier, n in enumerate(shared) if n == longest), default=0)
        expected = Counter({ids[latest + 1]: longest}) if longest else Counter()
        assert found[SOURCES - 1][place] == expected


def rows_of(contexts: Contexts, read_BS: Tensor, T: int) -> list[tuple[int, ...]]:
    return sorted(zip(*(part.long().tolist() for part in contexts(read_BS, T)), strict=True))


def test_what_comes_later_and_what_stands_beside_changes_nothing() -> None:
    contexts = Contexts.counted(text(300, 1), TOKENIZER)
    read_BS = torch.from_numpy(text(60, 2).astype(np.int64)).view(3, 20)
    together = rows_of(contexts, read_BS, 20)
    for row, read_S in enumerate(read_BS):
        alone = [(source, place + 20 * row, *rest) for source, place, *rest in rows_of(contexts, read_S[None], 20)]
        assert alone == [one for one in together if one[1] // 20 == row]
    begun = [one for one in rows_of(contexts, read_BS[:1], 20) if one[1] < 12]
    assert begun == rows_of(contexts, read_BS[:1, :12], 12)


@pytest.mark.parametrize("missing", [1, 5, 40])
def test_places_without_a_token_before_a_shorter_text_are_none(missing: int) -> None:
    contexts, read_1S = Contexts.counted(text(300, 1), TOKENIZER), torch.from_numpy(text(18, 2).astype(np.int64))[None]
    padded_1S = torch.nn.functional.pad(read_1S, (missing, 0), value=-1)
    assert rows_of(contexts, padded_1S, 4) == rows_of(contexts, read_1S, 4)


def test_its_table_is_its_state() -> None:
    counted, read_BS = Contexts.counted(text(300, 1), TOKENIZER), torch.from_numpy(text(20, 2).astype(np.int64))[None]
    other = Contexts(TOKENIZER.vocab_size, *counted.size())
    other.load_state_dict(counted.state_dict())
    assert rows_of(other, read_BS, 20) == rows_of(counted, read_BS, 20)
