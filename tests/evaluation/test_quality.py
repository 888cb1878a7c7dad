"""The figures of a set of texts: each is its module's, and real text is the yardstick."""

import numpy as np
import pytest

from troupe.evaluation.diversity import References, bleu
from troupe.evaluation.quality import ORDER, make_yardstick, measure
from troupe.models.kneser_ney import kneser_ney

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "old", "dogs", "ran", "by", "that", "open", "door", "now"]
TRAIN = " ".join(np.random.default_rng(0).choice(WORDS, 2000))


def sentences(seed: int, n: int = 30, words: list[str] = WORDS) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words, 12)) for _ in range(n)]


REFERENCES, INDEPENDENT = sentences(1), "\n".join(sentences(2, 100))
YARDSTICK = make_yardstick(TRAIN, REFERENCES, INDEPENDENT)


def test_likelihoods_go_both_ways() -> None:
    texts = sentences(3)
    found = measure(texts, YARDSTICK)
    forward = kneser_ney(INDEPENDENT.encode(), ORDER).bits_per_byte("\n".join(texts).encode())[-1]
    reverse = kneser_ney("\n".join(texts).encode(), ORDER).bits_per_byte("\n".join(REFERENCES).encode())[-1]
    assert (found["bits"], found["reverse_bits"]) == (forward, reverse)


def test_every_figure_tells_text_that_repeats_itself_from_real_text() -> None:
    """One real sentence, again and again: good by likelihood and BLEU, and poor by all that asks for variety."""
    real, loop = measure(sentences(3), YARDSTICK), measure(sentences(3)[:1] * 30, YARDSTICK)
    assert loop["self_bleu_3"] == pytest.approx(1)
    assert real["self_bleu_3"] < 0.9
    for name in ("distinct_1", "distinct_2", "distinct_4", "unigram_entropy"):
        assert loop[name] < real[name]
    assert loop["reverse_bits"] > real["reverse_bits"] + 0.5


def test_every_figure_tells_words_that_are_none_from_real_text() -> None:
    swapped = [word[::-1] + "q" for word in WORDS]
    real, poor = measure(sentences(3), YARDSTICK), measure(sentences(3, words=swapped), YARDSTICK)
    assert (real["out_of_vocabulary"], poor["out_of_vocabulary"]) == (0, 1)
    assert poor["bits"] > real["bits"] + 0.5
    assert poor["bleu_3"] < real["bleu_3"]
    assert poor["longest_copy"] < real["longest_copy"]


def test_text_from_the_training_text_is_seen_to_be_copied() -> None:
    texts = [TRAIN[100 * i : 100 * i + 100] for i in range(2)]
    found = measure(texts, YARDSTICK)
    assert (found["longest_copy"], found["memorisation"]) == (100, 1)


def test_bleu_is_against_the_references() -> None:
    found = measure(sentences(3), YARDSTICK)
    assert found["bleu_3"] == bleu(sentences(3), References(REFERENCES))
