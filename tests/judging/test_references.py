"""What language models find in a text: closed forms, texts of any kind, and a text alone or beside others."""

import math

import numpy as np
import pytest
import torch

from tests.judging.scene import TRAIN, judges, text
from troupe.judging import references
from troupe.judging.references import BYTE_ORDER, CONTEXT, IMPROBABLE, NAMES, SPANS, ReferenceModels, learned
from troupe.models.kneser_ney import kneser_ney

FOUND: ReferenceModels = judges()["linear"].references  # type: ignore[attr-defined]


def of(asked: str, found: ReferenceModels = FOUND) -> dict[str, float]:
    return dict(zip(NAMES, found.features([asked])[0], strict=True))


def test_bits_are_those_of_the_models() -> None:
    asked = text(5, 6)
    got, n_bytes = of(asked), len(asked.encode())
    expected = kneser_ney(TRAIN.encode(), BYTE_ORDER).bits_per_byte(asked.encode())
    np.testing.assert_allclose([got[f"byte_{n}_bits"] for n in range(1, BYTE_ORDER + 1)], expected)
    ids_T = torch.tensor(FOUND.tokenizer.encode(asked))
    with torch.no_grad():
        nats = torch.nn.functional.cross_entropy(FOUND.transformer(ids_T[None, :-1])[0], ids_T[1:], reduction="sum")
    assert got["transformer_bits"] == pytest.approx(nats.item() / math.log(2) / n_bytes, rel=1e-5)
    assert got["between"] == pytest.approx(expected[-1] - got["transformer_bits"], rel=1e-5)


def test_a_model_that_knows_nothing_finds_uniform_tokens_as_likely_as_their_entropy_says() -> None:
    """All logits 0: every token costs ln V, which is the entropy, and none is less likely than another."""
    blank = learned(TRAIN, 0, 1)
    with torch.no_grad():
        blank.transformer.token_embedding.weight.zero_()
    got = of(text(5, 6), blank)
    assert got["transformer_bits"] == pytest.approx(got["entropy"], rel=1e-6)
    assert abs(got["excess"]) < 1e-5
    assert (got["rank"], got["likeliest"]) == (0, 1)


def test_shares_of_what_the_training_text_never_held() -> None:
    got = of("the of xyzzy the of the")  # the first and the last word may be cut: of xyzzy the of
    assert (got["unknown_words"], got["unknown_pairs"]) == (1 / 4, 2 / 3)
    assert all(got[f"unknown_{n}"] > 0 for n in SPANS)
    assert of(TRAIN[:60])["unknown_8"] == 0


def test_the_improbable_run_is_the_most_that_any_run_exceeds() -> None:
    bits = np.array([1.0, 9, 3, 9, 0, 0, 0, 8])
    runs = (bits[i:j] - IMPROBABLE for i in range(8) for j in range(i + 1, 9))
    assert references._run(bits) == max(run.sum() for run in runs)
    assert references._run(np.zeros(5)) == references._run(np.zeros(0)) == 0


@pytest.mark.parametrize("asked", ["", " ", "a", "\n\n\n", "\u65e5\u672c\u8a9e" * 20, "x" * 40 * CONTEXT, "\ufffd"])
def test_any_text_has_finite_features(asked: str) -> None:
    assert np.isfinite(FOUND.features([asked])).all()


@pytest.mark.parametrize("train", ["ab" * 200, "\u65e5\u672c" * 50, "a"])
def test_any_training_text_can_be_learned(train: str) -> None:
    """Few words, no blanks, a single byte."""
    assert np.isfinite(learned(train, 0, 2).features([train, "other"])).all()


def test_a_text_is_read_alone_and_once() -> None:
    fresh = learned(TRAIN, 3, 2)
    asked = [text(seed, 5) for seed in range(4)]
    together, alone = fresh.features(asked), [FOUND.features([one])[0] for one in asked]
    np.testing.assert_array_equal(together, alone)
    assert fresh.features(asked[::-1]).tolist() == together[::-1].tolist()
    assert set(fresh.seen) == set(asked)
    assert fresh.features([]).shape == (0, len(NAMES))


def test_training_teaches_the_transformer_and_threads_change_nothing() -> None:
    asked = text(7, 8)
    torch.set_num_threads(2)
    try:
        first, again, longer = learned(TRAIN, 1, 2), learned(TRAIN, 1, 2), learned(TRAIN, 1, 30)
    finally:
        torch.set_num_threads(1)
    one = learned(TRAIN, 1, 2)
    assert of(asked, first) == of(asked, again) == of(asked, one)
    assert of(asked, longer)["transformer_bits"] < of(asked, first)["transformer_bits"]
