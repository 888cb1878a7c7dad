"""The training of a discriminator: where it ends, what it reports, and that it is a function of the seed."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from tests.adversarial.games import new_model
from troupe.adversarial.discrimination import Examples, Schedule, SignalTest, cross_entropy, draw, train_discriminator
from troupe.adversarial.objectives import GAN
from troupe.adversarial.texts import MOST_AT_ONCE, continued
from troupe.decoding import Decoding, generate
from troupe.models.discriminator import LSTMDiscriminator, init_discriminator
from troupe.models.reader import Read, no_features
from troupe.seeding import generator

VOCAB, LENGTH = 8, 6
RATE = 1e-2
SCHEDULE = Schedule(bar=0.55, updates=5, rounds=4, batch_size=16, more_rounds=6)


def texts(n: int, rising: float, seed: int) -> Read:
    """Sequences of which a share goes up by one from token to token, the others are random."""
    rng = generator(seed, "test")
    first_N1 = torch.randint(VOCAB, (n, 1), generator=rng)
    up_NT = (first_N1 + torch.arange(LENGTH)) % VOCAB
    random_NT = torch.randint(VOCAB, (n, LENGTH), generator=rng)
    ids_NT: Tensor = torch.where(torch.rand(n, 1, generator=rng) < rising, up_NT, random_NT)
    return Read.of(ids_NT, no_features)


def trained(
    rising: float, schedule: Schedule = SCHEDULE, rate: float = RATE
) -> tuple[LSTMDiscriminator, SignalTest, list[int], Examples]:
    """Real texts that rise so often, generated ones that never do; the updates at which it reported."""
    critic, reported = LSTMDiscriminator(VOCAB, 8, 8), list[int]()
    train, held_out = (Examples(texts(200, rising, seed), texts(200, 0.0, seed + 1)) for seed in (1, 3))
    rng = generator(0, "test")
    found = train_discriminator(critic, train, held_out, schedule, rate, rng, lambda done, _: reported.append(done))
    return critic, found, reported, held_out


def test_it_is_left_where_cross_entropy_was_least() -> None:
    """A rate at which it runs away after its first rounds: the end is worse than what is kept."""
    critic, found, _, held_out = trained(0.7, replace(SCHEDULE, more_rounds=4), 0.3)
    least = cross_entropy(critic, held_out)
    assert found.signal
    for rounds in range(4):
        assert least <= cross_entropy(trained(0.7, replace(SCHEDULE, more_rounds=rounds), 0.3)[0], held_out)
    assert least < 2 * math.log(2)  # what knowing nothing costs


def test_what_it_reports_is_counted_from_the_first_update() -> None:
    _, found, reported, _ = trained(0.9)
    assert reported == list(range(5, found.updates + 6 * 5 + 1, 5))


def test_without_a_signal_it_stops_after_its_rounds() -> None:
    _, found, reported, _ = trained(0.0)
    assert not found.signal
    assert reported == [5, 10, 15, 20]


def test_equal_arguments_give_equal_weights() -> None:
    one, other = (trained(0.7)[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def features(n: int, alike: float, seed: int, length: int = 24) -> Read:
    """Tokens without information, and of each the features of two references: both N(0, 1), with this correlation."""
    rng = generator(seed, "test")
    own_NT2, common_NT1 = torch.randn(n, length, 2, generator=rng), torch.randn(n, length, 1, generator=rng)
    features_NT2 = alike**0.5 * common_NT1 + (1 - alike) ** 0.5 * own_NT2
    return Read(torch.randint(VOCAB, (n, length), generator=rng), features_NT2)


@pytest.mark.parametrize(("references", "signal"), [([0, 1], True), ([0], False), ([1], False)])
def test_what_only_the_difference_of_two_references_shows_is_soon_learned(references: list[int], signal: bool) -> None:
    """Real text, of which they say less alike: either alone says the same of both classes."""
    both = [(features(n, 0.3, seed), features(n, 0.8, seed + 1)) for n, seed in ((300, 1), (200, 3))]
    train, held_out = (
        Examples(*(Read(one.ids_NT, one.features_NTF[..., references]) for one in pair)) for pair in both
    )
    critic = LSTMDiscriminator(VOCAB, 8, 8, len(references), n_given=4)
    schedule = replace(SCHEDULE, bar=0.9, updates=20)
    found = train_discriminator(critic, train, held_out, schedule, RATE, generator(0, "test"))
    assert found.signal == signal
    assert (found.interval.auc > 0.95) == signal
    assert found.updates == (20 if signal else 4 * 20)
    assert signal or abs(found.interval.auc - 0.5) < 0.1


def test_features_are_in_units_of_the_real_text_that_it_learned_from() -> None:
    train, held_out = (Examples(features(50, 0.3, seed), features(50, 0.8, seed + 1)) for seed in (1, 3))
    train.real.features_NTF.mul_(3).add_(5)
    critic = LSTMDiscriminator(VOCAB, 8, 8, 2, n_given=4)
    train_discriminator(critic, train, held_out, SCHEDULE, RATE, generator(0, "test"))
    z_MF = critic.embed(*train.real)[:, 4:, 8:].flatten(0, 1)
    torch.testing.assert_close(z_MF.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(z_MF.std(0), torch.ones(2), atol=1e-5, rtol=0)


def test_an_update_is_on_every_prefix_beyond_the_prompt() -> None:
    """Cross-entropy of texts cut after their 5th, 6th, ... 8th token, with 4 given: the weights after one update."""
    train = Examples(features(50, 0.3, 1, length=8), features(50, 0.8, 2, length=8))
    trained, by_hand = (LSTMDiscriminator(VOCAB, 8, 8, 2, n_given=4) for _ in range(2))
    once = replace(SCHEDULE, updates=1, rounds=1, more_rounds=0)
    train_discriminator(trained, train, train, once, RATE, generator(0, "test"))

    rng = generator(0, "test")
    init_discriminator(by_hand, rng)
    by_hand.standardise(train.real.features_NTF)
    optimizer = GAN().optimizer(by_hand.parameters(), RATE)
    real, fake = (by_hand.embed(*draw(read, SCHEDULE.batch_size, rng)) for read in (train.real, train.fake))
    costs = [softplus(-by_hand.score(real[:, :end])) + softplus(by_hand.score(fake[:, :end])) for end in range(5, 9)]
    torch.stack(costs).mean().backward()
    optimizer.step()
    for one, other in zip(trained.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("n", [3, MOST_AT_ONCE + 2])
def test_prompts_are_continued_in_parts_as_one_by_one(n: int) -> None:
    model = new_model().eval()
    real_NT = torch.randint(VOCAB, (n, LENGTH), generator=generator(0, "test"))
    found_NT = continued(model, real_NT, 2, seeds=range(n))
    assert torch.equal(found_NT[:, :2], real_NT[:, :2])
    last_1P = real_NT[-1:, :2]
    assert torch.equal(found_NT[-1:], generate(model, last_1P, LENGTH - 2, Decoding(), [n - 1]))
