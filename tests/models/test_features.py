"""Features of the reference against a loop in plain floats; prefix scores; the gradient penalty over features."""

import math
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from troupe.adversarial.objectives import WGANGP, gradient_penalty
from troupe.models.config import GPTConfig
from troupe.models.discriminator import LSTMDiscriminator, init_discriminator
from troupe.models.features import N_SCALAR, Read, ReferenceFeatures, no_features
from troupe.models.gpt2 import GPT, init_gpt2

VOCAB, T = 7, 5


def reference(dropout: float = 0.0) -> GPT:
    model = GPT(GPTConfig(vocab_size=VOCAB, block_size=8, n_layer=1, n_head=2, n_embd=6, dropout=dropout))
    init_gpt2(model, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.token_embedding.weight.mul_(4)  # predictions that differ, some by far
    return model


def some_ids(n: int = 4, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB, (n, T), generator=torch.Generator().manual_seed(seed))


def critic(n_feature: int) -> LSTMDiscriminator:
    model = LSTMDiscriminator(VOCAB, n_embd=4, n_hidden=8, n_feature=n_feature)
    init_discriminator(model, torch.Generator().manual_seed(1))
    return model.double()


def test_the_scalars_are_those_of_a_loop_in_plain_floats() -> None:
    model, ids_BT = reference(), some_ids()
    features_BTF = ReferenceFeatures(model)(ids_BT)
    table = model(ids_BT).double().softmax(-1).tolist()
    for row, ids in enumerate(ids_BT.tolist()):
        for t in range(1, T):
            p = table[row][t - 1]
            expected = [
                min(-math.log(p[ids[t]]), 2 * math.log(VOCAB)),
                -sum(q * math.log(q) for q in p),
                math.log1p(sum(q > p[ids[t]] for q in p)),
            ]
            assert features_BTF[row, t, :N_SCALAR].tolist() == pytest.approx(expected, abs=1e-4)


def test_the_first_token_is_predicted_from_nothing() -> None:
    """Of 7 equally likely tokens: surprisal and entropy ln 7, three tokens above the middle one."""
    first_BF = ReferenceFeatures(reference())(some_ids())[:, 0, :N_SCALAR]
    expected = torch.tensor([math.log(7), math.log(7), math.log(4)])
    torch.testing.assert_close(first_BF, expected.expand(4, 3))


def test_features_are_bounded_and_look_at_nothing_to_come() -> None:
    features = ReferenceFeatures(reference())
    one_BT = some_ids()
    other_BT = torch.cat([one_BT[:, :3], (one_BT[:, 3:] + 1) % VOCAB], dim=1)
    one, other = features(one_BT), features(other_BT)
    assert torch.allclose(one[:, :3], other[:, :3], atol=1e-6)
    assert not torch.allclose(one[:, 3:], other[:, 3:])
    assert one.shape == (4, T, features.width)
    assert one[..., 0].max() <= 2 * math.log(VOCAB)
    torch.testing.assert_close(one[..., N_SCALAR:].square().mean(-1), torch.ones(4, T))


def test_the_reference_is_read_without_gradient_or_dropout_and_left_as_it_was() -> None:
    model = reference(dropout=0.5).train()
    features = ReferenceFeatures(model)
    first, again = features(some_ids()), features(some_ids())
    assert first.equal(again)
    assert not first.requires_grad
    assert model.training


def test_readers_in_threads_do_not_get_into_each_other() -> None:
    """Evaluation writes its samples side by side, with one discriminator; however often threads are switched."""
    features, texts = ReferenceFeatures(reference()), [some_ids(seed=seed) for seed in range(400)]
    interval = sys.getswitchinterval()
    one = [features(ids_BT) for ids_BT in texts]
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            other = [*pool.map(features, texts)]
    finally:
        sys.setswitchinterval(interval)
    assert all(map(torch.equal, one, other))


def test_read_in_pieces_is_read_whole() -> None:
    features = ReferenceFeatures(reference())
    ids_NT = some_ids(9)
    read = Read.of(ids_NT, features, at_once=2)
    assert torch.allclose(read.features_NTF, features(ids_NT), atol=1e-5)
    rows_B = torch.tensor([3, 3, 8])
    assert read.rows(rows_B).ids_NT.equal(ids_NT[rows_B])
    assert read.rows(rows_B).features_NTF.equal(read.features_NTF[rows_B])


def test_a_prefix_scores_as_the_text_that_ends_there() -> None:
    model, features_BTF = critic(n_feature=9), ReferenceFeatures(reference())(some_ids()).double()
    x_BTX = model.embed(some_ids(), features_BTF)
    prefixes_BT = torch.stack([model.score(x_BTX[:, : t + 1]) for t in range(T)], dim=1)
    torch.testing.assert_close(model.prefix_scores(x_BTX), prefixes_BT, atol=1e-12, rtol=0)


def test_without_features_the_model_reads_tokens_alone() -> None:
    model = critic(n_feature=0)
    assert model.embed(some_ids(), no_features(some_ids())).equal(model.embed(some_ids()))


def penalty(model: LSTMDiscriminator, real: Tensor, fake: Tensor) -> Tensor:
    return gradient_penalty(model.score, real, fake, torch.Generator().manual_seed(0))


def test_the_penalty_is_on_the_slope_in_features_too_as_finite_differences_find_it() -> None:
    """One epsilon for embeddings and features of a sequence; the slope from differences of 2e-5 in each coordinate."""
    model, features = critic(n_feature=9), ReferenceFeatures(reference())
    real, fake = (model.embed(ids, features(ids).double()).detach() for ids in (some_ids(2, 0), some_ids(2, 1)))
    epsilon_B11 = torch.rand(2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).reshape(-1, 1, 1)
    between = fake + epsilon_B11 * (real - fake)
    slopes = torch.zeros_like(between)
    for place in range(between[0].numel()):
        step = torch.zeros_like(between).flatten(1)
        step[:, place] = 1e-5
        step = step.view_as(between)
        slopes.flatten(1)[:, place] = (model.score(between + step) - model.score(between - step)) / 2e-5
    expected = ((slopes.flatten(1).norm(dim=1) - 1) ** 2).mean()
    torch.testing.assert_close(penalty(model, real, fake), expected, atol=1e-7, rtol=0)
    assert slopes[..., 4:].norm() > 0.01  # features have their part in it


def test_a_critic_cannot_evade_the_penalty_by_growing_what_it_learned_of_features() -> None:
    """The projection comes after the point where the slope is taken: a hundred times as large, it is seen. And what
    WGAN-GP holds within a norm of 1 is the embedding, which comes before."""
    model, features = critic(n_feature=9), ReferenceFeatures(reference())
    read = [(ids, features(ids).double()) for ids in (some_ids(2, 0), some_ids(2, 1))]
    before = penalty(model, *(model.embed(*one).detach() for one in read))
    assert model.project is not None
    with torch.no_grad():
        model.project.weight.mul_(100)
        model.head.weight.mul_(100)
        model.embedding.weight.mul_(100)
    fixed = model.embed(*read[0])[..., 4:]
    after = penalty(model, *(model.embed(*one).detach() for one in read))
    assert after > 10 * before
    WGANGP(10.0).constrain(model)
    assert model.embedding.weight.norm(dim=1).max() <= 1 + 1e-6
    assert model.project.weight.norm() > 10  # left to the penalty
    assert fixed.equal(read[0][1])


def test_the_penalty_trains_the_projection() -> None:
    model, features = critic(n_feature=9), ReferenceFeatures(reference())
    real, fake = (model.embed(ids, features(ids).double()) for ids in (some_ids(2, 0), some_ids(2, 1)))
    penalty(model, real, fake).backward()
    assert model.project is not None
    assert model.project.weight.grad is not None
    assert model.project.weight.grad.norm() > 0
