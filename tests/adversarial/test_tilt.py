"""Both ways to a tilt: the one that wrote the text is found again; where there is nothing to tell nothing moves."""

import math
from functools import cache

import pytest
import torch
from torch import Tensor

from tests.models.test_tilted import ids, model
from troupe.adversarial import tilt
from troupe.adversarial.tilt import Continuations, Round, Texts, by_likelihood, ddo_round
from troupe.decoding import Decoding, generate
from troupe.models.tilted import NUMBERS, Evidence, Tilted

GIVEN = 4
TRUE = (-1.2, 1.5, 0.5, -0.3)


@cache
def prompts(n: int) -> Tensor:
    return ids(n, GIVEN)


def write(by: Tilted, n: int, seed: int) -> Tensor:
    """ids_NT: continuations of the same prompts."""
    return generate(by, prompts(n), 12, Decoding(), [seed * 10_000 + row for row in range(n)])


def nats(of: Tilted, ids_NT: Tensor) -> float:
    """Nats per token of the continuations."""
    with torch.no_grad():
        logp_NTV = of(ids_NT)[:, GIVEN - 1 : -1].log_softmax(-1)
    cost: float = -logp_NTV.gather(-1, ids_NT[:, GIVEN:, None]).mean().item()
    return cost


def rounds(found: Tilted, real: Tilted, n: int, count: int) -> list[Round]:
    told = []
    for number in range(count):
        train, held_out = (
            Texts(write(real, size, 1 + part), write(found, size, 10 + 2 * number + part))
            for part, size in enumerate((n, n // 2))
        )
        told.append(ddo_round(found, train, held_out, GIVEN))
    return told


def test_likelihood_finds_the_tilt_that_wrote_the_text() -> None:
    real, found = model(*TRUE), model()
    by_likelihood(found, write(real, 400, 1), GIVEN)
    unseen_NT = write(real, 400, 2)
    assert nats(found, unseen_NT) == pytest.approx(nats(real, unseen_NT), abs=0.01)
    assert nats(found, unseen_NT) < nats(model(), unseen_NT) - 0.02


def test_rounds_against_its_own_text_find_it_too_and_end_where_nothing_can_be_told() -> None:
    real, found = model(*TRUE), model()
    told = rounds(found, real, 200, 3)
    unseen_NT = write(real, 400, 2)
    assert nats(found, unseen_NT) == pytest.approx(nats(real, unseen_NT), abs=0.02)
    assert told[0].signal
    assert told[0].interval.auc > told[-1].interval.auc
    assert told[-1].cross_entropy == pytest.approx(0.693, abs=0.02)


def test_text_of_its_own_moves_little_and_gives_no_signal() -> None:
    found = model(*TRUE)
    told = rounds(found, model(*TRUE), 300, 1)
    unseen_NT = write(model(*TRUE), 400, 2)
    assert told[0].interval.low < 0.5
    assert nats(found, unseen_NT) == pytest.approx(nats(model(*TRUE), unseen_NT), abs=0.02)


def test_equal_texts_give_equal_numbers_kept_or_computed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, anew = model(), model()
    rounds(kept, model(*TRUE), 40, 1)
    monkeypatch.setattr(tilt, "KEPT", 0)
    rounds(anew, model(*TRUE), 40, 1)
    assert torch.equal(kept.tilt, anew.tilt)


def test_the_cross_entropy_is_what_the_log_ratio_of_both_densities_costs() -> None:
    """DDO's discriminator at its best: ln p(x) / p_now(x), p the density of real text."""
    found, real = model(), model(*TRUE)
    texts = Texts(write(real, 300, 1), write(model(), 300, 2))
    told = ddo_round(found, texts, texts, GIVEN)
    length = texts.real_NT[0, GIVEN:].numel()
    score_N, other_N = (
        [(nats(model(), one) - nats(real, one)) * length for one in torch.split(ids_NT, 1)] for ids_NT in texts
    )
    best = sum(math.log1p(math.exp(-s)) for s in score_N) / 600 + sum(math.log1p(math.exp(s)) for s in other_N) / 600
    assert told.cross_entropy == pytest.approx(best, abs=0.02)
    assert best < 0.65


def test_only_the_tilt_moves() -> None:
    found, before = model(), model().state_dict()
    rounds(found, model(*TRUE), 20, 1)
    changed = [name for name, tensor in found.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["tilt"]


def test_the_slope_of_log_p_is_that_of_autograd() -> None:
    """In double precision: the sums of 5 x 30 terms agree to a few units of 1e-16 of what is added up, below 1e3."""
    rng = torch.Generator().manual_seed(0)
    network, counted = (torch.randn(3, 5, 30, generator=rng, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    part = Continuations(Evidence.of(network, counted), torch.randint(30, (3, 5), generator=rng))
    tilt = torch.randn(NUMBERS, generator=rng, dtype=torch.float64)
    expected_BK = torch.autograd.functional.jacobian(part.log_prob, tilt)
    log_p_B, slope_BK = part.log_prob_and_slope(tilt)
    torch.testing.assert_close(log_p_B, part.log_prob(tilt), rtol=0, atol=1e-11)
    torch.testing.assert_close(slope_BK, expected_BK, rtol=0, atol=1e-11)
