"""Features of references against a loop in plain floats; what is bounded, unlearned and never of what is to come."""

import math
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from troupe.models import reader as module
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.reader import PER_REFERENCE, Read, ReferenceFeatures, features_of

VOCAB, T = 7, 5


def reference(seed: int = 0, block_size: int = 8, dropout: float = 0.0) -> GPT:
    model = GPT(GPTConfig(vocab_size=VOCAB, block_size=block_size, n_layer=1, n_head=2, n_embd=6, dropout=dropout))
    init_gpt2(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.token_embedding.weight.mul_(4)  # predictions that differ, some by far
    return model


def some_ids(n: int = 4, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB, (n, T), generator=torch.Generator().manual_seed(seed))


def test_features_are_those_of_a_loop_in_plain_floats() -> None:
    """Of two references, one after the other."""
    models, ids_BT = (reference(0), reference(1)), some_ids()
    features_BTF = ReferenceFeatures(*models)(ids_BT)
    assert features_BTF.shape == (4, T, 2 * PER_REFERENCE)
    for model, said_BTF in zip(models, features_BTF.split(PER_REFERENCE, dim=-1), strict=True):
        table = model(ids_BT).double().softmax(-1).tolist()
        for row, ids in enumerate(ids_BT.tolist()):
            for t in range(1, T):
                p = table[row][t - 1]
                expected = [
                    min(-math.log(p[ids[t]]), 2 * math.log(VOCAB)),
                    -sum(q * math.log(q) for q in p),
                    math.log1p(sum(q > p[ids[t]] for q in p)),
                ]
                assert said_BTF[row, t].tolist() == pytest.approx(expected, abs=1e-4)


def test_the_first_token_is_predicted_from_nothing() -> None:
    """Of 7 equally likely tokens: surprisal and entropy ln 7, three tokens above the middle one."""
    first_BF = ReferenceFeatures(reference(0), reference(1))(some_ids())[:, 0]
    expected = torch.tensor([math.log(7), math.log(7), math.log(4)] * 2)
    torch.testing.assert_close(first_BF, expected.expand(4, 6))


def test_features_are_bounded_and_look_at_nothing_to_come() -> None:
    features = ReferenceFeatures(reference())
    one_BT = some_ids()
    other_BT = torch.cat([one_BT[:, :3], (one_BT[:, 3:] + 1) % VOCAB], dim=1)
    one, other = features(one_BT), features(other_BT)
    assert torch.allclose(one[:, :3], other[:, :3], atol=1e-6)
    assert not torch.allclose(one[:, 3:], other[:, 3:])
    bounds_F = torch.tensor([2 * math.log(VOCAB), math.log(VOCAB), math.log(VOCAB)])
    assert (one >= 0).all()
    assert (one <= bounds_F + 1e-6).all()
    assert one[..., 0].max() == bounds_F[0]  # there is a token here that is cut


def test_the_context_is_what_every_reference_can_read() -> None:
    features = ReferenceFeatures(reference(block_size=8), reference(block_size=4))
    assert features.context == 4
    assert features.width == 2 * PER_REFERENCE
    with pytest.raises(ValueError, match="4"):
        features(some_ids())


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


def test_a_large_vocabulary_is_read_fewer_at_a_time_and_a_small_one_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """2^28 floats are 4 tensors x 1024 tokens x 50,257 logits once, x 128 ten times; of 5 tokens and 7 logits more than
    anyone asks for. With room for 3 sequences, 9 are read in threes, to the same figures."""
    features = ReferenceFeatures(reference())
    assert features.at_once(T) > 10**6
    huge = ReferenceFeatures(GPT(GPTConfig(vocab_size=50_257, block_size=8, n_layer=1, n_head=1, n_embd=2, dropout=0)))
    assert [huge.at_once(length) for length in (1024, 128, 4096)] == [1, 10, 1]
    whole, read = features(some_ids(9)), []
    monkeypatch.setattr(module, "FLOATS", 3 * 4 * T * VOCAB)
    monkeypatch.setattr(
        module, "features_of", lambda model, ids_BT: read.append(len(ids_BT)) or features_of(model, ids_BT)
    )
    torch.testing.assert_close(features(some_ids(9)), whole, atol=1e-5, rtol=0)
    assert read == [3, 3, 3]


def test_read_in_pieces_is_read_whole() -> None:
    features = ReferenceFeatures(reference())
    ids_NT = some_ids(9)
    read = Read.of(ids_NT, features, at_once=2)
    assert torch.allclose(read.features_NTF, features(ids_NT), atol=1e-5)
    rows_B = torch.tensor([3, 3, 8])
    assert read.rows(rows_B).ids_NT.equal(ids_NT[rows_B])
    assert read.rows(rows_B).features_NTF.equal(read.features_NTF[rows_B])
