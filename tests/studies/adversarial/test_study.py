"""The study of adversarial refinement: what it cuts, counts and concludes, by hand, and all of it at tiny size."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from studies.adversarial.__main__ import in_order, main, plan
from studies.adversarial.arms import Learned, first_folder, load, looks, run_arm, save
from studies.adversarial.costs import Costs, continued_steps
from studies.adversarial.measures import Bench, Writer
from studies.adversarial.page import accuracies, has_curve, points, tilts
from studies.adversarial.settings import GAMES, TILTS, Arm, Settings
from studies.adversarial.text import ROLES, TextParams, load_text
from studies.adversarial.tilt import tilt_by_ddo, tilt_by_likelihood, untilted
from studies.adversarial.verdict import promoted, stretch, verdict
from studies.adversarial.world import VERDICT, World
from studies.core.command import STUDIES
from studies.core.configuration import read_configuration
from studies.core.jobs import Job
from tests.studies.whole import run_study, shipped, write_text
from troupe.adversarial.discrimination import Interval, SignalTest
from troupe.adversarial.tilt import Round, Texts
from troupe.decoding import Decoding, generate
from troupe.errors import ParamsError
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.reader import Discriminator
from troupe.models.tilted import Tilted
from troupe.params import DdoParams, DistilParams, GanParams
from troupe.seeding import derive_seed, generator

SHIPPED = STUDIES / "adversarial" / "adversarial.yaml"
PATHS = sorted(SHIPPED.parent.glob("*.yaml"))
TAKEN = "distilled, resampling of 8"
TAKING = {"of": "resampling, distilled", "candidates": 8, "span": 8}
ARMS = ("likelihood", "likelihood, best temperature", "DDO", "resampling of 8")


def settings(quick: bool = False) -> Settings:
    return read_configuration(SHIPPED, Settings, quick)


def with_taken(quick: bool = False) -> Settings:
    """With an arm that takes over what another has learned."""
    read = settings(quick)
    return read.model_copy(update={"arms": {**read.arms, TAKEN: Arm.model_validate(TAKING)}})


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_configuration_has_every_arm_and_control(path: Path, quick: bool) -> None:
    read = read_configuration(path, Settings, quick)
    games = {name: read.game_of(arm) for name, arm in read.arms.items() if arm.learn == "reinforce"}
    assert {game.objective for game in games.values()} == {"gan", "wgan", "wgan-gp"}
    others = {"nothing", "likelihood", "temperature", "longer"}
    assert {arm.learn for arm in read.arms.values()} == others | {*GAMES, *TILTS}
    tilted = {(arm.of, arm.learn) for arm in read.arms.values() if arm.learn in TILTS}
    assert tilted == {(of, learn) for of in (None, "likelihood, longer") for learn in TILTS}
    assert sum(arm.literal for arm in read.arms.values()) == 1
    assert all(read.rules_of(arm).per_token != arm.literal for arm in read.arms.values())
    assert 1.0 not in read.temperatures  # the start itself
    assert 1.0 in read.curve


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("arms", "DDO", "rules"), {"bonus": 1}, r"arms\.DDO: .*bonus"),
        (("arms", "REINFORCE, gan", "rules"), {"reward": "probability"}, "REINFORCE, gan: rules: reward and normalise"),
        (("arms", "resampling, distilled", "distil_candidates"), 1, r"resampling, distilled: .*\n?candidates"),
        (("arms", "DDO", "game"), {"steps": 0}, r"arms\.DDO: .*\n?.*steps"),
        (("arms", "DDO", "of"), "likelihood", r"arms\.DDO: .*`of` writes otherwise"),
        (("arms", "longer, tilted by DDO", "of"), "tilted, DDO", "'tilted, DDO' is tilted already"),
        (("tilt", "order"), 1, "tilt.order: Input should be greater than or equal to 2"),
        (("arms", "resampling of 8", "of"), "nobody", "there is no arm 'nobody' that learns by itself"),
        (("arms", "resampling of 8", "of"), "REINFORCE, wgan", "are not odds"),
        (("game", "sequence_length"), 128, "a sequence of 152 tokens is longer than model.block_size, 128"),
        (("text", "cycle"), ["generator"], "no block is for 'reference'"),
        (("likelihood_arm",), "nobody", "likelihood_arm: there is no arm 'nobody'"),
    ],
)
def test_what_a_configuration_gets_wrong(tmp_path: Path, place: Sequence[str], value: object, said: str) -> None:
    tree = shipped("adversarial")
    *above, last = place
    section = tree
    for name in above:
        section = section[name]
    section[last] = value
    (tmp_path / "a.yaml").write_text(json.dumps(tree))
    with pytest.raises(ParamsError, match=said):
        read_configuration(tmp_path / "a.yaml", Settings, quick=False)


def test_the_parts_share_no_block(tmp_path: Path) -> None:
    """Blocks of 64 bytes, each of one letter: with a cycle of 6, letters 0, 3, 6, 9 ... by place in the cycle."""
    letters = "abcdefghijkl"
    (tmp_path / "text.txt").write_text("".join((letter * 63) + " " for letter in letters))
    cycle = ["generator", "real", "reference", "generator", "validation", "test"]
    params = TextParams.model_validate(
        {"source": str(tmp_path / "text.txt"), "block_bytes": 64, "bytes": None, "vocab_size": 257, "cycle": cycle}
    )
    text = load_text(params)
    found = {role: set(text.part[role]) - {" ", "\n"} for role in ROLES}
    expected = {"generator": "adgj", "real": "bh", "reference": "ci", "validation": "ek", "test": "fl"}
    assert found == {role: set(of_role) for role, of_role in expected.items()}
    for role in ROLES:
        assert text.tokenizer.decode(text.ids[role].tolist()) == text.part[role]
    begun = load_text(params.model_copy(update={"bytes": 6 * 64}))
    assert set(begun.part["test"]) - {" "} == {"f"}


def test_what_a_critic_costs_is_its_matrices() -> None:
    read = settings()
    critic = World(settings(quick=True), seed=1).discriminator.critic
    matrices = [w for name, w in critic.named_parameters() if w.dim() == 2 and not name.startswith("embedding")]
    assert Costs(settings(quick=True)).critic == sum(matrix.numel() for matrix in matrices)
    assert Costs(read).critic > Costs(settings(quick=True)).critic


def test_likelihood_training_gets_as_much_as_the_dearest_arm() -> None:
    read = with_taken()
    costs = Costs(read)
    per_step = costs.token_of_likelihood * read.likelihood.batch_size * read.model.block_size
    most = max(costs.arm(arm) for arm in read.arms.values())
    assert 0 <= continued_steps(read) * per_step - most < per_step
    distilled, once = read.arms["resampling, distilled"], read.arms["resampling, distilled"].model_copy
    assert most == costs.arm(distilled) == costs.arm(read.arms[TAKEN])
    tokens = read.game.batch_size * (read.game.prompt_length + read.game.sequence_length) * read.game.steps
    one_more = costs.arm(once(update={"distil_candidates": 9})) - costs.arm(distilled)
    assert one_more == tokens * (costs.generator + costs.reading + costs.critic)
    assert costs.whole(read.arms["likelihood"]) == 0


def test_longer_training_and_tilts_are_no_games() -> None:
    """They cost what they take, and likelihood training continues for as long without them."""
    read = settings()
    games = {name: arm for name, arm in read.arms.items() if arm.learn in GAMES or arm.candidates > 1}
    assert continued_steps(read) == continued_steps(read.model_copy(update={"arms": games}))
    costs = Costs(read)
    longer, tilted = read.arms["likelihood, longer"], read.arms["longer, tilted by likelihood"]
    assert costs.whole(longer) == 2000 * 16 * 128 * 3 * costs.generator
    assert costs.whole(tilted) == costs.whole(longer) + 400 * 128 * costs.generator
    assert costs.whole(read.arms["tilted, DDO"]) == 3 * 3 * 400 * 128 * costs.generator  # to write, to read both
    of_tilted = Arm.model_validate({"of": "tilted, DDO", "candidates": 8})
    assert costs.whole(of_tilted) == costs.whole(read.arms["tilted, DDO"]) + costs.whole(read.arms["resampling of 8"])


def test_jobs_wait_for_what_they_take_over() -> None:
    read = with_taken(quick=True)
    planned = plan(read, [1, 2])
    jobs = in_order(read, planned)
    assert len(jobs) == len({job.key("code") for job in jobs}) == 2 * (2 + len(read.arms))
    assert [job.needs for job in jobs[:2]] == [None, None]
    assert {job.arm for job in jobs[2:6]} == {"likelihood, longer", "resampling, distilled"}  # others need them
    for taken, taking in zip(planned["resampling, distilled"], planned[TAKEN], strict=True):
        assert taking.needs is taken
        assert taken.needs in planned["start"]
        assert taking.seed == taken.seed


def test_arms_learn_by_the_sections_of_the_pipeline_s_methods() -> None:
    """What an arm sets reaches the method that it names: of the objective, the critic's rate, the cap, the start."""
    read = settings()
    wgan, distilled, ddo = (
        read.method_of(read.arms[name]) for name in ("REINFORCE, wgan", "resampling, distilled", "DDO")
    )
    assert isinstance(wgan, GanParams)
    assert (wgan.objective, wgan.per_token, wgan.kl_weight, wgan.kl_cap) == ("wgan", True, 0.1, 0.1)
    assert (wgan.warmup_critic, wgan.discriminator.learning_rate, wgan.discriminator.min_auc) == (100, 5e-4, 0.52)
    assert isinstance(distilled, DistilParams)
    assert (distilled.candidates, distilled.discriminator.learning_rate) == (8, 2e-3)
    assert isinstance(ddo, DdoParams)
    assert (ddo.learning_rate, ddo.likelihood_every, ddo.steps) == (5e-5, 2, 48)


def test_looks_of_a_game_are_numbers() -> None:
    facts = {
        "kept_step": 4,
        "stopped": None,
        "start/val/bpb": 2.0,
        "start/critic/auc": 0.6,
        "kept/val/bpb": 1.9,
        "kept/critic/gap": math.inf,
    }
    expected = {"start": {"step": 0, "bpb": 2.0, "auc": 0.6}, "kept": {"step": 4, "bpb": 1.9, "gap": None}}
    assert looks(facts | {"steps": 8, "real/val/distinct_2": 0.9}) == {"game": expected}
    assert looks(facts | {"stopped": "val/bpb is nan"}) == {"game": expected, "stopped": "val/bpb is nan"}


def test_a_tilted_generator_is_taken_over(tmp_path: Path) -> None:
    """With its n-grams: they are counted again, and what it says is the same."""
    world = World(settings(quick=True), seed=1)
    world.likelihood.eval()
    model = untilted(world.likelihood, world, order=3)
    model.tilt.data.copy_(torch.linspace(-1, 1, 9))
    save(Learned(model, world.discriminator, {}), tmp_path, tmp_path / "first")
    taken = load(tmp_path, world, order=3)
    ids_BT = world.sequences("test", 2, "some")
    assert torch.equal(taken.model(ids_BT), model(ids_BT))
    assert not torch.allclose(model(ids_BT).log_softmax(-1), world.likelihood(ids_BT).log_softmax(-1), atol=1e-2)
    assert first_folder(tmp_path) == tmp_path.parent / "first"


def test_ddo_keeps_the_round_that_is_selected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0 is the start; the round without a signal ends it, and is no candidate."""
    read = settings(quick=True)
    longer = read.model_copy(update={"tilt": read.tilt.model_copy(update={"rounds": 5})})
    world = World(longer, seed=1)
    world.save(tmp_path)
    offered: list[str] = []

    def select(models: Mapping[str, GPT]) -> tuple[GPT, dict[str, Any]]:
        offered.extend(models)
        return models["tilt_1"], {"selected": "tilt_1", "comparisons": []}

    bench = cast("Bench", SimpleNamespace(world=world, settings=longer, select=select))
    seen: list[Texts] = []

    def move(model: Tilted, train: Texts, held_out: Texts, n_given: int) -> Round:
        assert torch.equal(train.real_NT[:, :n_given], train.written_NT[:, :n_given])
        seen.append(train)
        model.tilt.data += 1.0
        return Round(Interval(0.7, 0.6 if len(seen) < 3 else 0.5, 0.8), 0.6)

    monkeypatch.setattr("troupe.adversarial.tilt.ddo_round", move)
    model, facts = tilt_by_ddo(world.likelihood, bench, tmp_path)
    assert isinstance(model, Tilted)
    assert model.tilt.tolist() == facts["tilt"] == [1.0] * 9
    assert offered == ["start", "tilt_1", "tilt_2"]
    assert (facts["kept"], len(facts["rounds"])) == (1, 3)
    assert torch.equal(seen[0].real_NT, seen[1].real_NT)
    assert not torch.equal(seen[0].written_NT, seen[1].written_NT)


def keep_the_start(models: Mapping[str, GPT]) -> tuple[GPT, dict[str, Any]]:
    return models["start"], {"selected": "start", "comparisons": []}


def test_the_control_of_a_tilt_reads_the_same_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(settings(quick=True), seed=1)
    world.save(tmp_path)
    bench = cast("Bench", SimpleNamespace(world=world, settings=world.settings, select=keep_the_start))
    read: dict[str, Tensor] = {}

    def once(model: Tilted, train: Texts, held_out: Texts, n_given: int) -> Round:
        read["ddo"] = train.real_NT
        return Round(Interval(0.5, 0.4, 0.6), 0.6)

    monkeypatch.setattr("troupe.adversarial.tilt.ddo_round", once)
    monkeypatch.setattr("studies.adversarial.tilt.by_likelihood", lambda model, ids_NT, n: read.update(control=ids_NT))
    tilt_by_ddo(world.likelihood, bench, tmp_path)
    tilt_by_likelihood(world.likelihood, bench, tmp_path)
    assert torch.equal(read["ddo"], read["control"])


def test_bars_that_move_train_nothing_again() -> None:
    read = settings(quick=True)
    moved = read.model_copy(update={"bars": read.bars.model_copy(update={"cut": 0.9})})
    before, after = (in_order(one, plan(one, [1])) for one in (read, moved))
    assert [job.key("code") for job in before] == [job.key("code") for job in after]


class Counting:
    """A discriminator that is sure: the more of token 3, the likelier real."""

    tokenizer = None  # it reads tokens
    features = SimpleNamespace(context=16)

    def scores(self, ids_BT: Tensor, n_given: int | None = None) -> Tensor:
        return 1e3 * (ids_BT == 3).sum(-1).float()


def test_a_resampling_writer_takes_the_candidate_that_is_scored_best() -> None:
    """Of each span: with one span its candidates have seeds of the text's own."""
    model = GPT(GPTConfig(vocab_size=7, block_size=16, n_layer=1, n_head=2, n_embd=8, dropout=0.0, bias=False))
    init_gpt2(model, generator(1, "init"))
    ids_BT, seeds = torch.zeros(200, 2, dtype=torch.int64), list(range(200))
    sure = cast("Discriminator", Counting())
    plain = Writer(model, sure, 1, 1.0, span=6).sample()(model, ids_BT, 6, seeds)
    assert torch.equal(plain, generate(model, ids_BT, 6, Decoding(), seeds))
    writer = Writer(model, sure, 4, 1.0, span=6)
    drawn = writer.sample()(model, ids_BT, 6, seeds)
    assert torch.equal(drawn, writer.sample()(model, ids_BT, 6, seeds))
    assert drawn.shape == (200, 8)
    for row in (0, 127, 128, 199):
        span = derive_seed(row, "span", 0)
        candidates = [derive_seed(span, "candidate", number) for number in range(4)]
        written = generate(model, ids_BT[:4], 6, Decoding(), candidates)
        assert (drawn[row] == 3).sum() == (written == 3).sum(-1).max()
        assert any(torch.equal(drawn[row], one) for one in written)
    by_pairs = replace(writer, span=2).sample()(model, ids_BT, 6, seeds)
    assert (by_pairs == 3).double().mean() > (drawn == 3).double().mean()  # one may choose thrice


PLACES = 400  # of windows, so that a difference of 0.03 between nested arms is beyond error
REAL = {"distinct_1": 0.5, "distinct_2": 0.8, "unigram_entropy": 8.0}


def run(test: float, chosen: float | None = None, bpb: float = 2.0, **quality: float) -> dict[str, Any]:
    detected = {"judges": {"linear": {"accuracy": 0.55}, "likelihood": {"accuracy": test}}, "worst": "likelihood"}
    accuracy = test if chosen is None else chosen
    right = np.random.default_rng(0).permutation(2 * PLACES) < round(accuracy * 2 * PLACES)
    selection = {"accuracy": accuracy, "places": [*range(PLACES)], "correct": "".join(map(str, right.astype(int)))}
    costs = {"validation": bpb, "test": bpb}
    return {"detected": detected, "selection": selection, "bpb": costs, "quality": REAL | quality, "temperature": 1.0}


def results(**changes: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    usual = dict(zip(ARMS, (run(0.8), run(0.75), run(0.77), run(0.7)), strict=True))
    runs = usual | {name.replace("_", " "): one for name, one in changes.items()}
    return {"controls": [{"real": REAL}] * 2} | {name: [one, one] for name, one in runs.items()}


def few_arms() -> Settings:
    read = settings()
    return read.model_copy(update={"arms": {name: read.arms[name] for name in ARMS}})


def test_bars_that_are_kept() -> None:
    """Above one half 0.2 of 0.3: a third less."""
    assert verdict(few_arms(), results()) == [
        "Promoted: resampling of 8, by the pipeline's rule for selection. Judges of validation text are right about "
        "it in 0.700 ± 0.000 of cases, about likelihood in 0.800 ± 0.000.",
        "accuracy above one half, cut from likelihood's: 33.3% ± 0.0%; at least 30%: kept",
        "accuracy less that of likelihood, best temperature: -0.050 ± 0.000; below 0: kept",
        "bits per byte above likelihood's: +0.00% ± 0.00%; at most +1%: kept",
        "distinct_1 off real text's: +0.0% ± 0.0%; within 5%: kept",
        "distinct_2 off real text's: +0.0% ± 0.0%; within 5%: kept",
        "unigram_entropy off real text's: +0.0% ± 0.0%; within 5%: kept",
        "**Target: kept**",
        "**Stretch: missed**: DDO, without resampling, cuts the accuracy above one half by 10.0% ± 0.0%; at least 50%",
        "Best arm with an adversary: resampling of 8, against likelihood: accuracy -0.100 ± 0.000, bits per byte "
        "+0.0000 ± 0.0000",
    ]


@pytest.mark.parametrize(
    ("ours", "missed"),
    [
        (run(0.72), ["accuracy above"]),
        (run(0.76, chosen=0.6), ["accuracy above", "accuracy less"]),
        (run(0.7, distinct_2=0.75), ["distinct_2"]),
        (run(0.7, unigram_entropy=8.5), ["unigram_entropy"]),
    ],
    ids=["too little", "less than a temperature does", "monotonous", "wild"],
)
def test_bars_that_are_missed(ours: dict[str, Any], missed: list[str]) -> None:
    lines = [line for line in verdict(few_arms(), results(resampling_of_8=ours)) if line.endswith("missed")]
    assert [line[: len(start)] for line, start in zip(lines, missed, strict=True)] == missed
    assert "**Target: missed**" in verdict(few_arms(), results(resampling_of_8=ours))


def test_the_likelihood_model_may_be_kept() -> None:
    """Where nothing is told less, and where what is told less predicts worse, by 1 percent of bits at most."""
    read = few_arms()
    nobody = {"DDO": run(0.9), "likelihood, best temperature": run(0.9), "resampling_of_8": run(0.9)}
    assert promoted(read, results(**nobody)) == "likelihood"
    lines = verdict(read, results(**nobody))
    assert lines[0].startswith("Promoted: likelihood (a control),")
    assert lines[-3] == "**Target: missed**: what is promoted is a control, which misses the bars above"
    worse = nobody | {"DDO": run(0.6, bpb=2.021)}
    assert promoted(read, results(**worse)) == "likelihood"
    assert promoted(read, results(**(worse | {"DDO": run(0.6, bpb=2.019)}))) == "DDO"


def test_arms_are_chosen_by_validation_text_alone() -> None:
    read = few_arms()
    assert promoted(read, results(DDO=run(0.95, chosen=0.5))) == "DDO"
    assert promoted(read, results(DDO=run(0.5, chosen=0.95))) == "resampling of 8"


def test_the_stretch_is_the_generators_own() -> None:
    assert stretch(few_arms(), results(DDO=run(0.65), resampling_of_8=run(0.5))).startswith("**Stretch: kept**: DDO")
    assert stretch(few_arms(), results(resampling_of_8=run(0.5))).startswith("**Stretch: missed**: DDO")


def test_a_tilt_is_an_adversary_s_by_ddo_alone() -> None:
    """By likelihood it may be promoted, as a control, and stands beside the other."""
    read = settings()
    told = {name: run(0.8) for name in read.arms}
    found = results(**told | {"tilted, by likelihood": run(0.6, bpb=1.9), "tilted, DDO": run(0.65, bpb=1.925)})
    assert promoted(read, found) == "tilted, by likelihood"
    lines = verdict(read, found)
    assert lines[-4].startswith("**Target: missed**: what is promoted is a control, which keeps")
    assert lines[-3].startswith("**Stretch: kept**: tilted, DDO, without resampling, cuts")
    assert lines[-2] == (
        "Best arm with an adversary: tilted, DDO, against likelihood: accuracy -0.150 ± 0.000, bits per byte "
        "-0.0750 ± 0.0000; against tilted, by likelihood: accuracy +0.050 ± 0.000, bits per byte +0.0250 ± 0.0000"
    )


def test_what_longer_training_cuts_is_no_adversary_s() -> None:
    """A start that learned for longer, and what becomes of it, is told, but neither promoted nor held against bars."""
    read = settings()
    told = {name: run(0.8) for name in read.arms}
    longer = {"likelihood, longer": run(0.6, bpb=1.9), "longer, tilted by likelihood": run(0.58, bpb=1.88)}
    found = results(**told | longer | {"longer, tilted by DDO": run(0.55, bpb=1.875)})
    assert promoted(read, found) == "likelihood"
    lines = verdict(read, found)
    assert lines[-3].startswith("**Stretch: missed**")
    assert lines[-1] == (
        "With a start trained for longer: longer, tilted by DDO, against likelihood, longer: accuracy -0.050 ± 0.000, "
        "bits per byte -0.0250 ± 0.0000; against longer, tilted by likelihood: accuracy -0.030 ± 0.000, bits per byte "
        "-0.0050 ± 0.0000"
    )
    start, accuracy, bits = tilts(read, found).splitlines()[-1].split("|")[2:-1]
    assert (start, accuracy, bits) == (" likelihood, longer ", " -0.050 ± 0.000 ", " -0.0250 ± 0.0000 ")


def test_a_curve_holds_the_figures_of_temperature_1() -> None:
    one = {"bits": 2.0, "self_bleu_3": 0.2}
    shown = run(0.8, **one) | {"curve": [{"temperature": 1.1, "accuracy": 0.9, "bits": 2.3, "self_bleu_3": 0.1}]}
    assert [(point.temperature, point.quality) for point in points(shown)] == [(1.0, 2.0), (1.1, 2.3)]
    assert accuracies(settings(), shown) == [(1.0, 0.8), (1.1, 0.9)]
    assert accuracies(settings(quick=True), shown) == [(1.0, 0.55), (1.1, 0.9)]  # of the few judges: linear alone


def test_an_arm_that_is_judged_over_temperatures_in_some_seeds_alone_has_no_curve() -> None:
    """One that found no signal in the others writes there as the likelihood model does."""
    point = {"temperature": 1.1, "accuracy": 0.9, "bits": 2.3, "self_bleu_3": 0.1}
    assert has_curve([run(0.8) | {"curve": [point]}] * 2)
    assert not has_curve([run(0.8) | {"curve": [point]}, run(0.8) | {"curve": []}])


@pytest.mark.slow
def test_the_whole_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way to learn and to write; where the first discriminator has no signal, what asks it is stopped."""
    write_text(tmp_path / "text.txt", 5000)
    tree = shipped("adversarial")
    tree["quick"]["text"]["source"] = "text.txt"
    names = {*tree["arms"]} - {
        "REINFORCE, gan",
        "REINFORCE, wgan",
        "DDO",
        "resampling of 8",
        "tilted, DDO",
        "longer, tilted by likelihood",
    }
    tree["arms"] = {name: tree["arms"][name] for name in tree["arms"] if name in names}
    tree["arms"][TAKEN] = TAKING
    tree["quick"]["arms"] = {name: arm for name, arm in tree["quick"]["arms"].items() if name in names}

    titles = [
        "Arms",
        "Tilts against their own start",
        "Judges",
        "Quality and diversity",
        "Curves over temperature",
        "Games",
        "Text",
    ]
    found = run_study("adversarial", main, tree, titles, tmp_path, monkeypatch, seeds=1)
    assert len(found) == 2 + len(tree["arms"])
    likelihood, chosen = found["likelihood", 1], found["likelihood, best temperature", 1]
    assert likelihood["kl"] == 0.0
    assert chosen["comparisons"][0]["candidate"] == "temperature_0.8"
    assert chosen["temperature"] == (0.8 if chosen["comparisons"][0]["better"] else 1.0)
    assert (likelihood["bpb"] == chosen["bpb"]) == (chosen["temperature"] == 1.0)
    assert found["likelihood continued", 1]["kl"] > 0.0
    assert found["REINFORCE, literal", 1]["game"]["kept"]["step"] == 2
    longer, tilted = found["likelihood, longer", 1], found["longer, tilted by DDO", 1]
    assert longer["steps"] == 6
    assert len(found["tilted, by likelihood", 1]["tilt"]) == 9
    assert any(found["tilted, by likelihood", 1]["tilt"])
    assert tilted["kl"] > 0.0  # it took over what was trained for longer
    assert len(tilted["rounds"]) >= tilted["kept"]
    distilled, taken = found["resampling, distilled", 1], found[TAKEN, 1]
    assert taken["bpb"] == distilled["bpb"]
    assert 1 <= taken["effective"] <= 8
    assert taken["sample"] != distilled["sample"]

    read = read_configuration(Path("small.yaml"), Settings, quick=True)
    (start,) = [path.parent for path in Path("work").rglob(VERDICT)]
    found_nothing = SignalTest(Interval(0.5, 0.4, 0.6), updates=2, bar=0.55)
    (start / VERDICT).write_text(json.dumps(asdict(found_nothing)))
    (job,) = plan(read, [1])["resampling, distilled"]
    stopped = run_arm(Job(job.arm, 1, job.settings), tmp_path, start)
    assert stopped["stopped"] == str(found_nothing)
    same = ("detected", "quality", "bpb", "selection", "kl", "curve", "sample")
    assert {name: stopped[name] for name in same} == {name: likelihood[name] for name in same}
