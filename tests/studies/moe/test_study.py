"""The study of attention experts: what it counts and concludes, by hand, and all of it at tiny size."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from studies.core.command import STUDIES
from studies.core.configuration import read_configuration
from studies.core.text import META, load_text, prepare_text
from studies.moe.__main__ import in_order, main, plan
from studies.moe.arms import separation
from studies.moe.costs import distilling_steps, optimizer_macs, rest
from studies.moe.page import switch
from studies.moe.plots import draw
from studies.moe.settings import Arm, Settings
from studies.moe.verdict import level, regained, verdict
from tests.studies.whole import run_study, shipped, write_text
from troupe.errors import ParamsError
from troupe.inspection.attention import attention_costs
from troupe.inspection.structure import without_weights
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT
from troupe.models.switchhead import SwitchHead, SwitchHeadConfig
from troupe.params import DataParams, TokensParams, TrainParams
from troupe.training.optim import learning_rate_factor

SHIPPED = STUDIES / "moe" / "moe.yaml"
PATHS = sorted(SHIPPED.parent.glob("*.yaml"))
CONFIG = GPTConfig(vocab_size=5, block_size=2, n_layer=1, n_head=2, n_embd=4, dropout=0.0, bias=False)


def with_experts(n_head: int, head_width: int, n_expert: int, top_k: int) -> GPT:
    experts = SwitchHeadConfig(n_head, head_width, n_expert, top_k, "sigmoid", compute="dense")
    return GPT(CONFIG, attention=partial(SwitchHead, experts=experts))


def shape(config: GPTConfig, arm: Arm) -> GPT:
    if arm.experts:
        return GPT(config, attention=partial(SwitchHead, experts=arm.switchhead(config)))
    return GPT(replace(config, n_head=arm.n_head or config.n_head, head_width=arm.head_width))


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_arm_of_every_configuration_can_be_built(path: Path, quick: bool) -> None:
    settings = read_configuration(path, Settings, quick)
    config = GPTConfig(settings.tokens.vocab_size, **settings.model.model_dump())
    for arm in (settings.arms | settings.remedies).values():
        model = without_weights(partial(shape, config, arm))
        if arm.conversion == "exact":
            experts = arm.switchhead(config)
            assert (experts.n_head, experts.head_width) == (config.n_head, config.n_embd // config.n_head)
        assert sum(1 for _ in model.blocks) == settings.model.n_layer


def test_what_a_configuration_gets_wrong(tmp_path: Path) -> None:
    tree = shipped("moe")
    tree["bars"]["judged"] = "nobody"
    tree["arms"]["dense continued"]["conversion"] = "exact"
    (tmp_path / "moe.yaml").write_text(json.dumps(tree))
    with pytest.raises(ParamsError, match=r"moe\.yaml:1: arms\.dense continued: conversion belongs to an arm with"):
        read_configuration(tmp_path / "moe.yaml", Settings, quick=False)
    del tree["arms"]["dense continued"]["conversion"]
    (tmp_path / "moe.yaml").write_text(json.dumps(tree))
    with pytest.raises(ParamsError, match=r"moe\.yaml: bars\.judged: there is no arm 'nobody'"):
        read_configuration(tmp_path / "moe.yaml", Settings, quick=False)
    with pytest.raises(ParamsError, match=r"none\.yaml: no such file"):
        read_configuration(tmp_path / "none.yaml", Settings, quick=False)


def test_a_text_is_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.txt").write_text("to be or not to be\n" * 200)
    data = DataParams(source=str(tmp_path / "text.txt"), block_bytes=64)
    folder = tmp_path / prepare_text(data, TokensParams(kind="bpe", vocab_size=260), tmp_path)
    written = (folder / META).stat().st_mtime_ns
    assert prepare_text(data, TokensParams(kind="bpe", vocab_size=260), tmp_path) == folder.name
    assert (folder / META).stat().st_mtime_ns == written
    assert prepare_text(data, TokensParams(kind="bpe", vocab_size=261), tmp_path) != folder.name
    with monkeypatch.context() as patched:
        patched.setattr("studies.core.text.code_digest", lambda module: f"another way to cut text in {module}")
        assert prepare_text(data, TokensParams(kind="bpe", vocab_size=260), tmp_path) != folder.name
    text = load_text(folder)
    assert text.vocab_size == 260
    assert sum(text.n_bytes.values()) == 19 * 200
    assert text.n_bytes["train"] > text.n_bytes["test"] > 0


def test_what_is_the_same_is_trained_once_and_the_longest_first() -> None:
    """9 arms and 6 remedies, of which two are the same; first phases: of the dense model, and of 3 others."""
    settings = read_configuration(SHIPPED, Settings, quick=True)
    planned = plan(settings, "text", [1, 2])
    assert planned["exact, 8 heads"] == planned["top-2 sigmoid, nothing"]
    jobs = in_order(planned)
    needy = [job.needs is not None for job in jobs]
    assert needy == [False] * 2 * (1 + 3) + [True] * 2 * (9 + 6 - 1)
    assert len({job.key("code") for job in jobs}) == len(jobs)
    assert {job.seed == job.needs.seed for job in jobs if job.needs} == {True}


def test_a_first_phase_does_not_depend_on_what_follows() -> None:
    settings = read_configuration(SHIPPED, Settings, quick=True)
    other = settings.model_copy(update={"continued": settings.continued.model_copy(update={"steps": 5})})
    before, after = (in_order(plan(one, "text", [1])) for one in (settings, other))
    for job, changed in zip(before, after, strict=True):
        assert (job.key("code") == changed.key("code")) == (job.needs is None)


def test_a_bar_that_moves_trains_nothing_again() -> None:
    settings = read_configuration(SHIPPED, Settings, quick=True)
    moved = settings.model_copy(update={"bars": settings.bars.model_copy(update={"gap": 1.0})})
    before, after = (in_order(plan(one, "text", [1])) for one in (settings, moved))
    assert [job.key("code") for job in before] == [job.key("code") for job in after]


def test_the_distance_of_experts() -> None:
    """One head, two experts: copies are 0 apart, orthogonal ones of one length sqrt 2; a single expert has no other."""
    model = with_experts(n_head=1, head_width=2, n_expert=2, top_k=1)
    (layer,) = (module for module in model.modules() if isinstance(module, SwitchHead))
    with torch.no_grad():
        layer.value.weight.fill_(1.0)
        layer.output.weight.fill_(-1.0)
        assert separation(model) == 0.0
        layer.value.weight.copy_(torch.eye(4))
        layer.output.weight.copy_(torch.eye(4))
    assert separation(model) == pytest.approx(2**0.5)
    assert separation(with_experts(1, 2, 1, 1)) is None
    assert separation(GPT(CONFIG)) is None


def trained(**changes: Any) -> TrainParams:
    return read_configuration(SHIPPED, Settings, quick=False).continued.model_copy(update=changes)


def test_what_distillation_costs_without_an_optimiser_of_matrices() -> None:
    """Per token, with D 4, T 2, V 5 and an MLP of 2 x 4 x 16 = 128 MACs: the dense model needs 4 x 16 = 64 for
    projections, 2 x 4 x 2 = 16 for scores and values, 20 for the head: 228. One head of width 2 with 2 experts, both
    computed: 2 x 4 x 2 x 3 = 48, routers 16, scores and values 8: 72 of 220 in all. (228 + 3 x 72) / (3 x 220).
    Seven steps on a third of the tokens cost 7 / 3 as much."""
    distil, continued = (trained(optimizer="adamw", batch_size=size, steps=7) for size in (1, 3))
    steps = distilling_steps(GPT(CONFIG), with_experts(1, 2, 2, 1), distil, continued)
    assert steps == pytest.approx(7 * 444 / 3 / 660)


def test_what_muon_costs() -> None:
    """a x b in 5 (2 a^2 b + a^3) MACs. Attention: queries and keys 4 x 4, 960; values and outputs 4 x 4, too: 2,880 in
    all, routers nothing. The MLP: two of 4 x 16, 2,880 each. In a step of one text of two tokens, of 444 MACs each,
    distillation needs 888 + 2,880; training, of 660 MACs each, 1,320 + 8,640."""
    model, params = with_experts(1, 2, 2, 1), trained(optimizer="muon", batch_size=1, steps=1)
    assert optimizer_macs(model, params) == 2_880 + 2 * 2_880
    assert optimizer_macs(model, trained(optimizer="adamw")) == 0
    assert distilling_steps(GPT(CONFIG), model, params, params) == pytest.approx((888 + 2_880) / (1_320 + 8_640))


def test_a_conversion_is_paid_for_with_steps() -> None:
    params = trained(steps=400, warmup_steps=3, decay_fraction=1.0)
    assert rest(params, 0.0) == params
    left = rest(params, 67.4)
    assert left == params.model_copy(update={"steps": 333})
    assert learning_rate_factor(332, left) == pytest.approx(1 / 333)
    assert rest(params, 399.4).steps == 1
    with pytest.raises(
        ParamsError, match=r"distil: costs as much as 399\.6 steps of `continued`, which has 400; lower"
    ):
        rest(params, 399.6)


@pytest.mark.parametrize(("heads", "steps"), [("4 heads", 71.8), ("2 heads", 67.4), ("1 head", 66.6)])
def test_what_the_shipped_conversions_cost(heads: str, steps: float) -> None:
    """Counted beforehand, with all matrices of the model told by their shapes."""
    settings = read_configuration(SHIPPED, Settings, quick=False)
    config = GPTConfig(512, **settings.model.model_dump())
    experts = settings.arms[f"distilled, {heads}"].switchhead(config)
    model = GPT(config, partial(SwitchHead, experts=experts))
    assert distilling_steps(GPT(config), model, settings.distil, settings.continued) == pytest.approx(steps, abs=0.05)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_controls_are_as_large_as_what_is_judged(path: Path) -> None:
    """One has as many parameters in attention, the other needs as many MACs for what is used."""
    settings = read_configuration(path, Settings, quick=False)
    bars, config = settings.bars, GPTConfig(settings.tokens.vocab_size, **settings.model.model_dump())
    judged, wide, narrow = (
        attention_costs(without_weights(partial(shape, config, settings.arms[name])), config.block_size)
        for name in (bars.judged, bars.wide, bars.narrow)
    )
    assert judged.parameters == pytest.approx(wide.parameters, rel=0.1)
    assert judged.useful + judged.causal == pytest.approx(narrow.useful + narrow.causal, rel=0.1)


def figures(test: float = 2.0, **changes: Any) -> dict[str, Any]:
    looks = [{"step": 0, "loss": 2.1}, {"step": 10, "loss": 2.01}, {"step": 20, "loss": 1.99}]
    attention = {"useful": 40, "causal": 10, "executed": 60, "full": 20, "memory_floats": 25}
    usual = {"before": 2.0, "after": 2.1, "conversion_steps": 30.0, "continued": {"looks": looks}}
    return {**usual, "test": {"loss": test}, "attention": attention, **changes}


def results(**changes: Any) -> dict[str, list[dict[str, Any]]]:
    dense = {"attention": {"useful": 80, "causal": 20, "executed": 80, "full": 40, "memory_floats": 100}}
    arms = {"judged": changes, "dense": dense, "wide": {"test": 2.02}, "narrow": {"test": 2.05}}
    return {name: [figures(**of_arm), figures(**of_arm)] for name, of_arm in arms.items()}


def settings_for(bars: dict[str, float]) -> Settings:
    """1,000 steps of pretraining; the arms are called as their parts in the verdict."""
    settings = read_configuration(SHIPPED, Settings, quick=False)
    names = {role: role for role in ("judged", "dense", "wide", "narrow")}
    arms = dict.fromkeys(names, settings.arms["dense continued"])
    pretrain = settings.pretrain.model_copy(update={"steps": 1000})
    return settings.model_copy(
        update={"arms": arms, "pretrain": pretrain, "bars": settings.bars.model_copy(update=names | bars)}
    )


BARS = {"jump": 0.15, "regained": 0.05, "gap": 0.01, "macs": 0.55, "memory": 0.27}


def test_steps_until_the_loss_is_regained_count_the_conversion() -> None:
    assert regained(figures()) == 20 + 30
    assert regained(figures(before=1.9)) is None
    assert regained(figures(before=1.98995)) == 20 + 30  # 0.00005 away: rounding
    assert regained(figures(before=2.1, conversion_steps=0.0)) == 0


def test_bars_that_are_kept() -> None:
    assert verdict(settings_for(BARS), results()) == [
        "Judged: judged",
        "jump at the switch, nats per token: +0.1000 ± 0.0000; the bar is 0.1500: kept",
        "regained after, share of the pretraining's steps, most of all seeds: 5.0%; the bar is 5.0%: kept",
        "test loss less dense: +0.0000 ± 0.0000; the bar is 0.0100: kept",
        "test loss less wide: -0.0200 ± 0.0000; the bar is 0.0000: kept",
        "test loss less narrow: -0.0500 ± 0.0000; the bar is 0.0000: kept",
        "attention MACs of dense, judged by useful + causal (50.0% useful + full, 66.7% executed + full): 50.0%; "
        "the bar is 55.0%: kept",
        "attention memory of dense: 25.0%; the bar is 27.0%: kept",
    ]


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({"after": 2.2}, ["jump"]),
        ({"before": 1.5, "after": 1.6}, ["regained"]),
        ({"conversion_steps": 31.0}, ["regained"]),
        ({"test": 2.015}, ["test loss less dense"]),
        ({"test": 2.03}, ["test loss less dense", "test loss less wide"]),
        (
            {"attention": {"useful": 50, "causal": 10, "executed": 1, "full": 1, "memory_floats": 25}},
            ["attention MACs"],
        ),
        (
            {"attention": {"useful": 40, "causal": 10, "executed": 1, "full": 1, "memory_floats": 28}},
            ["attention memory"],
        ),
    ],
    ids=["jump", "never", "late", "gap", "worse than a control", "macs", "memory"],
)
def test_bars_that_are_missed(changes: dict[str, Any], missed: list[str]) -> None:
    lines = [line for line in verdict(settings_for(BARS), results(**changes)) if line.endswith("missed")]
    assert [line[: len(start)] for line, start in zip(lines, missed, strict=True)] == missed


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ((1.99, 2.02), "+0.0050 ± 0.1906; the bar is 0.0100: not decided, the mean keeps it"),
        ((2.01, 2.02), "+0.0150 ± 0.0635; the bar is 0.0100: not decided, the mean misses it"),
        ((1.80, 1.81), "-0.1950 ± 0.0635; the bar is 0.0100: kept"),
        ((2.20, 2.21), "+0.2050 ± 0.0635; the bar is 0.0100: missed"),
        ((1.80,), "-0.2000; the bar is 0.0100: not decided, the mean keeps it"),
    ],
    ids=["about", "above", "kept", "missed", "one seed"],
)
def test_the_interval_decides(losses: tuple[float, ...], said: str) -> None:
    """Of two seeds d apart, mean ± 12.706 d / 2, by Student's t with one degree of freedom."""
    found = {name: list(runs[: len(losses)]) for name, runs in results().items()}
    found["judged"] = [figures(test=loss) for loss in losses]
    assert f"test loss less dense: {said}" in verdict(settings_for(BARS), found)


def test_the_picture_begins_where_costs_and_steps_do() -> None:
    """At 0, of which a log scale of steps has one side only."""
    costs = {"parameters": 10_000.0, "attention": figures()["attention"]}
    settings = settings_for(BARS)
    figure = draw(settings, {name: [figures(**costs), figures(**costs)] for name in settings.arms})
    assert [axes.get_xlim()[0] for axes in figure.axes] == [0.0] * 4
    assert not [tick for axes in figure.axes for tick in axes.get_xticks() if tick < 0]


def look(*losses: float, steps: tuple[int, ...] = (0, 10, 20, 30)) -> dict[str, Any]:
    return {"looks": [{"step": step, "loss": loss} for step, loss in zip(steps, losses, strict=True)]}


def test_steps_until_level_with_the_dense_model() -> None:
    """Looks of the same step are compared, and the last ones, though the conversion cost 4.5 of the 30 steps."""
    dense = figures(continued=look(2.0, 1.9, 1.8, 1.7))
    short = {"conversion_steps": 4.5, "before": 2.0}
    at_once = figures(continued=look(2.009, 2.0, 2.0, 1.9, steps=(0, 10, 20, 26)), **short)
    later = figures(continued=look(2.1, 2.0, 1.81, 1.9, steps=(0, 10, 20, 26)), **short)
    at_last = figures(continued=look(2.1, 2.0, 1.9, 1.709, steps=(0, 10, 20, 26)), **short)
    never = figures(continued=look(2.1, 2.0, 1.9, 1.72, steps=(0, 10, 20, 26)), **short)
    apart = figures(continued=look(2.1, 1.9, 1.7, 1.72, steps=(0, 9, 19, 26)), **short)
    runs = (at_once, later, at_last, never, apart)
    assert [level(run, dense, 0.01001) for run in runs] == [4.5, 24.5, 30.5, None, None]
    page = switch(settings_for({"gap": 0.01001}), results() | {"judged": [later, never], "dense": [dense, dense]})
    assert "| 4.5 | 26 | 14.5 ± 0.0 | 24.5, never | +0.1100 ± 1.1436 |" in page
    assert "|  |  |\n" in page  # the dense model beside itself


@pytest.mark.slow
def test_the_whole_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds of every kind of arm. One that does the same as another, by another name, ends with the same losses to
    the last digit."""
    write_text(tmp_path / "text.txt", 3000)
    tree = shipped("moe")
    tree["quick"] |= {"data": {"source": "text.txt", "block_bytes": 256}}
    tree["arms"]["dense, both phases"] = {"start": "random"}
    del tree["arms"]["distilled, 4 heads"]
    tree["remedies"] = {name: tree["remedies"][name] for name in ("top-1 softmax, balance loss",)}

    titles = ["Quality", "The switch", "Costs of attention", "Experts", "Against collapse"]
    found = run_study("moe", main, tree, titles, tmp_path, monkeypatch, seeds=2)
    assert len(found) == 2 * (4 + len(tree["arms"]) + 1)
    for seed in (1, 2):
        continued, both = found["dense continued", seed], found["dense, both phases", seed]
        assert continued["test"] == both["test"]
        assert continued["before"] == continued["after"] == both["before"]
        exact = found["exact, 8 heads", seed]
        assert exact["after"] == pytest.approx(exact["before"], abs=1e-5)
        assert exact["continued"]["looks"][0]["separation"] == 0.0
        assert exact["continued"]["looks"][-1]["separation"] > 0.0
        assert [look["step"] for look in exact["continued"]["looks"]] == [0, 1, 2, 8, 16]
        distilled = found["distilled, 2 heads", seed]
        assert distilled["continued"]["looks"][-1]["step"] == 16 - round(distilled["conversion_steps"]) < 16
    assert found["dense continued", 1]["test"] != found["dense continued", 2]["test"]
