"""The estimate of the gradient against enumeration, features against a plain loop, and a game on text that counts."""

import itertools
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.adversarial.games import TEXT, alone, new_model
from troupe.adversarial.moments import NGramCounts, Target, advantages, distance, hashes, moments_step
from troupe.adversarial.reinforce import Reinforce, continuation_log_probs, token_log_probs

V, S, BATCH = 2, 2, 3
TEXTS = torch.tensor([(0, *text) for text in itertools.product(range(V), repeat=S)])  # prompt 0, all continuations
FEATURES = NGramCounts.of(torch.tensor([0, 1, 1, 0, 0]), orders=(1, 2), buckets=8, prompt_length=1)
REAL = torch.tensor([(0, 1, 1), (0, 1, 0), (0, 0, 1), (0, 1, 1)])
TARGET = Target.of(FEATURES, REAL[:1], REAL[1:])


class Bigrams(nn.Module):
    """Any law of the next token after each token."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        logits_VV = torch.randn(V, V, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        self.logits_VV = nn.Parameter(logits_VV)

    def forward(self, ids_BT: Tensor) -> Tensor:
        return self.logits_VV[ids_BT]

    def log_prob(self, ids_BT: Tensor) -> Tensor:
        return token_log_probs(continuation_log_probs(self, ids_BT, 1), ids_BT)


def phi(ids_BT: Tensor) -> Tensor:
    return FEATURES.counts(FEATURES(ids_BT))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_gradient_is_unbiased(seed: int) -> None:
    """Over all batches of three texts, each as often as the model writes it: minus the gradient of L."""
    model = Bigrams(seed)
    p_N = model.log_prob(TEXTS).sum(-1).exp()
    rest_F = (p_N[:, None] * phi(TEXTS)).sum(0) - TARGET.mean_F
    (exact,) = torch.autograd.grad((TARGET.weight_F * rest_F.square()).sum(), model.logits_VV)
    logp_NS, found = model.log_prob(TEXTS), torch.zeros(())
    for rows in itertools.product(range(len(TEXTS)), repeat=BATCH):
        ids_BT, chosen = TEXTS[list(rows)], list(rows)
        advantage_BS = advantages(FEATURES(ids_BT), phi(ids_BT), TARGET)
        found = found - p_N.detach()[chosen].prod() * (advantage_BS * logp_NS[chosen]).sum() / BATCH
    (estimated,) = torch.autograd.grad(found, model.logits_VV)
    torch.testing.assert_close(estimated, exact, rtol=1e-5, atol=1e-6)  # features are float32


def test_the_distance_is_unbiased() -> None:
    p_N = Bigrams(0).log_prob(TEXTS).sum(-1).exp().detach()
    rest_F = (p_N[:, None] * phi(TEXTS)).sum(0) - TARGET.mean_F
    pairs = itertools.product(range(len(TEXTS)), repeat=2)
    mean = sum(float(p_N[list(pair)].prod()) * distance(phi(TEXTS[list(pair)]), TARGET).item() for pair in pairs)
    assert mean == pytest.approx(float((TARGET.weight_F * rest_F.square()).sum()), rel=1e-5)


def test_features_by_a_plain_loop() -> None:
    """Equal n-grams have equal buckets and different ones, here, different ones; what training text lacks is marked."""
    rng = np.random.default_rng(0)
    train, texts = rng.integers(0, 3, 60), rng.integers(0, 3, (5, 12))
    prompt, orders = 4, (1, 2, 3)
    features = NGramCounts.of(torch.from_numpy(train), orders, buckets=4096, prompt_length=prompt)
    feature_BSK = features(torch.from_numpy(texts))
    assert feature_BSK.shape == (5, 8, 6)
    for place, n in enumerate(orders):
        known = {tuple(train[i : i + n]) for i in range(len(train) - n + 1)}
        bucket_of: dict[tuple[int, ...], int] = {}
        for text, row_SK in zip(texts, feature_BSK[..., 2 * place :].tolist(), strict=True):
            for end, (bucket, unknown, *_) in zip(range(prompt, len(text)), row_SK, strict=True):
                gram = tuple(text[end - n + 1 : end + 1])
                assert bucket_of.setdefault(gram, bucket) == bucket
                assert (unknown == features.size) == (gram in known)
        assert len(set(bucket_of.values())) == len(bucket_of)


def test_counts_are_how_often_a_text_has_each_feature() -> None:
    feature_BSK = FEATURES(TEXTS)
    for row_SK, phi_F in zip(feature_BSK.tolist(), FEATURES.counts(feature_BSK), strict=True):
        expected = Counter(itertools.chain(*row_SK))
        assert {i: int(n) for i, n in enumerate(phi_F.tolist()) if n} == expected


def test_the_target_counts_ngrams_in_both_texts_and_unknown_ones_in_the_held_out_text() -> None:
    bucket_of_1 = FEATURES(REAL[:1])[0, 0, 0]
    assert TARGET.mean_F[bucket_of_1] == (REAL[:, 1:] == 1).sum() / len(REAL)
    assert TARGET.mean_F[[FEATURES.buckets, 2 * FEATURES.buckets + 1]].tolist() == [
        0,
        0,
    ]  # the training text, 0 1 1 0 0, holds all pairs
    other = NGramCounts.of(torch.tensor([0, 0]), orders=(1, 2), buckets=8, prompt_length=1)
    mean_F = Target.of(other, REAL[:1], REAL[1:]).mean_F
    ones = (REAL[1:, 1:] == 1).sum() / len(REAL[1:])
    pairs = sum(pair != (0, 0) for text in REAL[1:].tolist() for pair in itertools.pairwise(text)) / len(REAL[1:])
    assert mean_F[other.buckets] == ones
    assert mean_F[2 * other.buckets + 1].item() == pytest.approx(pairs)


def test_a_shorter_ngram_stands_where_a_text_begins() -> None:
    one, other = (hashes(torch.tensor([ids]), 3) for ids in ([1, 2, 3], [5, 1, 2]))
    assert one[0, 2] != other[0, 2]
    assert hashes(torch.tensor([[1, 2]]), 3)[0, 1] == hashes(torch.tensor([[1, 2]]), 2)[0, 1] == one[0, 1]


def test_a_text_is_worth_less_beside_its_like() -> None:
    """Where all texts of a batch are the same, none is better than the others."""
    ids_BT = TEXTS[[3, 3, 3, 3]]
    assert advantages(FEATURES(ids_BT), phi(ids_BT), TARGET).abs().max() < 1e-6


def test_in_a_game_its_counts_come_near_those_of_the_text() -> None:
    game = alone("batch_size=64 learning_rate=1e-2", rules=Reinforce())
    features = NGramCounts.of(torch.from_numpy(TEXT.astype("int64")), (1, 2), 64, game.params.prompt_length)
    real_BT = torch.cat([game.real(draw) for draw in range(20)])
    target = Target.of(features, real_BT, real_BT)
    distances = [moments_step(game, draw, features, target)["moments/distance"] for draw in range(60)]
    assert np.mean(distances[-10:]) < 0.5 * np.mean(distances[:10])
    assert all(torch.equal(a, b) for a, b in zip(game.start.parameters(), new_model().parameters(), strict=True))


def test_equal_arguments_take_equal_steps() -> None:
    def weights() -> list[Tensor]:
        game = alone("batch_size=8")
        features = NGramCounts.of(torch.from_numpy(TEXT.astype("int64")), (1, 2), 64, game.params.prompt_length)
        step = partial(moments_step, features=features, target=Target.of(features, game.real(0), game.real(1)))
        for draw in range(2):
            step(game, draw)
        return [parameter.detach().clone() for parameter in game.generator.parameters()]

    assert all(map(torch.equal, weights(), weights()))
