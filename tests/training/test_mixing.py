"""Fitting a mixture: what it learns of texts that repeat themselves, and that nothing but its arguments decides it."""

import numpy as np
import pytest
import torch

from troupe.data.bpe import make_tokenizer
from troupe.models.mixing import Mixture
from troupe.seeding import generator
from troupe.training.mixing import batches, fit

TOKENIZER = make_tokenizer("bytes", [], 257)
CONTEXT = 64


def noise(length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, length).astype(np.uint16)


def repeating(length: int, seed: int) -> np.ndarray:
    """Noise in stretches of 16 tokens, each of which stands there twice."""
    return np.repeat(noise(length, seed).reshape(-1, 1, 16), 2, axis=1).reshape(-1)[:length]


def nats_per_token(mixture: Mixture, ids: np.ndarray) -> float:
    with torch.no_grad():
        losses = [-mixture(evidence).gather(-1, y_M[:, None]) for evidence, y_M in batches(mixture, None, ids, CONTEXT)]
    return float(torch.cat(losses).mean())


def test_it_learns_to_copy_from_the_text_so_far() -> None:
    """Nothing in the training text tells the next token. Of a stretch's second copy the first two tokens at most are
    as uncertain as noise, ln 256 = 5.5 nats; the other half of the text need not cost more than that."""
    mixture = Mixture.counted(noise(2000, 1), 3, TOKENIZER)
    fit(mixture, list(batches(mixture, None, repeating(6400, 2), CONTEXT)), generator(1, "fit"), 120)
    assert nats_per_token(mixture, repeating(3200, 3)) < 0.75 * np.log(256)


def test_it_learns_that_there_is_nothing_to_copy() -> None:
    """Within a hundredth of the entropy of noise."""
    mixture = Mixture.counted(noise(2000, 1), 3, TOKENIZER)
    fit(mixture, list(batches(mixture, None, noise(6400, 2), CONTEXT)), generator(1, "fit"), 120)
    assert nats_per_token(mixture, noise(3200, 3)) < 1.01 * np.log(256)


def test_equal_arguments_give_equal_numbers_whatever_they_were_before() -> None:
    found: list[list[torch.nn.Parameter]] = []
    for _ in range(2):
        mixture = Mixture.counted(noise(500, 1), 3, TOKENIZER)
        of_text = list(batches(mixture, None, repeating(1600, 2), CONTEXT))
        for parameter in mixture.parameters():
            parameter.data.normal_(generator=generator(len(found), "before"))
        fit(mixture, of_text, generator(1, "fit"), 5)
        found.append([*mixture.parameters()])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("length", [64, 65, 200, 256])
def test_each_token_is_predicted_once_from_at_least_half_a_context(length: int) -> None:
    mixture, ids = Mixture.counted(noise(500, 1), 3, TOKENIZER), noise(length, 2)
    found = [int(token) for _, y_M in batches(mixture, None, ids, CONTEXT) for token in y_M]
    n_windows = (length - 1 - CONTEXT) // (CONTEXT // 2) + 1
    first = CONTEXT // 2 + 1
    assert found == ids[first : first + n_windows * CONTEXT // 2].tolist()
