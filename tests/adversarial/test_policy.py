"""A step of the generator: where it may go, what it learns from, and what is left alone."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from tests.adversarial.games import new_game, new_model
from troupe.adversarial.game import Game
from troupe.adversarial.loop import update_critic
from troupe.adversarial.policy import kl_to_start, likelihood_step, rewards, scale_back, update_generator
from troupe.adversarial.reinforce import LITERAL, Reinforce

FAST = "learning_rate=1e-2"


def weights(game: Game) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in game.generator.parameters()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(a.equal(b) for a, b in zip(one, other, strict=True))


def test_no_step_passes_the_cap() -> None:
    """After every step the KL on its own samples is within the cap, and it comes near; without a cap it goes past."""
    capped, free = new_game(FAST, rules=Reinforce(kl_cap=0.02)), new_game(FAST, rules=Reinforce())
    shares = []
    for draw in range(12):
        before = weights(capped)
        samples_BT = capped.fake(capped.real(draw), draw)
        share = update_generator(capped, draw)["generator/step_share"]
        assert kl_to_start(capped, samples_BT) <= 0.02 or share == 0
        assert (share == 0) == same(before, weights(capped))
        shares.append(share)
        update_generator(free, draw)
    assert 0 < shares[0] < 1  # a rate this high would pass it at once
    assert kl_to_start(capped, samples_BT) > 0.005
    assert kl_to_start(free, samples_BT) > 0.1


@pytest.mark.parametrize(("limit", "share"), [(8.0, 1.0), (4.5, 0.5), (4.0, 0.25), (1.9, 0.125), (1.8, 0.0)])
def test_a_step_is_scaled_back_by_halves_or_not_taken(limit: float, share: float) -> None:
    """From 1 to 8: half of the way is 4.5, a quarter 2.75, an eighth 1.875."""
    layer = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(8)
    assert scale_back(layer, [torch.ones(1, 1)], lambda: layer.weight.item() <= limit) == share
    assert layer.weight.item() == 1 + 7 * share


def test_a_step_to_nowhere_is_not_taken() -> None:
    """Weights that are not finite have no KL within any cap."""
    layer = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(math.nan)
    assert scale_back(layer, [torch.ones(1, 1)], lambda: layer.weight.item() <= 5) == 0
    assert layer.weight.item() == 1


def test_likelihood_steps_learn_the_text() -> None:
    game = new_game(FAST)
    losses = [likelihood_step(game, draw)["generator/likelihood_loss"] for draw in range(60)]
    assert losses[0] == pytest.approx(math.log(8), abs=0.4)
    assert losses[-1] < 0.2  # counting is certain


def test_the_reward_of_the_whole_text_is_that_of_its_last_prefix() -> None:
    """The critic's, through the objective: log D; the literal one: D."""
    by_token, whole, literal = (new_game(rules=rules) for rules in (Reinforce(per_token=True), Reinforce(), LITERAL))
    ids_BT = whole.real(0)
    reward_BP = rewards(by_token, ids_BT)
    assert reward_BP.shape == (8, 7)
    torch.testing.assert_close(reward_BP[:, -1:], rewards(whole, ids_BT))
    torch.testing.assert_close(rewards(whole, ids_BT).exp(), rewards(literal, ids_BT))


@pytest.mark.parametrize("objective", ["gan", "wgan", "wgan-gp"])
def test_trained_on_prefixes_it_can_tell_from_few_tokens(objective: str) -> None:
    """The text counts: two written tokens give most of noise away, under each of the three objectives."""
    game = new_game(f"objective={objective} clip=0.5 batch_size=32", rules=Reinforce(per_token=True))
    for draw in range(100):
        update_critic(game, draw)
    real_BT = game.held_out_BT
    real_BP, fake_BP = game.prefix_scores(real_BT), game.prefix_scores(game.fake(real_BT, "test"))
    assert real_BP[:, 0].equal(fake_BP[:, 0])  # the prompts are the same
    for n_tokens in (2, 6):
        gap = real_BP[:, n_tokens].mean() - fake_BP[:, n_tokens].mean()
        assert gap > 1.5 * fake_BP[:, n_tokens].std() / math.sqrt(len(real_BT))
        assert (real_BP[:, n_tokens, None] > fake_BP[:, n_tokens]).double().mean() > 0.75


def test_a_discriminator_with_references_reads_features_and_leaves_the_references_alone() -> None:
    references = new_model(seed=5), new_model(seed=6)
    before = copy.deepcopy([reference.state_dict() for reference in references])
    game = new_game(rules=replace(LITERAL, per_token=True), references=references)
    update_critic(game, 0)
    update_generator(game, 1)
    assert game.read(game.real(0)).features_NTF.shape == (8, 8, 2 * 3)
    for reference, weights in zip(references, before, strict=True):
        assert all(weight.equal(weights[name]) for name, weight in reference.state_dict().items())
        assert all(parameter.grad is None for parameter in reference.parameters())


def test_a_new_discriminator_reads_features_in_units_of_real_text() -> None:
    game = new_game(references=(new_model(seed=5), new_model(seed=6)))
    z_MF = game.against.critic.embed(*game.read(game.real(0)))[:, game.params.prompt_length :, 8:].flatten(0, 1)
    torch.testing.assert_close(z_MF.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(z_MF.std(0), torch.ones(6), atol=1e-4, rtol=0)


def test_what_a_prompt_says_is_no_evidence_in_a_game() -> None:
    """Only what follows it is weighed: with a critic that is evidence alone, a prompt by itself scores 0."""
    game = new_game(references=(new_model(seed=5),))
    assert game.against.critic.n_given == game.params.prompt_length == 2
    assert game.against.critic.evidence is not None
    with torch.no_grad():
        game.against.critic.evidence.weight.fill_(0.1)
        game.against.critic.head.weight.zero_()
        game.against.critic.head.bias.zero_()
    scores_BS = game.prefix_scores(game.real(0))
    assert not scores_BS[:, 0].any()
    assert scores_BS[:, 1:].all()
    torch.testing.assert_close(scores_BS[:, -1], game.scores(game.real(0)))
