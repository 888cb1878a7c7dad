"""On sequences whose distribution is known, the best model is the data's distribution, and training gets there."""

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from tests.adversarial.games import new_game
from troupe.adversarial.ddo import ddo_loss, ddo_step, log_ratio
from troupe.adversarial.policy import likelihood_step
from troupe.adversarial.reinforce import likelihood_loss, sequence_log_prob

V = 3
SEQUENCES = torch.tensor([(0, a, b) for a, b in itertools.product(range(V), repeat=2)])  # prompt 0, all continuations
DATA = torch.tensor([5, 1, 2, 1, 4, 1, 2, 3, 1])  # of 20
WRITTEN = torch.tensor([2, 2, 2, 4, 1, 1, 1, 1, 6])


class Table(nn.Module):
    """Any distribution of two tokens: logits of the first, and of the second after each first."""

    def __init__(self, counts_N: Tensor) -> None:
        super().__init__()
        counts_VV = counts_N.double().reshape(V, V)
        self.first_V = nn.Parameter(counts_VV.sum(1).log())
        self.second_VV = nn.Parameter(counts_VV.log())

    def forward(self, ids_BT: Tensor) -> Tensor:
        first_BV = self.first_V.expand(len(ids_BT), V)
        return torch.stack([first_BV, self.second_VV[ids_BT[:, 1]], torch.zeros_like(first_BV)], dim=1)

    def law(self) -> Tensor:
        return sequence_log_prob(self, SEQUENCES, 1).exp().detach()


REAL_BT, WRITTEN_BT = (SEQUENCES.repeat_interleave(counts_N, dim=0) for counts_N in (DATA, WRITTEN))  # in proportion


def loss_of(model: Table) -> Tensor:
    """The expected loss: means over batches that hold every sequence in proportion to its probability."""
    return ddo_loss(model, Table(WRITTEN), REAL_BT, WRITTEN_BT, prompt_length=1)


def test_the_table_holds_the_distribution() -> None:
    torch.testing.assert_close(Table(DATA).law(), DATA / 20.0, check_dtype=False)


def test_the_score_is_the_log_ratio_and_only_the_model_learns() -> None:
    model, start = Table(DATA), Table(WRITTEN)
    score_N = log_ratio(model, start, SEQUENCES, 1)
    torch.testing.assert_close(score_N.exp(), (DATA / WRITTEN).double())
    score_N.sum().backward()
    assert model.first_V.grad is not None
    assert start.first_V.grad is None


def test_at_the_start_the_loss_is_that_of_a_guess() -> None:
    assert loss_of(Table(WRITTEN)).item() == pytest.approx(2 * math.log(2), abs=1e-12)


def test_at_the_data_it_is_least_and_has_no_slope() -> None:
    """2 ln 2 - 2 JSD(data, start), by a loop in plain floats; no other distribution tried has less."""
    model = Table(DATA)
    jsd = 0.0
    for p, q in zip((DATA / 20).tolist(), (WRITTEN / 20).tolist(), strict=True):
        jsd += (p * math.log(2 * p / (p + q)) + q * math.log(2 * q / (p + q))) / 2
    loss = loss_of(model)
    assert loss.item() == pytest.approx(2 * math.log(2) - 2 * jsd, abs=1e-7)
    loss.backward()
    assert all(weight.grad is not None and weight.grad.abs().max() < 1e-8 for weight in model.parameters())
    rng = torch.Generator().manual_seed(0)
    for _ in range(50):
        other = Table(DATA * torch.empty(9, dtype=torch.float64).uniform_(0.7, 1.4, generator=rng))
        assert loss_of(other) > loss


def test_from_the_start_it_comes_to_the_data() -> None:
    model = Table(WRITTEN)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(400):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    assert (model.law() - DATA / 20).abs().sum() / 2 < 1e-3  # total variation; it was 0.45


def test_in_a_game_it_learns_the_text_against_its_start() -> None:
    """The text counts, and the start has begun to. The loss falls from a guess and the text becomes likelier; the start
    stays as it is, and its dropout, on as it comes from training, is no part of it."""
    trained = new_game("learning_rate=1e-2")
    for draw in range(15):
        likelihood_step(trained, draw)
    start = trained.generator
    game, weights = new_game("learning_rate=1e-3 batch_size=32", start=start), copy.deepcopy(start.state_dict())
    before = likelihood_loss(game.generator, game.held_out_BT, 2).item()
    losses = [ddo_step(game, draw, start.train())["generator/ddo_loss"] for draw in range(40)]
    assert losses[0] == pytest.approx(2 * math.log(2), abs=1e-5)
    assert losses[-1] < 0.5
    assert likelihood_loss(game.generator, game.held_out_BT, 2).item() < 0.7 * before
    assert all(weight.equal(weights[name]) for name, weight in start.state_dict().items())


def test_a_start_that_never_writes_the_text_is_no_guide() -> None:
    """What is told apart at once teaches nothing more: the loss is all but zero, and the text less likely.
    A limit of the method, not of its code: DDO is for models that are close to the data."""
    game = new_game("learning_rate=1e-2")
    before = likelihood_loss(game.generator, game.held_out_BT, 2).item()
    losses = [ddo_step(game, draw, game.start)["generator/ddo_loss"] for draw in range(60)]
    assert losses[-1] < 0.1
    assert likelihood_loss(game.generator, game.held_out_BT, 2).item() > before
