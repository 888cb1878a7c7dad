"""A discriminator's lessons: where they end, what they tell, and that they are a function of the seed."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from tests.adversarial.games import new_model
from troupe.adversarial.discrimination import Examples, Verdict, draw
from troupe.adversarial.objectives import GAN
from troupe.adversarial.teaching import AT_ONCE, Course, continued, cost, teach
from troupe.decoding import Decoding, generate
from troupe.models.discriminator import LSTMDiscriminator, init_discriminator
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


def said(n: int, alike: float, seed: int, length: int = 24) -> Read:
    """Tokens that tell nothing, and of each what two references say of it: both N(0, 1), with this correlation."""
    rng = generator(seed, "test")
    own_NT2, common_NT1 = torch.randn(n, length, 2, generator=rng), torch.randn(n, length, 1, generator=rng)
    features_NT2 = alike**0.5 * common_NT1 + (1 - alike) ** 0.5 * own_NT2
    return Read(torch.randint(VOCAB, (n, length), generator=rng), features_NT2)


@pytest.mark.parametrize(("references", "tell"), [([0, 1], True), ([0], False), ([1], False)])
def test_what_only_the_difference_of_two_references_tells_is_soon_learned(references: list[int], tell: bool) -> None:
    """Real text, of which they say less alike: either alone says the same of both classes."""
    both = [(said(n, 0.3, seed), said(n, 0.8, seed + 1)) for n, seed in ((300, 1), (200, 3))]
    train, held_out = (
        Examples(*(Read(one.ids_NT, one.features_NTF[..., references]) for one in pair)) for pair in both
    )
    critic = LSTMDiscriminator(VOCAB, 8, 8, len(references), n_given=4)
    verdict = teach(critic, train, held_out, replace(COURSE, bar=0.9, updates=20), generator(0, "test"))
    assert verdict.signal == tell
    assert (verdict.interval.auc > 0.95) == tell
    assert verdict.updates == (20 if tell else 4 * 20)
    assert tell or abs(verdict.interval.auc - 0.5) < 0.1


def test_features_are_in_units_of_the_real_text_that_it_learned_from() -> None:
    train, held_out = (Examples(said(50, 0.3, seed), said(50, 0.8, seed + 1)) for seed in (1, 3))
    train.real.features_NTF.mul_(3).add_(5)
    critic = LSTMDiscriminator(VOCAB, 8, 8, 2, n_given=4)
    teach(critic, train, held_out, COURSE, generator(0, "test"))
    z_MF = critic.embed(*train.real)[:, 4:, 8:].flatten(0, 1)
    torch.testing.assert_close(z_MF.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(z_MF.std(0), torch.ones(2), atol=1e-5, rtol=0)


def test_an_update_is_on_every_prefix_that_tells_something() -> None:
    """Cross-entropy of texts cut after their 5th, 6th, ... 8th token, with 4 given: the weights after one update."""
    train = Examples(said(50, 0.3, 1, length=8), said(50, 0.8, 2, length=8))
    taught, by_hand = (LSTMDiscriminator(VOCAB, 8, 8, 2, n_given=4) for _ in range(2))
    teach(taught, train, train, replace(COURSE, updates=1, looks=1, rounds=0), generator(0, "test"))

    rng = generator(0, "test")
    init_discriminator(by_hand, rng)
    by_hand.standardise(train.real.features_NTF)
    optimizer = GAN().optimizer(by_hand.parameters(), COURSE.learning_rate)
    real, fake = (by_hand.embed(*draw(read, COURSE.batch_size, rng)) for read in (train.real, train.fake))
    costs = [softplus(-by_hand.score(real[:, :end])) + softplus(by_hand.score(fake[:, :end])) for end in range(5, 9)]
    torch.stack(costs).mean().backward()
    optimizer.step()
    for one, other in zip(taught.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("n", [3, AT_ONCE + 2])
def test_prompts_are_continued_in_parts_as_one_by_one(n: int) -> None:
    model = new_model().eval()
    real_NT = torch.randint(VOCAB, (n, LENGTH), generator=generator(0, "test"))
    found_NT = continued(model, real_NT, 2, seeds=range(n))
    assert torch.equal(found_NT[:, :2], real_NT[:, :2])
    last_1P = real_NT[-1:, :2]
    assert torch.equal(found_NT[-1:], generate(model, last_1P, LENGTH - 2, Decoding(), [n - 1]))
