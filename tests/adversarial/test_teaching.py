"""A discriminator's lessons: where they end, what they tell, and that they are a function of the seed."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.adversarial.games import new_model
from troupe.adversarial.discrimination import Examples, Verdict
from troupe.adversarial.teaching import AT_ONCE, Course, continued, cost, teach
from troupe.decoding import Decoding, generate
from troupe.models.discriminator import LSTMDiscriminator
from troupe.models.features import Read, no_features
from troupe.seeding import generator

VOCAB, LENGTH = 8, 6
COURSE = Course(bar=0.55, updates=5, looks=4, rounds=6, batch_size=16, learning_rate=1e-2)


def texts(n: int, rising: float, seed: int) -> Read:
    """Sequences of which a share goes up by one from token to token, the others are random."""
    rng = generator(seed, "test")
    first_N1 = torch.randint(VOCAB, (n, 1), generator=rng)
    up_NT = (first_N1 + torch.arange(LENGTH)) % VOCAB
    random_NT = torch.randint(VOCAB, (n, LENGTH), generator=rng)
    ids_NT: Tensor = torch.where(torch.rand(n, 1, generator=rng) < rising, up_NT, random_NT)
    return Read.of(ids_NT, no_features)


def lesson(rising: float, course: Course = COURSE) -> tuple[LSTMDiscriminator, Verdict, list[int], Examples]:
    """Real texts that rise so often, generated ones that never do; what was told on the way."""
    critic, told = LSTMDiscriminator(VOCAB, 8, 8), list[int]()
    train, held_out = (Examples(texts(200, rising, seed), texts(200, 0.0, seed + 1)) for seed in (1, 3))
    verdict = teach(critic, train, held_out, course, generator(0, "test"), lambda done, _: told.append(done))
    return critic, verdict, told, held_out


def test_it_is_left_where_cross_entropy_was_least() -> None:
    """A rate at which it runs away after its first rounds: the end is worse than what is kept."""
    wild = replace(COURSE, learning_rate=0.3, rounds=4)
    critic, verdict, _, held_out = lesson(0.7, wild)
    paid = cost(critic, held_out)
    assert verdict.signal
    for rounds in range(4):
        assert paid <= cost(lesson(0.7, replace(wild, rounds=rounds))[0], held_out)
    assert paid < 2 * math.log(2)  # what knowing nothing costs


def test_what_it_tells_is_counted_from_the_first_update() -> None:
    _, verdict, told, _ = lesson(0.9)
    assert told == list(range(5, verdict.updates + 6 * 5 + 1, 5))


def test_without_a_signal_it_stops_after_its_looks() -> None:
    _, verdict, told, _ = lesson(0.0)
    assert not verdict.signal
    assert told == [5, 10, 15, 20]


def test_equal_arguments_give_equal_weights() -> None:
    one, other = (lesson(0.7)[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("n", [3, AT_ONCE + 2])
def test_prompts_are_continued_in_parts_as_one_by_one(n: int) -> None:
    model = new_model().eval()
    real_NT = torch.randint(VOCAB, (n, LENGTH), generator=generator(0, "test"))
    found_NT = continued(model, real_NT, 2, seeds=range(n))
    assert torch.equal(found_NT[:, :2], real_NT[:, :2])
    last_1P = real_NT[-1:, :2]
    assert torch.equal(found_NT[-1:], generate(model, last_1P, LENGTH - 2, Decoding(), [n - 1]))
