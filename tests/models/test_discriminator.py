"""Laws of the discriminator: raw scores, mean states, evidence of every token, and the second derivative that a
gradient penalty needs."""

import itertools

import pytest
import torch
from torch import Tensor

from troupe.adversarial.objectives import WGANGP, gradient_penalty
from troupe.models.discriminator import LSTMDiscriminator, init_discriminator

T, F, GIVEN = 7, 3, 2


def critic(seed: int = 0) -> LSTMDiscriminator:
    model = LSTMDiscriminator(vocab_size=20, n_embd=6, n_hidden=8)
    init_discriminator(model, torch.Generator().manual_seed(seed))
    return model.double()


def reader(n_feature: int = F, n_given: int = GIVEN) -> LSTMDiscriminator:
    """A critic that has learned something of features, whatever it is."""
    model, rng = LSTMDiscriminator(20, 6, 8, n_feature, n_given).double(), torch.Generator().manual_seed(0)
    init_discriminator(model, rng)
    assert model.evidence is not None
    torch.nn.init.normal_(model.evidence.weight, generator=rng)
    return model


def ids(seed: int = 0) -> Tensor:
    return torch.randint(0, 20, (4, T), generator=torch.Generator().manual_seed(seed))


def features(n: int = 4, seed: int = 0, n_feature: int = F) -> Tensor:
    """features_NTF, neither centred nor of one unit."""
    z_NTF = torch.randn(n, T, n_feature, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z_NTF * torch.arange(1, n_feature + 1) + 5


def deaf(model: LSTMDiscriminator) -> LSTMDiscriminator:
    """The same, without what its LSTM says: evidence alone."""
    for parameter in model.head.parameters():
        torch.nn.init.zeros_(parameter)
    return model


def lstm_by_hand(model: LSTMDiscriminator, x_TD: Tensor) -> Tensor:
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


def evidence_by_hand(model: LSTMDiscriminator, features_TF: Tensor, n_given: int) -> float:
    """Sum over tokens of sum_i a_i z_i + sum_{i <= j} b_ij z_i z_j, in plain floats; the weights are a, then b."""
    assert model.evidence is not None
    centre, spread, total = model.centre_F.tolist(), model.spread_F.tolist(), 0.0
    for said in features_TF.tolist()[n_given:]:
        weights = iter(model.evidence.weight[0].tolist())
        z = [(value - c) / s for value, c, s in zip(said, centre, spread, strict=True)]
        for i in range(len(z)):
            total += next(weights) * z[i]
        for i in range(len(z)):
            for j in range(i, len(z)):
                total += next(weights) * z[i] * z[j]
        assert next(weights, None) is None
    return total


@pytest.mark.parametrize("standardised", [False, True])
def test_score_is_the_reading_of_the_mean_state_and_the_evidence_of_every_token(standardised: bool) -> None:
    model = reader()
    if standardised:
        model.standardise(features(9, seed=1))
    x_BTX = model.embed(ids(), features())
    evidence = [evidence_by_hand(model, said_TF, GIVEN) for said_TF in features()]
    evidence_B = torch.tensor(evidence, dtype=torch.float64)
    lstm_B = torch.stack([lstm_by_hand(model, x_TX) for x_TX in x_BTX])
    assert evidence_B.abs().min() > 0.1
    torch.testing.assert_close(model.score(x_BTX), lstm_B + evidence_B, atol=1e-9, rtol=0)
    torch.testing.assert_close(deaf(model).score(x_BTX), evidence_B, atol=1e-9, rtol=0)


def test_untrained_there_is_no_evidence() -> None:
    model = reader()
    init_discriminator(model, torch.Generator().manual_seed(0))
    assert not deaf(model).score(model.embed(ids(), features())).any()


@pytest.mark.parametrize("n_given", [None, 0, 4, T + 1])
def test_a_prefix_scores_as_the_text_that_ends_there(n_given: int | None) -> None:
    model = reader()
    x_BTX = model.embed(ids(), features())
    prefixes = [model.prefix_scores(x_BTX[:, : t + 1], n_given)[:, -1] for t in range(T)]
    torch.testing.assert_close(model.prefix_scores(x_BTX, n_given), torch.stack(prefixes, dim=1), atol=1e-12, rtol=0)
    torch.testing.assert_close(model.score(x_BTX), model.prefix_scores(x_BTX)[:, -1])


def test_what_is_given_is_no_evidence() -> None:
    model, one_BTF, other_BTF = deaf(reader()), features(), features(seed=1)
    given_BTF = torch.cat([other_BTF[:, :GIVEN], one_BTF[:, GIVEN:]], dim=1)
    told_BTF = torch.cat([one_BTF[:, : GIVEN + 1], other_BTF[:, GIVEN + 1 :]], dim=1)
    one_B, given_B, told_B = (model.score(model.embed(ids(), read)) for read in (one_BTF, given_BTF, told_BTF))
    assert given_B.equal(one_B)
    assert (told_B - one_B).abs().min() > 0.1
    assert not model.prefix_scores(model.embed(ids(), one_BTF))[:, :GIVEN].any()


def test_texts_with_one_beginning_differ_by_the_same_however_much_of_it_is_given() -> None:
    """Of 7 tokens the first 4 are the same in both."""
    model, ids_BT = reader(), ids()
    both = []
    for seed in (1, 2):
        told_BTF = torch.cat([features()[:, :4], features(seed=seed)[:, 4:]], dim=1)
        both.append(model.embed(torch.cat([ids_BT[:, :4], ids(seed)[:, 4:]], dim=1), told_BTF))
    one, *others = [(model.prefix_scores(both[0], n) - model.prefix_scores(both[1], n))[:, -1] for n in range(6)]
    for n, other in enumerate(others, start=1):
        assert torch.allclose(one, other, atol=1e-9) == (n <= 4)


def test_standardised_features_of_what_is_told_have_mean_0_and_deviation_1() -> None:
    model, features_NTF = reader(), features(200)
    features_NTF[:, :GIVEN] += 50  # a prompt's do not count
    model.standardise(features_NTF)
    z_MF = model.embed(torch.zeros(200, T, dtype=torch.long), features_NTF)[:, GIVEN:, 6:].flatten(0, 1)
    torch.testing.assert_close(z_MF.mean(0), torch.zeros(F).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(z_MF.std(0), torch.ones(F).double(), atol=1e-9, rtol=0)


def test_a_feature_that_says_nothing_is_no_division_by_nothing() -> None:
    model, features_NTF = reader(), features()
    features_NTF[..., 1] = 4.0
    model.standardise(features_NTF)
    assert model.embed(ids(), features_NTF).isfinite().all()
    assert not model.embed(ids(), features_NTF)[..., 6 + 1].any()


def test_in_what_unit_a_reference_speaks_makes_no_difference() -> None:
    one, other = reader(), reader()
    bits_NTF = features() / torch.tensor(2.0).log().double() - 3
    one.standardise(features())
    other.standardise(bits_NTF)
    torch.testing.assert_close(
        one.score(one.embed(ids(), features())), other.score(other.embed(ids(), bits_NTF)), atol=1e-9, rtol=0
    )


def functions(said_NTF: Tensor) -> Tensor:
    """(N, P): what each weight alone makes of texts, all tokens told."""
    model = deaf(reader(said_NTF.size(-1), n_given=0))
    assert model.evidence is not None
    found = []
    for one_P in torch.eye(model.evidence.in_features, dtype=torch.float64):
        with torch.no_grad():
            model.evidence.weight.copy_(one_P)
        found.append(model.score(model.embed(torch.zeros(said_NTF.shape[:2], dtype=torch.long), said_NTF)))
    return torch.stack(found, dim=1).detach()


def test_two_references_that_say_the_same_tell_no_more_than_one() -> None:
    """Of 3 features there are 3 + 6 functions, of 6 there are 27: that many only if the references differ."""
    one, other = features(60), features(60, seed=1)
    rank = [int(torch.linalg.matrix_rank(functions(said))) for said in (one, one.repeat(1, 1, 2))]
    assert rank == [9, 9]
    assert torch.linalg.matrix_rank(functions(torch.cat([one, other], dim=-1))) == 27


def test_without_features_the_model_reads_tokens_alone() -> None:
    model = critic()
    assert model.embed(ids(), torch.empty(4, T, 0)).equal(model.embed(ids()))
    assert model.score(model.embed(ids())).equal(model.prefix_scores(model.embed(ids()), 0)[:, -1])


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


@pytest.mark.parametrize("learning", [True, False])
def test_the_switch_of_the_whole_process_is_turned_by_those_alone_who_learn(learning: bool) -> None:
    """Off while a critic learns, afterwards as before; where it only reads, in threads, never touched."""
    model, seen = critic(), []
    model.lstm.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.enabled))
    assert torch.backends.cudnn.enabled
    with torch.set_grad_enabled(learning):
        model.score(model.embed(ids()))
    assert seen == [not learning]
    assert torch.backends.cudnn.enabled


def test_gradients_agree_with_finite_differences() -> None:
    model = critic()
    embeddings = model.embed(ids()).detach().requires_grad_()
    assert torch.autograd.gradcheck(model.score, (embeddings,))
    assert torch.autograd.gradgradcheck(model.score, (embeddings[:1, :3],))


def test_gradients_of_evidence_agree_with_finite_differences() -> None:
    model = reader()
    model.standardise(features(9, seed=1))
    x_BTX = model.embed(ids(), features()).detach().requires_grad_()
    assert torch.autograd.gradcheck(model.score, (x_BTX,))
    assert torch.autograd.gradgradcheck(model.score, (x_BTX[:1, :3],))


def penalty(model: LSTMDiscriminator, real: Tensor, fake: Tensor) -> Tensor:
    return gradient_penalty(model.score, real, fake, torch.Generator().manual_seed(0))


def two_classes(model: LSTMDiscriminator) -> list[Tensor]:
    return [model.embed(ids(seed)[:2], features(2, seed)) for seed in (0, 1)]


def test_the_penalty_is_on_the_slope_in_features_too_as_finite_differences_find_it() -> None:
    """One epsilon for embeddings and features of a sequence; the slope from differences of 2e-5 in each coordinate."""
    model = reader()
    real, fake = (x_BTX.detach() for x_BTX in two_classes(model))
    epsilon_B11 = torch.rand(2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).reshape(-1, 1, 1)
    between = fake + epsilon_B11 * (real - fake)
    slopes = torch.zeros_like(between)
    for place in itertools.product(range(T), range(6 + F)):
        step = torch.zeros_like(between)
        step[:, *place] = 1e-5
        slopes[:, *place] = (model.score(between + step) - model.score(between - step)) / 2e-5
    expected = ((slopes.flatten(1).norm(dim=1) - 1) ** 2).mean()
    torch.testing.assert_close(penalty(model, real, fake), expected, atol=0, rtol=1e-6)
    assert slopes[..., 6:].norm() > 0.01  # features have their part in it


def test_a_critic_cannot_evade_the_penalty_by_growing_what_it_learned_of_features() -> None:
    """Evidence is weighed after the point where the slope is taken: ten times as heavy, it is seen. What WGAN-GP holds
    within a norm of 1 is the embedding, which comes before; evidence is left to the penalty."""
    model = reader()
    assert model.evidence is not None
    before = penalty(model, *two_classes(model))
    with torch.no_grad():
        model.evidence.weight.mul_(10)
        model.embedding.weight.mul_(100)
    grown, fixed = model.evidence.weight.clone(), model.embed(ids(), features())[..., 6:]
    assert fixed.equal(features())
    WGANGP(10.0).constrain(model)
    assert model.embedding.weight.norm(dim=1).max() <= 1 + 1e-6
    assert model.evidence.weight.equal(grown)
    assert penalty(model, *two_classes(model)) > 50 * before


def test_the_penalty_trains_evidence() -> None:
    model = reader()
    penalty(model, *two_classes(model)).backward()
    assert model.evidence is not None
    assert model.evidence.weight.grad is not None
    assert (model.evidence.weight.grad != 0).all()


def test_another_of_the_same_shape_is_built_from_its_dimensions() -> None:
    model = reader()
    other = LSTMDiscriminator(*model.embedding.weight.shape, model.lstm.hidden_size, F, model.n_given).double()
    other.load_state_dict(model.state_dict())
    assert other.n_given == GIVEN
    assert other.score(other.embed(ids(), features())).equal(model.score(model.embed(ids(), features())))


def test_the_seed_decides_every_weight() -> None:
    torch.manual_seed(1)
    first = dict(critic(3).named_parameters())
    torch.manual_seed(2)
    again, other = dict(critic(3).named_parameters()), dict(critic(4).named_parameters())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(not torch.equal(first[name], other[name]) for name in first)
