import math

import pytest
import torch
from torch import Tensor, nn

from troupe.adversarial.objectives import GAN, WGAN, WGANGP, gradient_penalty, objective_of
from troupe.models.discriminator import LSTMDiscriminator, init_discriminator
from troupe.seeding import generator

F64 = torch.float64


def rng() -> torch.Generator:
    return generator(0, "test")


def sequences(scores: list[float]) -> Tensor:
    """One sequence of one token of width one per score, so that `score = identity` gives back the list."""
    return torch.tensor(scores, dtype=F64).reshape(-1, 1, 1)


def identity(x_BTD: Tensor) -> Tensor:
    return x_BTD.flatten(1).sum(1)


def test_gan_loss_by_hand() -> None:
    """Scores log 3 and 0 on real text: D = 3/4 and 1/2. Scores 0 and -log 4 on fakes: D = 1/2 and 1/5.

    Loss = -(log 3/4 + log 1/2)/2 - (log 1/2 + log 4/5)/2 = -log(3/4 * 1/2 * 1/2 * 4/5)/2 = log(20/3)/2.
    """
    loss = GAN().critic_loss(identity, sequences([math.log(3), 0]), sequences([0, -math.log(4)]), rng())
    assert loss.item() == pytest.approx(math.log(20 / 3) / 2, abs=1e-12)


def test_gan_reward_is_log_d() -> None:
    reward_B = GAN().reward(torch.tensor([math.log(3), -1000.0], dtype=F64))
    assert reward_B.tolist() == pytest.approx([math.log(3 / 4), -1000.0])  # no underflow to log 0


def test_the_minimax_reward_is_flat_where_the_discriminator_rejects_everything() -> None:
    """-log(1 - D): log 4 at D = 3/4. Its slope in the score is D, that of log D is 1 - D: 1/4 and 3/4 at D = 1/4."""
    assert GAN(saturating=True).reward(torch.tensor(math.log(3), dtype=F64)).item() == pytest.approx(math.log(4))
    score_B = torch.tensor([-math.log(3), -1000.0], dtype=F64, requires_grad=True)
    (minimax_B,) = torch.autograd.grad(GAN(saturating=True).reward(score_B).sum(), score_B)
    (non_saturating_B,) = torch.autograd.grad(GAN().reward(score_B).sum(), score_B)
    assert minimax_B.tolist() == pytest.approx([1 / 4, 0])
    assert non_saturating_B.tolist() == pytest.approx([3 / 4, 1])


def test_the_minimax_generator_climbs_what_the_discriminator_goes_down() -> None:
    """One game, zero sum: but for the real half, which it cannot move, its loss is minus the discriminator's."""
    fake_B = torch.tensor([0.3, -2.0, 5.0], dtype=F64)
    critic_loss = GAN().critic_loss(identity, sequences([40.0] * 3), sequences(fake_B.tolist()), rng())
    assert -GAN(saturating=True).reward(fake_B).mean().item() == pytest.approx(-critic_loss.item(), abs=1e-12)


def test_at_the_best_discriminator_the_gan_loss_is_twice_log_2_minus_jsd() -> None:
    """Goodfellow et al., theorem 1, on real = (1/2, 1/4, 1/4) and fake = (1/4, 1/4, 1/2): four draws of each kind.

    The best score is log p/q = (log 2, 0, -log 2). JSD = (KL(p||m) + KL(q||m))/2 with m = (3/8, 1/4, 3/8), by symmetry
    KL(p||m) = 1/2 log 4/3 + 1/4 log 2/3. No other score does better, so the gradient there is zero.
    """
    best_V = torch.tensor([math.log(2), 0, -math.log(2)], dtype=F64, requires_grad=True)
    real, fake = sequences([0, 0, 1, 2]), sequences([0, 1, 2, 2])
    loss = GAN().critic_loss(lambda x_BTD: best_V[x_BTD.flatten().long()], real, fake, rng())
    jsd = math.log(4 / 3) / 2 + math.log(2 / 3) / 4
    assert loss.item() == pytest.approx(2 * math.log(2) - 2 * jsd, abs=1e-12)
    (gradient_V,) = torch.autograd.grad(loss, best_V)
    assert gradient_V.abs().max() < 1e-12


def test_wgan_loss_by_hand() -> None:
    """mean(fake) - mean(real) = (1 + 2)/2 - (3 + 7)/2 = -3.5; the reward is the score itself."""
    loss = WGAN(0.01).critic_loss(identity, sequences([3, 7]), sequences([1, 2]), rng())
    assert loss.item() == -3.5
    assert WGAN(0.01).reward(torch.tensor([-2.0, 5.0])).tolist() == [-2, 5]


def test_clipping_holds_every_weight() -> None:
    critic = LSTMDiscriminator(vocab_size=11, n_embd=4, n_hidden=5)
    WGAN(0.01).constrain(critic)
    assert max(weight.abs().max().item() for weight in critic.parameters()) == pytest.approx(0.01)
    before = [weight.clone() for weight in critic.parameters()]
    WGAN(0.01).constrain(critic)
    assert all(torch.equal(*pair) for pair in zip(before, critic.parameters(), strict=True))


def test_the_penalty_of_a_linear_critic_is_its_norm_minus_one_squared() -> None:
    """score(x) = <w, x> has gradient w everywhere. |w| = |(2, 3, 6)| = 7, so the penalty is (7 - 1)^2 = 36.

    With weight 10, real <w, x> = 7 * 1 and fake 0: loss = 10 * 36 - 7 = 353.
    """
    w_TD = torch.tensor([[2.0, 3.0, 6.0]], dtype=F64)
    real = torch.stack([w_TD / 7, w_TD / 7])
    loss = WGANGP(10.0).critic_loss(
        lambda x: (x * w_TD).flatten(1).sum(1), real, torch.zeros(2, 1, 3, dtype=F64), rng()
    )
    assert loss.item() == pytest.approx(353, abs=1e-9)


def test_the_penalty_over_points_of_the_plane() -> None:
    """score(x) = <(3, 4), x>: slope 5 everywhere, so the penalty of every one of the points is (5 - 1)^2 = 16."""
    real_BD, fake_BD = torch.randn(2, 9, 2, dtype=F64, generator=rng())
    penalty = gradient_penalty(lambda x_BD: x_BD @ torch.tensor([3.0, 4.0], dtype=F64), real_BD, fake_BD, rng())
    assert penalty.item() == pytest.approx(16, abs=1e-12)


def test_the_penalty_against_the_jacobian_and_its_gradient_against_differences() -> None:
    """float64: slopes from the Jacobian of each example alone; `gradcheck` takes differences in every weight."""
    draw = rng()
    real_BD, fake_BD = torch.randn(2, 4, 2, dtype=F64, generator=draw)
    w1, w2 = torch.randn(2, 3, dtype=F64, generator=draw), torch.randn(3, dtype=F64, generator=draw)

    def penalty(w1: Tensor, w2: Tensor) -> Tensor:
        return gradient_penalty(lambda x_BD: (x_BD @ w1).tanh() @ w2, real_BD, fake_BD, generator(1, "epsilon"))

    epsilon_B1 = torch.rand(4, 1, dtype=F64, generator=generator(1, "epsilon"))
    slopes = [
        torch.autograd.functional.jacobian(lambda x_D: (x_D @ w1).tanh() @ w2, x_D).norm().item()
        for x_D in torch.lerp(fake_BD, real_BD, epsilon_B1)
    ]
    assert penalty(w1, w2).item() == pytest.approx(sum((slope - 1) ** 2 for slope in slopes) / 4, rel=1e-12)
    assert torch.autograd.gradcheck(penalty, (w1.requires_grad_(), w2.requires_grad_()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_penalty_of_an_lstm_has_a_gradient_on_a_gpu() -> None:
    """cuDNN's LSTM would raise: it has no double backward."""
    critic = LSTMDiscriminator(vocab_size=7, n_embd=3, n_hidden=4).cuda()
    real, fake = torch.randn(2, 5, 6, 3, device="cuda")
    gradient_penalty(critic.score, real, fake, generator(0, "test", device="cuda")).backward()
    assert critic.lstm.weight_ih_l0.grad is not None
    assert critic.lstm.weight_ih_l0.grad.abs().sum() > 0


def test_the_penalty_is_taken_between_real_and_fake_with_one_epsilon_per_sequence() -> None:
    """score(x) = |x|^2 / 2 has gradient x, so the penalty tells where it was taken.

    real is the all-ones and fake the all-zeros 2 x 2 sequence: x = epsilon * ones, |x| = 2 epsilon.
    """
    points: list[Tensor] = []

    def score(x_BTD: Tensor) -> Tensor:
        points.append(x_BTD.detach())
        return x_BTD.square().flatten(1).sum(1) / 2

    ones = torch.ones(50, 2, 2, dtype=F64)
    penalty = gradient_penalty(score, ones, torch.zeros_like(ones), rng())
    epsilon_B = points[0][:, 0, 0]
    assert torch.equal(points[0], epsilon_B[:, None, None].expand_as(ones))
    assert epsilon_B.unique().numel() == 50
    assert epsilon_B.min() >= 0
    assert epsilon_B.max() < 1
    assert penalty.item() == pytest.approx(((2 * epsilon_B - 1) ** 2).mean().item(), abs=1e-12)


def test_the_penalty_of_an_lstm_against_finite_differences() -> None:
    """The slope of the score, and the penalty's own gradient through it (double backward), in float64."""
    torch.manual_seed(0)
    critic = LSTMDiscriminator(vocab_size=7, n_embd=3, n_hidden=4).double()
    real, fake = torch.randn(2, 1, 5, 3, dtype=F64)
    weight = next(p for name, p in critic.named_parameters() if "embed" not in name)

    def penalty() -> Tensor:
        return gradient_penalty(critic.score, real, fake, rng())

    step = 1e-6
    epsilon = torch.rand(1, 1, 1, generator=rng(), dtype=F64)
    x = torch.lerp(fake, real, epsilon)
    basis = torch.eye(15, dtype=F64).reshape(15, 5, 3) * step
    slope = (critic.score(x + basis) - critic.score(x - basis)) / (2 * step)
    assert penalty().item() == pytest.approx((slope.norm().item() - 1) ** 2, rel=1e-6)

    (gradient,) = torch.autograd.grad(penalty(), weight)
    shift = torch.zeros_like(weight)
    shift[0, 0] = step
    weight.data += shift
    above = penalty()
    weight.data -= 2 * shift
    below = penalty()
    assert gradient[0, 0].item() == pytest.approx((above - below).item() / (2 * step), rel=1e-4)


def test_growing_the_embedding_cannot_evade_the_penalty() -> None:
    """Rows of norm <= 1 stay, longer ones are cut to 1: scaled by 100 or by 1000, the embedding is the same."""
    critic = LSTMDiscriminator(vocab_size=11, n_embd=4, n_hidden=5)
    embedding = next(module for module in critic.modules() if isinstance(module, nn.Embedding))
    with torch.no_grad():
        embedding.weight[0] = torch.tensor([0.3, 0.0, 0.4, 0.0])
        embedding.weight[1:] *= 100
    WGANGP(10.0).constrain(critic)
    once = embedding.weight.clone()
    assert once[0].tolist() == pytest.approx([0.3, 0, 0.4, 0])
    assert once.norm(dim=1)[1:].tolist() == pytest.approx([1.0] * 10, abs=1e-5)
    with torch.no_grad():
        embedding.weight[1:] *= 10
    WGANGP(10.0).constrain(critic)
    assert torch.allclose(embedding.weight, once, atol=1e-6)


def test_a_wider_embedding_would_evade_the_penalty_without_the_bound() -> None:
    """One token, real "b" at +c and fake "a" at -c; the critic reads x off, slope 1, so the penalty is 0 at any c.

    The loss -2 c would fall without end, its gradient growing nothing but the embedding; within the bound it is -2.
    """
    critic = LSTMDiscriminator(vocab_size=2, n_embd=1, n_hidden=1)
    critic.embedding.weight.data = torch.tensor([[-1.0], [1.0]])

    def loss() -> float:
        fake_BTD, real_BTD = critic.embed(torch.tensor([[[0]], [[1]]]))
        return WGANGP(10.0).critic_loss(identity, real_BTD, fake_BTD, rng()).item()

    assert loss() == pytest.approx(-2)
    with torch.no_grad():
        critic.embedding.weight *= 50
    assert loss() == pytest.approx(-100)
    WGANGP(10.0).constrain(critic)
    assert loss() == pytest.approx(-2)


@pytest.mark.slow
def test_a_critic_that_trains_cannot_evade_the_penalty() -> None:
    """Two texts that share no token, T = 4, steps large enough to grow the embedding: with the objective's constraint
    the gap of the scores stays within slope times the widest distance, 2 sqrt(T); without, the embedding outgrows it.
    """

    def train(objective: WGANGP, constrained: bool) -> tuple[float, float]:
        critic = LSTMDiscriminator(vocab_size=6, n_embd=4, n_hidden=8)
        init_discriminator(critic, rng())
        optimizer, draw = objective.optimizer(critic.parameters(), 0.05), rng()
        for _ in range(60):
            fake_BT, real_BT = torch.randint(3, (2, 32, 4), generator=draw) + torch.tensor([0, 3]).reshape(2, 1, 1)
            loss = objective.critic_loss(critic.score, critic.embed(real_BT), critic.embed(fake_BT), draw)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if constrained:
                objective.constrain(critic)
        gap = critic.score(critic.embed(real_BT)).mean() - critic.score(critic.embed(fake_BT)).mean()
        return gap.item(), critic.embedding.weight.norm(dim=1).max().item()

    free_gap, free_norm = train(WGANGP(10.0), constrained=False)
    gap, norm = train(WGANGP(10.0), constrained=True)
    assert norm <= 1 + 1e-6
    assert 0 < gap < 2 * 2 * 1.5  # the penalty is a mean, so that the slope is near 1, not below it
    assert free_norm > 3
    assert free_gap > 2 * gap


def test_each_objective_trains_its_critic_as_published() -> None:
    parameters = [nn.Parameter(torch.zeros(1))]
    gan, wgan, wgan_gp = (o.optimizer(parameters, 1e-3) for o in (GAN(), WGAN(0.01), WGANGP(10.0)))
    assert isinstance(gan, torch.optim.Adam)
    assert gan.defaults["betas"] == (0.5, 0.999)
    assert isinstance(wgan, torch.optim.RMSprop)
    assert wgan.defaults["momentum"] == 0
    assert isinstance(wgan_gp, torch.optim.Adam)
    assert wgan_gp.defaults["betas"] == (0.0, 0.9)


@pytest.mark.parametrize(
    ("name", "expected"), [("gan", GAN()), ("wgan", WGAN(clip=0.25)), ("wgan-gp", WGANGP(weight=3.0))]
)
def test_a_parameter_names_the_objective(name: str, expected: object) -> None:
    assert objective_of(name, clip=0.25, gradient_penalty=3.0) == expected
