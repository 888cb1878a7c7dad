"""The game teaches its players, is a function of its seed, resumes to the byte, and refuses a collapse."""

import copy
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.adversarial.games import NEAR, VOCAB, alone, bits_per_byte, new_game, new_model, with_experts
from troupe.adversarial.ddo import ddo_step
from troupe.adversarial.distil import distil_step
from troupe.adversarial.game import Bounds, Game
from troupe.adversarial.loop import Outcome, refine, update_critic
from troupe.adversarial.objectives import GAN
from troupe.adversarial.policy import update_generator
from troupe.adversarial.reinforce import LITERAL, Reinforce
from troupe.errors import Interrupted, TroupeError
from troupe.training.checkpoint import Checkpoint, Checkpoints
from troupe.training.loop import RunContext


class Run:
    """One game with everything that it handed out."""

    def __init__(self, changes: str = "", seed: int = 0, rules: Reinforce = NEAR, **more: Any) -> None:
        self.game = more.pop("game", None) or new_game(changes, seed, rules, **more)
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.saved: list[Checkpoint] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.logged.append((step, dict(values)))

    def play(self, resume: Checkpoint | None = None, interrupted: Callable[[], int] = lambda: 0, **arm: Any) -> Outcome:
        keep = lambda checkpoint: self.saved.append(copy.deepcopy(checkpoint))  # noqa: E731
        context = RunContext(log=self.log, save=keep, resume=resume, interrupted=interrupted)
        return refine(self.game, bits_per_byte, context, **arm)

    @property
    def weights(self) -> list[torch.Tensor]:
        return list(self.game.generator.state_dict().values())


def same(a: Run, b: Run) -> bool:
    return all(x.equal(y) for x, y in zip(a.weights, b.weights, strict=True))


@pytest.mark.parametrize("objective", ["gan", "wgan", "wgan-gp"])
def test_the_discriminator_learns_to_tell_counting_from_noise(objective: str) -> None:
    """The text counts, an untrained generator does not: on held-out text most pairs are ranked right."""
    outcome = Run(f"objective={objective} warmup_critic=120 steps=1 clip=0.5").play()
    assert (outcome.start.auc or 0) > 0.9
    assert (outcome.start.gap or 0) > 0


def test_the_generator_moves_towards_what_is_rewarded() -> None:
    """With a critic that likes nothing but token 3, the generator comes to write it; the prompts stay real."""
    game = new_game("learning_rate=1e-2 batch_size=32", rules=Reinforce())
    with torch.no_grad():
        game.against.critic.embedding.weight.zero_()
        game.against.critic.embedding.weight[3] = 1
    game.against.critic.score = lambda x_BTD: x_BTD.mean((1, 2))  # type: ignore[method-assign]
    share = [(game.fake(game.real(draw), draw)[:, 2:] == 3).double().mean().item() for draw in (0, 1)]
    rewards = [update_generator(game, draw)["reward/mean"] for draw in range(40)]
    assert max(share) < 0.3
    assert rewards[-1] > 3 * rewards[0]
    written = game.fake(game.real(0), "after")
    assert written[:, :2].equal(game.real(0)[:, :2])
    assert (written[:, 2:] == 3).double().mean() > 0.8


def test_a_generator_update_leaves_the_discriminator_alone_and_the_other_way_round() -> None:
    game = new_game()
    players = {"generator": game.generator, "critic": game.against.critic, "start": game.start}
    before = {name: copy.deepcopy(player.state_dict()) for name, player in players.items()}
    changed = lambda: {n for n, p in players.items() for k, w in p.state_dict().items() if not w.equal(before[n][k])}  # noqa: E731
    update_critic(game, 0)
    assert changed() == {"critic"}
    before["critic"] = copy.deepcopy(game.against.critic.state_dict())
    update_generator(game, 1)
    assert changed() == {"generator"}


def test_a_strong_pull_keeps_the_generator_near_the_start() -> None:
    free, held = (Run("steps=20 learning_rate=1e-2", rules=Reinforce(kl_weight=weight)) for weight in (0.0, 10.0))
    free.play()
    held.play()
    assert held.logged[-1][1]["generator/kl"] < 0.1 * free.logged[-1][1]["generator/kl"]


def test_every_step_is_logged_and_looks_say_more() -> None:
    run = Run()
    run.play()
    looks = {"val/bpb", "val/distinct_2", "val/kl", "critic/auc", "critic/gap"}
    updates = {
        "critic/loss",
        "reward/mean",
        "generator/kl",
        "generator/entropy",
        "generator/grad_norm",
        "generator/step_share",
    }
    assert [step for step, _ in run.logged] == [0, 1, 2, 3, 4, 5, 6]
    assert [set(values) for _, values in run.logged] == [looks, *[updates, updates | looks] * 3]
    assert run.logged[1][1]["generator/kl"] == 0  # scored before the first update: still the model it started from
    assert run.logged[1][1]["generator/entropy"] == pytest.approx(
        math.log(VOCAB) - 0.15, abs=0.1
    )  # nothing learned yet


def test_two_games_of_one_seed_are_the_same_to_the_bit_and_of_two_seeds_are_not() -> None:
    first, second, other = Run(), Run(), Run(seed=1)
    for run in (first, second, other):
        run.play()
        torch.rand(3)  # the global random state is not used
    assert same(first, second)
    assert first.logged == second.logged
    assert not same(first, other)


def test_asked_to_stop_it_saves_and_goes_on_to_the_same_end() -> None:
    """Asked three times while the discriminator warms up, once after each step: the third step is the last."""
    straight, stopped, resumed = Run(), Run(), Run()
    outcome, heard = straight.play(), iter([0, 0, 0, 0, 0, 15])
    with pytest.raises(Interrupted, match="SIGTERM after step 3 of 6"):
        stopped.play(interrupted=lambda: next(heard))
    assert [checkpoint.step for checkpoint in stopped.saved] == [2, 3]
    assert resumed.play(stopped.saved[-1]) == outcome
    assert same(straight, resumed)


def test_asked_to_stop_before_the_game_it_begins_anew() -> None:
    run = Run()
    with pytest.raises(Interrupted, match="SIGINT after step 0 of 6"):
        run.play(interrupted=lambda: 2)
    assert not run.saved


@pytest.mark.parametrize("objective", ["gan", "wgan", "wgan-gp"])
@pytest.mark.parametrize("which", [0, 1])
def test_resumed_from_any_checkpoint_it_ends_the_same(objective: str, which: int) -> None:
    straight, resumed = Run(f"objective={objective}"), Run(f"objective={objective}")
    outcome = straight.play()
    assert resumed.play(straight.saved[which]) == outcome
    assert same(straight, resumed)
    assert resumed.logged == straight.logged[2 * (which + 1) + 1 :]


EVERYTHING = Reinforce(per_token=True, kl_weight=0.1, kl_cap=0.05, likelihood_every=2)


@pytest.mark.parametrize("rules", [LITERAL, EVERYTHING])
def test_under_all_rules_it_resumes_from_a_file_to_the_same_end(rules: Reinforce, tmp_path: Path) -> None:
    straight, resumed = Run(rules=rules), Run(rules=rules)
    outcome, files = straight.play(), Checkpoints(tmp_path, None)
    files.save(straight.saved[0])
    assert resumed.play(files.newest()) == outcome
    assert same(straight, resumed)
    assert not same(straight, Run(rules=rules))  # it has learned


def test_a_collapse_stops_the_game_and_the_generator_before_it_is_kept() -> None:
    """A rate this high wrecks the generator at once: what is kept is the start, to the bit, and the reason is given."""
    run = Run("learning_rate=1 max_bpb_rise=0.01", rules=Reinforce())
    outcome = run.play()
    assert outcome.fault is not None
    assert outcome.fault.startswith("val/bpb is")
    assert outcome.kept == outcome.start
    assert all(x.equal(y) for x, y in zip(run.weights, run.game.start.state_dict().values(), strict=True))
    assert run.logged[-1][0] == 2  # the first look


def test_of_several_good_looks_the_last_is_kept() -> None:
    outcome = Run("steps=5").play()
    assert outcome.fault is None
    assert outcome.kept.step == 5  # the end is always looked at


class NoReward(GAN):
    def reward(self, score_B: torch.Tensor) -> torch.Tensor:
        return score_B * math.nan


def test_without_a_signal_the_game_is_not_played() -> None:
    """Three updates do not make a discriminator that is sure to tell nine in ten; the start is kept, to the bit."""
    run = Run(bounds=Bounds(max_bpb_rise=10, min_distinct=0, min_auc=0.9))
    outcome = run.play()
    assert outcome.fault is not None
    assert outcome.fault.startswith("no signal: critic/auc is")
    assert [step for step, _ in run.logged] == [0]
    assert all(x.equal(y) for x, y in zip(run.weights, run.game.start.state_dict().values(), strict=True))


def test_how_a_generators_experts_are_used_is_logged_at_looks() -> None:
    run = Run(start=with_experts())
    run.play()
    effective = [values["moe/effective_experts"] for _, values in run.logged if "moe/effective_experts" in values]
    assert len(effective) == 4
    assert all(1 < count <= 4 for count in effective)


def test_distillation_plays_the_same_game_and_resumes_as_it_does() -> None:
    learn: Callable[[Game, int], dict[str, float]] = partial(distil_step, candidates=3)
    straight, resumed = Run(), Run()
    outcome = straight.play(learn=learn)
    assert resumed.play(straight.saved[0], learn=learn) == outcome
    assert same(straight, resumed)
    assert outcome.kept.kl > 0


def test_a_generator_that_is_its_own_discriminator_plays_without_one_and_resumes() -> None:
    straight, resumed, learn = Run(game=alone()), Run(game=alone()), partial(ddo_step, start=new_model())
    outcome = straight.play(learn=learn)
    assert resumed.play(straight.saved[0], learn=learn) == outcome
    assert same(straight, resumed)
    assert outcome.kept.kl > 0
    assert outcome.start.auc is None
    assert all("critic" not in name for _, values in straight.logged for name in values)


def test_a_gradient_that_is_not_finite_stops_the_game() -> None:
    run = Run()
    run.game.against.objective = NoReward()
    outcome = run.play()
    assert outcome.fault == "the generator's gradient is not finite at step 1"
    assert outcome.kept == outcome.start
    assert all(weight.isfinite().all() for weight in run.weights)


def test_a_discriminator_that_diverges_in_its_warm_up_names_its_rate() -> None:
    run = Run()
    with torch.no_grad():
        run.game.against.critic.head.bias.fill_(math.nan)
    with pytest.raises(TroupeError, match="lower its learning_rate"):
        run.play()
