"""Laws of the discriminator: raw scores, mean states, and the second derivative that a gradient penalty needs."""

import torch

from troupe.models.discriminator import LSTMDiscriminator, init_discriminator


def critic(seed: int = 0) -> LSTMDiscriminator:
    model = LSTMDiscriminator(vocab_size=20, n_embd=6, n_hidden=8)
    init_discriminator(model, torch.Generator().manual_seed(seed))
    return model.double()


def ids() -> torch.Tensor:
    return torch.randint(0, 20, (4, 7), generator=torch.Generator().manual_seed(0))


def lstm_by_hand(model: LSTMDiscriminator, x_TD: torch.Tensor) -> torch.Tensor:
    """The score of one sequence from the LSTM's equations, step by step."""
    weights = model.lstm.weight_ih_l0, model.lstm.weight_hh_l0
    bias = model.lstm.bias_ih_l0 + model.lstm.bias_hh_l0
    h, c, states = torch.zeros(8).double(), torch.zeros(8).double(), []
    for x in x_TD:
        i, f, g, o = (weights[0] @ x + weights[1] @ h + bias).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        states.append(h)
    return (model.head.weight @ torch.stack(states).mean(0) + model.head.bias).squeeze()


def test_score_is_the_linear_reading_of_the_mean_state() -> None:
    model = critic()
    embeddings = model.embed(ids())
    expected = torch.stack([lstm_by_hand(model, x_TD) for x_TD in embeddings])
    torch.testing.assert_close(model.score(embeddings), expected, atol=1e-12, rtol=0)


def test_scores_are_unbounded() -> None:
    model = critic()
    with torch.no_grad():
        model.head.bias.fill_(100.0)
    assert (model.score(model.embed(ids())) > 50).all()


def test_the_gradient_penalty_has_gradients() -> None:
    model = critic()
    embeddings = model.embed(ids()).detach().requires_grad_()
    (slope,) = torch.autograd.grad(model.score(embeddings).sum(), embeddings, create_graph=True)
    slope.square().sum().backward()
    assert model.lstm.weight_hh_l0.grad is not None
    assert model.lstm.weight_hh_l0.grad.abs().sum() > 0


def test_gradients_agree_with_finite_differences() -> None:
    model = critic()
    embeddings = model.embed(ids()).detach().requires_grad_()
    assert torch.autograd.gradcheck(model.score, (embeddings,))
    assert torch.autograd.gradgradcheck(model.score, (embeddings[:1, :3],))


def test_the_seed_decides_every_weight() -> None:
    torch.manual_seed(1)
    first = critic(3).state_dict()
    torch.manual_seed(2)
    again, other = critic(3).state_dict(), critic(4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(not torch.equal(first[name], other[name]) for name in first)
