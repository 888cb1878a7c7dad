"""The n-gram model as a network against the counts it is made from, and the laws of probability."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from troupe.models.kneser_ney import kneser_ney
from troupe.models.ngrams import NGrams

V = 7


def text(length: int, seed: int, vocab_size: int = V) -> np.ndarray:
    """Ids that repeat themselves: every other stretch of five is one of three phrases."""
    rng = np.random.default_rng(seed)
    phrases = rng.integers(0, vocab_size, (3, 5))
    stretches = [phrases[rng.integers(3)] if i % 2 else rng.integers(0, vocab_size, 5) for i in range(length // 5 + 1)]
    return np.concatenate(stretches)[:length].astype(np.uint16)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 200), st.integers(0, 5))
def test_says_of_each_token_what_the_counts_say(order: int, length: int, seed: int) -> None:
    train, other = text(length, seed), text(40, seed + 100)
    ngrams, order = NGrams.counted(train, order, V), min(order, length)
    logp_TV = ngrams(torch.from_numpy(other.astype(np.int64))[None])[0]
    said = logp_TV[:-1].gather(1, torch.from_numpy(other[1:].astype(np.int64))[:, None]).squeeze(1).exp()
    counted = kneser_ney(train, order, V).probabilities(other)[-1, 1:]
    assert said.numpy() == pytest.approx(counted, rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 300), st.integers(0, 5))
def test_every_next_token_is_possible_and_all_add_up_to_one(order: int, length: int, seed: int) -> None:
    ngrams = NGrams.counted(text(length, seed), order, V)
    p_BTV = ngrams(torch.from_numpy(text(24, seed + 1).astype(np.int64)).view(2, 12)).exp()
    assert p_BTV.min() > 0
    assert torch.allclose(p_BTV.sum(-1), torch.ones(2, 12), atol=1e-5)


def test_no_more_tokens_are_read_than_it_reaches() -> None:
    ngrams = NGrams.counted(text(400, 1), 4, V)
    ids = torch.from_numpy(text(20, 2).astype(np.int64))[None]
    assert torch.equal(ngrams(ids)[:, -1], ngrams(ids[:, -ngrams.reach :])[:, -1])
    assert ngrams.reach == 3


def test_texts_side_by_side_know_nothing_of_each_other() -> None:
    ngrams = NGrams.counted(text(400, 1), 4, V)
    ids_BT = torch.from_numpy(text(60, 3).astype(np.int64)).view(3, 20)
    assert torch.equal(ngrams(ids_BT), torch.cat([ngrams(ids_T[None]) for ids_T in ids_BT]))


def test_its_tables_are_its_state() -> None:
    counted = NGrams.counted(text(300, 1), 3, V)
    other = NGrams(V, counted.sizes())
    other.load_state_dict(counted.state_dict())
    ids = torch.from_numpy(text(15, 2).astype(np.int64))[None]
    assert torch.equal(counted(ids), other(ids))


def test_only_the_beginning_of_a_long_text_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("troupe.models.ngrams.COUNTED", 100)
    long, ids = text(300, 1), torch.from_numpy(text(15, 2).astype(np.int64))[None]
    assert torch.equal(NGrams.counted(long, 3, V)(ids), NGrams.counted(long[:100], 3, V)(ids))
