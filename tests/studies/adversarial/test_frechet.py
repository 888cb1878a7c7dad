"""Fréchet distance in closed form and against a root of a matrix; features against a model run by hand."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from studies.adversarial.frechet import frechet_distance, text_features
from troupe.data.tokenizer import ByteTokenizer
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2


def exact(mean_D: list[float], root_DD: np.ndarray) -> np.ndarray:
    """(2D, D) points whose mean is exactly `mean_D` and whose covariance is exactly `root_DD` squared."""
    width = len(mean_D)
    unit = np.vstack([np.eye(width), -np.eye(width)]) * np.sqrt((2 * width - 1) / 2)
    return np.asarray(mean_D) + unit @ root_DD


def random_features(seed: int, n: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)


def test_gaussians_on_a_line() -> None:
    """N(1, 2^2) and N(4, 5^2): (4 - 1)^2 + (5 - 2)^2."""
    assert frechet_distance(exact([1], np.eye(1) * 2), exact([4], np.eye(1) * 5)) == pytest.approx(18)


def test_gaussians_with_independent_coordinates_add_up() -> None:
    """Means apart by 3 and 4, spreads by 1 and 2: 9 + 16 + 1 + 4."""
    one, other = exact([0, 0], np.diag([1.0, 1.0])), exact([3, 4], np.diag([2.0, 3.0]))
    assert frechet_distance(one, other) == pytest.approx(30)


@pytest.mark.parametrize(("n", "width"), [(60, 4), (5, 8)])
def test_equals_the_formula_with_a_root(n: int, width: int) -> None:
    """With fewer points than coordinates covariances are singular."""
    one, other = random_features(0, n, width), random_features(1, n + 3, width)
    a, b = np.cov(one.T), np.cov(other.T)
    half = sqrtm(a + 1e-12 * np.eye(width)).real
    root = np.sqrt(np.clip(np.linalg.eigvalsh(half @ b @ half), 0, None)).sum()
    expected = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(a + b) - 2 * root
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-4)


def test_nothing_is_nearer_than_oneself_and_order_and_axes_do_not_matter() -> None:
    one, other = random_features(2, 30, 5), random_features(3, 20, 5)
    rotation = np.linalg.qr(random_features(4, 5, 5))[0]
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one))
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(one @ rotation, other @ rotation))


def test_one_text_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="two texts"):
        frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))


def model() -> GPT:
    made = GPT(GPTConfig(vocab_size=256, block_size=8, n_layer=1, n_head=2, n_embd=16, dropout=0.0))
    init_gpt2(made, torch.Generator().manual_seed(0))
    return made.eval()


@torch.no_grad()
def test_features_are_the_mean_of_what_the_output_layer_sees() -> None:
    """The output layer is the token embedding: logits = x E', so that their mean is that of x, times E'."""
    gpt = model()
    feature_MD = text_features(gpt, ByteTokenizer(), ["abc", "abcdefghijk"])
    for feature_D, seen in zip(feature_MD, (b"abc", b"abcdefgh"), strict=True):
        expected_V = gpt(torch.tensor([list(seen)]))[0].mean(dim=0)
        torch.testing.assert_close(torch.from_numpy(feature_D).float() @ gpt.token_embedding.weight.T, expected_V)
    assert not gpt.norm._forward_hooks


def test_an_empty_text_has_no_features_and_leaves_the_model_as_it_was() -> None:
    gpt = model()
    with pytest.raises(ValueError, match="empty"):
        text_features(gpt, ByteTokenizer(), [""])
    assert not gpt.norm._forward_hooks
