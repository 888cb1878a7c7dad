import copy
from collections.abc import Sequence
from itertools import islice

import pytest
import torch
from torch import Tensor

from studies.gan.game import ContinuousGame, Rules, generator_gradient, norm, perceptron, play
from studies.gan.mixtures import Mixture, sliced_wasserstein
from troupe.adversarial.objectives import GAN, WGAN, WGANGP, Objective
from troupe.seeding import generator

BLOB = Mixture(torch.tensor([[2.0, -1.0]]), sigma=0.5)


def game(objective: Objective, n_critic: int = 1, hidden: Sequence[int] = (8,), seed: int = 0) -> ContinuousGame:
    return ContinuousGame(BLOB, objective, Rules(64, n_critic, 1e-3, hidden, hidden), seed)


def played(objective: Objective, steps: int, n_critic: int = 1, seed: int = 0) -> ContinuousGame:
    one = game(objective, n_critic, seed=seed)
    list(islice(play(one), steps))
    return one


def weights(one: ContinuousGame) -> Tensor:
    return torch.cat([p.detach().flatten() for p in (*one.generator.parameters(), *one.critic.parameters())])


def batch_of(one: ContinuousGame) -> tuple[Tensor, Tensor]:
    """The noise z_BZ and the points x_BD that the next call of `fake` makes."""
    rng = torch.Generator().set_state(one.rng.get_state())
    z_BZ = torch.randn(64, 2, generator=rng)
    return z_BZ, one.generator(z_BZ).detach()


def test_a_seed_gives_one_game() -> None:
    assert torch.equal(weights(played(GAN(), 5)), weights(played(GAN(), 5)))
    assert not torch.equal(weights(played(GAN(), 5)), weights(played(GAN(), 5, seed=1)))


def test_the_gradient_of_two_linear_players_by_hand() -> None:
    """x = A z + b, score = <w, x> + c: minus the mean score has gradient -w in b and -w (mean z)^T in A."""
    one = game(WGAN(1.0), hidden=())
    w_1D = one.critic[0].weight
    z_BZ, _ = batch_of(one)
    gradient_A, gradient_b = generator_gradient(one)
    assert torch.allclose(gradient_b, -w_1D[0])
    assert torch.allclose(gradient_A, -torch.outer(w_1D[0], z_BZ.mean(0)), atol=1e-6)
    assert norm([torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])]) == 5


@pytest.mark.parametrize("saturating", [True, False])
def test_the_gradient_of_a_gan_is_weighted_by_the_discriminator(saturating: bool) -> None:
    """The same two players: -mean(D) w in b if the game is minimax, -mean(1 - D) w if not."""
    one = game(GAN(saturating), hidden=())
    _, x_BD = batch_of(one)
    d_B = one.score(x_BD).sigmoid()
    share = (d_B if saturating else 1 - d_B).mean()
    assert torch.allclose(generator_gradient(one)[1], -share * one.critic[0].weight[0])


def test_the_critic_moves_n_critic_times_as_often_and_stays_within_its_clip() -> None:
    one = played(WGAN(0.05), steps=7, n_critic=5)
    assert {state["step"].item() for state in one.critic_optimizer.state.values()} == {35}
    assert {state["step"].item() for state in one.generator_optimizer.state.values()} == {7}
    assert max(p.abs().max().item() for p in one.critic.parameters()) <= 0.05 + 1e-9


def test_the_critic_sees_no_gradient_into_the_generator() -> None:
    """A generator that is not stepped keeps its weights, whatever the critic does."""
    one = game(WGANGP(10.0))
    before = copy.deepcopy(one.generator.state_dict())
    one.generator_optimizer.step = lambda: None  # type: ignore[method-assign]
    list(islice(play(one), 3))
    assert all(torch.equal(before[name], tensor) for name, tensor in one.generator.state_dict().items())


def test_a_perceptron_is_relu_between_linear_layers() -> None:
    net = perceptron([2, 5, 3, 1], generator(0, "test"))
    x_BD = torch.randn(4, 2, generator=generator(1, "test"))
    hidden = x_BD
    for layer in (net[0], net[2]):
        hidden = (hidden @ layer.weight.T + layer.bias).clamp(min=0)
    assert torch.allclose(net(x_BD), hidden @ net[4].weight.T + net[4].bias, atol=1e-6)
    assert len(net) == 5
    assert max(p.abs().max().item() for p in net[2].parameters()) <= 5**-0.5


@pytest.mark.slow
@pytest.mark.parametrize("objective", [GAN(), GAN(saturating=True), WGAN(0.1), WGANGP(0.1)])
def test_every_objective_learns_one_gaussian(objective: Objective) -> None:
    """From more than 1 away to less than a third of that."""
    one = ContinuousGame(BLOB, objective, Rules(64, 2, 5e-3, [16], [16]), seed=3)
    real_BD = BLOB.sample(1000, generator(0, "held out"))
    before = sliced_wasserstein(one.generate(1000, generator(0, "noise")).detach(), real_BD)
    list(islice(play(one), 150))
    after = sliced_wasserstein(one.generate(1000, generator(0, "noise")).detach(), real_BD)
    assert before > 1
    assert after < before / 3
