"""The oracle study: its model and measures against enumeration, the game, and the page from made-up figures."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from studies.core.command import STUDIES
from studies.core.configuration import read_configuration
from studies.core.jobs import Figures, Job
from studies.core.page import styled
from studies.core.statistics import Results
from studies.oracle import __main__ as oracle
from studies.oracle.arms import fit, new_world, run_task, the_oracle
from studies.oracle.game import Game, as_read, discriminator_aucs, play, prefix_rewards, update_critic, update_generator
from studies.oracle.model import LSTMLanguageModel, make_generator, nll
from studies.oracle.page import sections
from studies.oracle.plots import draw
from studies.oracle.settings import LIKELIHOOD, GameTask, Settings, Task
from troupe.errors import ParamsError

CONFIG = STUDIES / "oracle" / "oracle.yaml"


@pytest.fixture(scope="module")
def settings() -> Settings:
    return read_configuration(CONFIG, Settings, quick=True)


@pytest.fixture(scope="module")
def likelihood(settings: Settings) -> Task:
    return settings.task(LIKELIHOOD)


def a_game(settings: Settings, arm: str = "gan", seed: int = 0, **changed: Any) -> Game:
    task = settings.task(arm)
    assert isinstance(task, GameTask)
    task = task.model_copy(update={"arm": task.arm.model_copy(update=changed)})
    model = make_generator(task.oracle.vocab_size, task.oracle.width, torch.Generator().manual_seed(seed))
    return Game(model, new_world(task, seed).train_NT, task, seed)


def test_a_configuration_that_is_wrong_is_told_in_one_line(tmp_path: Path) -> None:
    wrong = tmp_path / "oracle.yaml"
    wrong.write_text(CONFIG.read_text().replace("[0.3, 0.4,", "[0.4, 0.3,"))
    with pytest.raises(ParamsError, match=r"oracle\.yaml:21: measured: temperatures must rise, with 1\.0 among them"):
        read_configuration(wrong, Settings, quick=False)
    wrong.write_text(CONFIG.read_text().replace("  gan: {reward", "  likelihood: {reward"))
    with pytest.raises(ParamsError, match="'likelihood' is the arm that the others start from"):
        read_configuration(wrong, Settings, quick=False)


def test_an_arm_starts_from_the_likelihood_model_of_its_seed(settings: Settings) -> None:
    jobs = [job for of_arm in oracle.plan(settings, seeds=3).values() for job in of_arm]
    assert [job.arm for job in jobs] == [LIKELIHOOD] * 3 + [arm for arm in settings.arms for _ in range(3)]
    assert len({job.key("code") for job in jobs}) == len(jobs)
    for job in jobs[3:]:
        assert job.needs is not None
        assert (job.needs.arm, job.needs.seed) == (LIKELIHOOD, job.seed)


def test_one_oracle_for_all_seeds_and_other_sequences(likelihood: Task) -> None:
    one, again, other = (new_world(likelihood, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one[1:], again[1:], strict=True))
    assert not torch.equal(one.train_NT, other.train_NT)
    assert not torch.equal(one.validation_NT, one.test_NT)
    states = [world.oracle.state_dict() for world in (one, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_likelihood_training_learns_and_keeps_the_best_epoch(likelihood: Task) -> None:
    """At a rate of 0.1 the 128 sequences are soon overfitted: it must stop, and go back to the best."""
    world = new_world(likelihood, 0)
    params = likelihood.likelihood.model_copy(update={"epochs": 30, "learning_rate": 0.1})
    model = make_generator(likelihood.oracle.vocab_size, likelihood.oracle.width, torch.Generator().manual_seed(0))
    before = nll(model, world.validation_NT)
    seen = fit(model, world, params, torch.Generator().manual_seed(0))
    assert len(seen) < 30
    assert seen[-1] >= seen[-2]
    assert nll(model, world.validation_NT) == min(seen) < before - 0.1


def test_jobs_repeat_and_differ_by_seed(settings: Settings, tmp_path: Path) -> None:
    found = {}
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        folder = tmp_path / name
        folder.mkdir()
        begun = Job(LIKELIHOOD, seed, settings.task(LIKELIHOOD).model_dump())
        arm = Job("gan", seed, settings.task("gan").model_dump(), begun)
        found[name] = run_task(begun, folder, None), run_task(arm, folder, folder)
    assert found["one"] == found["again"]
    assert found["one"] != found["other"]
    begun, arm = found["one"]
    first = arm["looks"][0]
    assert [look["step"] for look in arm["looks"]] == [0, 1, 2]
    at_one = next(point for point in begun["curve"] if point["temperature"] == 1.0)
    assert first["nll_test"] == pytest.approx(at_one["nll_test"])  # it starts from the likelihood model's weights
    assert [point["temperature"] for point in arm["curve"]] == settings.measured.temperatures


def test_the_generator_goes_where_the_reward_is(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A discriminator that counts the sevens: their share rises from that of a bad guess to nearly all."""
    game = a_game(settings, learning_rate=0.05, batch_size=64)
    monkeypatch.setattr(game.critic, "embed", lambda ids_BT, features_BTF: ids_BT)
    monkeypatch.setattr(game.critic, "prefix_scores", lambda ids_BT: (ids_BT == 7).cumsum(1).float() - 2)
    before = (game.write() == 7).float().mean()
    for _ in range(40):
        update_generator(game)
    assert before < 0.1
    assert (game.write()[:, 1:] == 7).float().mean() > 0.9


def test_rewards_of_prefixes(settings: Settings) -> None:
    """ln D of the objective, or D itself, as SeqGAN's."""
    for arm, of_score in (("gan", torch.nn.functional.logsigmoid), ("seqgan", torch.sigmoid)):
        game = a_game(settings, arm)
        ids_BT = game.write()
        score_BT = game.critic.prefix_scores(game.critic.embed(ids_BT))
        torch.testing.assert_close(prefix_rewards(game, ids_BT), of_score(score_BT))
        assert ids_BT.shape == (16, settings.oracle.length + 1)


def test_the_discriminator_learns_what_is_real(settings: Settings) -> None:
    """Real sequences are all threes: held-out ones are told from what the generator writes, too."""
    game = a_game(settings)
    threes_NT = torch.full_like(game.real.ids_NT, 3)
    threes_NT[:, 0] = 0
    game.real = as_read(threes_NT)
    for _ in range(200):
        update_critic(game)
    assert discriminator_aucs(game, threes_NT[:32], game.write())["auc_held_out"] > 0.95


def test_looks_at_the_start_and_evenly_spaced(settings: Settings) -> None:
    assert list(play(a_game(settings, steps=7, looks=3))) == [0, 2, 4, 6]


def made_up(settings: Settings, gap: float) -> Results:
    """Curves of one shape, the arms' NLL_oracle `gap` higher or lower, a little different from seed to seed."""

    def points(seed: int, more: float) -> list[Figures]:
        heights = {0.5: (4.0, 8.0), 1.0: (6.0, 7.0), 1.5: (7.0, 7.2)}
        return [
            {"temperature": t, "nll_oracle": o + more + 0.01 * seed, "nll_test": test}
            for t, (o, test) in heights.items()
        ]

    look = {"nll_oracle": 6.0, "nll_test": 7.0, "auc_held_out": 0.5, "auc_train": 0.9}
    arms = {
        arm: [
            {"looks": [{"step": 0, **look}, {"step": 2, **look}], "curve": points(seed, gap * (1 + seed / 10))}
            for seed in range(3)
        ]
        for arm in settings.arms
    }
    begun = [{"floor": 3.0 + seed, "validation": [7.0], "curve": points(seed, 0.0)} for seed in range(3)]
    return {LIKELIHOOD: begun, **arms}


@pytest.mark.parametrize(
    ("gap", "verdict"), [(-0.2, "moves the curve"), (0.2, "falls behind the curve"), (0.0, "no better curve shown")]
)
def test_the_page_says_what_the_figures_say(settings: Settings, gap: float, verdict: str) -> None:
    page = "\n".join(sections("oracle", settings, made_up(settings, gap)))
    assert f"- **gan {verdict}**: gap {gap * 1.1:+.3f} ± " in page
    assert "| the oracle's own sequences | 4.000 ± 2.484 |" in page
    assert "at 0.5 the likelihood model's NLL_oracle is 4.01, that of the oracle's own sequences 4.00;" in page
    assert "| RelGAN (RelGAN, length 20, as quoted to its author in issue 22 of" in page
    assert "for 2 of 2 arms the interval at the end does not lie above 0.5" in page


def test_a_published_number_is_reached_by_a_temperature(settings: Settings) -> None:
    """6.68 lies 0.67 of the way from NLL_oracle 6.01 (temperature 1) to 7.01 (1.5), seeds differing by 0.01."""
    page = "\n".join(sections("oracle", settings, made_up(settings, 0.0)))
    assert "| 6.680 | 1.33 ± 0.01 | 7.13 ± 0.00 |" in page
    assert "| 9.038 | not between the temperatures measured |  |" in page


def test_the_figure_shows_both_oracles(settings: Settings) -> None:
    with styled():
        figure = draw(settings, made_up(settings, 0.1))
    ours, published = figure.axes
    assert {line.get_label() for line in ours.get_lines()} >= {"likelihood", "gan", "seqgan"}
    assert {line.get_label() for line in published.get_lines()} >= set(settings.published.curves)


def test_the_command_writes_page_figure_and_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real jobs, in this process: that jobs run in others is for test_jobs.py to say."""

    def in_turn(study: str, body: Any, jobs: list[Job], *_: Any) -> dict[Job, Figures]:
        folders = {job: tmp_path / f"{job.arm}-{job.seed}" for job in jobs}
        for folder in folders.values():
            folder.mkdir()
        return {job: run_task(job, folders[job], folders[job.needs] if job.needs else None) for job in jobs}

    monkeypatch.setattr(oracle, "run_jobs", in_turn)
    monkeypatch.setattr(sys, "argv", ["oracle", "--quick", "--out", str(tmp_path), "--work", str(tmp_path)])
    oracle.main()
    page = (tmp_path / "oracle.md").read_text()
    for title in ("Does adversarial training move the curve?", "The curves", "What one number hides", "Chosen by hand"):
        assert f"## {title}" in page
    assert len((tmp_path / "oracle.jsonl").read_text().splitlines()) == 6
    assert "published, on SeqGAN" in (tmp_path / "oracle.svg").read_text()


def test_the_oracle_has_seqgans_shape() -> None:
    task = read_configuration(CONFIG, Settings, quick=False).task(LIKELIHOOD)
    model = the_oracle(task)
    assert isinstance(model, LSTMLanguageModel)
    assert model.embedding.weight.shape == (5000, 32)
    assert model.lstm.hidden_size == 32
    assert (task.oracle.length, task.data.train) == (20, 10_000)
