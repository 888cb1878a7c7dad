"""The ladder: what a rung is, by laws and by GPT itself; what is measured of it, by hand; all of it at tiny size."""

import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from studies.core.statistics import Estimate
from studies.core.text import Text
from studies.ladder.__main__ import main
from studies.ladder.arms import FAR, Curve, by_depth, fit, initialised, on_test_text, shortened, symbols, thinned
from studies.ladder.counting import added, rivals
from studies.ladder.model import build
from studies.ladder.page import judged
from studies.ladder.rungs import BIGRAM, BLOCKS, HEAD, LADDER, LARGER, LARGEST, POST, PRE, RESIDUAL, WIDE, Rung
from studies.ladder.settings import Recipe, Recipes
from tests.studies.whole import run_study, shipped, write_text
from troupe.errors import Diverged
from troupe.models.gpt2 import GPT
from troupe.training.loop import RunContext, cross_entropy, validate

V, T = 11, 6
IDS_BT = torch.randint(V, (3, T), generator=torch.Generator().manual_seed(1))
DESCRIBED = {"name", "adds", "lowers"}  # what a rung says of itself


def text_of(n: int, vocab_size: int = V) -> Text:
    ids = np.random.default_rng(0).integers(vocab_size, size=n).astype(np.uint16)
    return Text(
        vocab_size,
        {"train": ids, "validation": ids[: n // 2], "test": ids[: n // 4]},
        {"train": n, "validation": n // 2, "test": n // 4},
    )


def recipe(**changes: object) -> Recipe:
    values = shipped("ladder")["recipes"]["lecture"] | {"block_size": T, "steps": 4, "eval_interval": 2}
    values.pop("rungs")
    return Recipe.model_validate(values | changes)


def trained(rung: Rung, seeds: list[int], how: Recipe) -> tuple[list[GPT], Curve]:
    models, curve = [initialised(rung, V, T, seed) for seed in seeds], Curve([], [], [[] for _ in seeds])
    fit(models, text_of(500), how, seeds, curve)
    return models, curve


@pytest.mark.parametrize("rung", [rung for rung in LADDER if rung.norm == "pre"], ids=lambda rung: rung.name)
def test_the_upper_rungs_are_gpt_itself(rung: Rung) -> None:
    """The same parameters by name and shape, and with the same weights the same logits, to the bit."""
    ours, gpt = initialised(rung, V, T, seed=3), GPT(rung.config(V, T))
    gpt.load_state_dict(ours.state_dict())
    ours.eval()
    gpt.eval()
    assert torch.equal(ours(IDS_BT), gpt(IDS_BT))


@pytest.mark.parametrize("place", range(1, len(LADDER)))
def test_a_rung_is_the_one_before_with_one_thing_changed(place: int) -> None:
    before, rung = LADDER[place - 1], LADDER[place]
    changed = {one.name for one in fields(Rung) if getattr(before, one.name) != getattr(rung, one.name)} - DESCRIBED
    assert changed == ({"n_layer", "n_embd"} if rung is LARGER else changed)
    assert len(changed) == (2 if rung is LARGER else 1)


def test_the_number_of_parameters_by_hand() -> None:
    def count(rung: Rung) -> int:
        return sum(parameter.numel() for parameter in build(rung, 65, 8).parameters())

    def layer(D: int, mlp: int, norms: int) -> int:
        return 4 * D * D + 4 * D + 2 * mlp * D * D + (mlp + 1) * D * bool(mlp) + norms * 2 * D

    assert count(BIGRAM) == 65 * 65
    assert count(HEAD) == (65 + 8) * 32 + layer(32, 0, 0)
    assert count(WIDE) == (65 + 8) * 32 + 3 * layer(32, 4, 0)
    assert count(PRE) == (65 + 8) * 32 + 3 * layer(32, 4, 2) + 2 * 32
    assert count(LARGEST) == (65 + 8) * 128 + 6 * layer(128, 4, 2) + 2 * 128 == 1_199_232


def test_a_bigram_model_knows_the_last_character_alone() -> None:
    model = initialised(BIGRAM, V, T, seed=1)
    logits_BTV = model(IDS_BT)
    assert torch.equal(logits_BTV, model(IDS_BT.flip(0)).flip(0))
    for b, t in ((0, 0), (2, 5)):
        assert torch.equal(logits_BTV[b, t], model.token_embedding.weight[IDS_BT[b, t]])


@pytest.mark.parametrize(("rung", "passes"), [(BLOCKS, False), (RESIDUAL, True)], ids=["without", "with"])
def test_what_a_residual_connection_is_for(rung: Rung, passes: bool) -> None:
    """Parts that put out nothing leave their input as it is, or nothing."""
    block = build(rung, V, T).blocks[0]
    with torch.no_grad():
        for part in (block.attention, block.mlp):
            part.output.weight.zero_()
            part.output.bias.zero_()
    x_BTD = torch.randn(2, T, 32, generator=torch.Generator().manual_seed(2))
    assert torch.equal(block(x_BTD), x_BTD if passes else torch.zeros_like(x_BTD))


def test_post_norm_gives_every_block_s_output_unit_scale_and_pre_norm_does_not() -> None:
    text = text_of(1000)
    post = by_depth(initialised(POST, V, T, 1), text, 1)["activation"][1:]
    pre = by_depth(initialised(PRE, V, T, 1), text, 1)["activation"][1:]
    assert post == pytest.approx([1.0] * 3, abs=1e-3)  # LayerNorm's eps of 1e-5 beside variances of some hundredths
    assert pre == sorted(pre)  # what is added up grows
    assert max(pre) < 0.9


def test_without_residual_connections_the_first_gradients_vanish() -> None:
    """Why deep models have them: a block passes on a part of its gradient, three of them the third power of it."""
    text = text_of(1000)
    with_them = by_depth(initialised(RESIDUAL, V, T, 1), text, 1)["gradient"]
    without = by_depth(initialised(BLOCKS, V, T, 1), text, 1)["gradient"]
    assert without[1] / without[3] < 0.05 < 0.3 < with_them[1] / with_them[3]


def test_gradients_by_depth_are_those_of_autograd() -> None:
    text, model = text_of(1000), initialised(PRE, V, T, 1)
    found = by_depth(model, text, seed=5)["gradient"]
    assert all(parameter.grad is None for parameter in model.parameters())
    from studies.ladder.arms import MEASURED
    from troupe.data.batches import Batches
    from troupe.seeding import derive_seed

    x_BT, y_BT = Batches(text.ids["train"], T, MEASURED, derive_seed(5, "study", "depth")).batches(0)
    model.eval()
    loss = cross_entropy(model, x_BT, y_BT, RunContext().autocast)
    for layer, expected in zip([model.token_embedding, *model.blocks], found, strict=True):
        gradients = torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True)
        assert math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients)) == pytest.approx(
            expected, rel=1e-5
        )


def test_what_is_tested_is_the_likelihood_of_the_whole_text() -> None:
    """Of a bigram model windows do not matter, so the total is one sum over the text."""
    text, model = text_of(100), initialised(BIGRAM, V, T, 1)
    ids = torch.from_numpy(text.ids["test"].astype("int64"))
    total = math.log(V) - model(ids[None, :-1])[0].log_softmax(-1).gather(1, ids[1:, None]).sum().item()
    found = on_test_text(model, text)
    assert found["loss"] == pytest.approx(total / len(ids), rel=1e-6)
    assert found["bpb"] == pytest.approx(total / (math.log(2) * len(ids)), rel=1e-6)


def test_a_training_notes_every_look_and_leaves_the_best_weights() -> None:
    text = text_of(500)
    (model,), curve = trained(HEAD, [1], recipe(steps=6))
    assert [look["step"] for look in curve.looks[0]] == [2, 4, 6]
    assert len(curve.losses) == 6
    best = min(look["loss"] for look in curve.looks[0])
    seen = validate(model, text.ids["validation"], text.n_bytes["validation"], RunContext().autocast)
    assert seen["val/loss"] == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("rung", [BIGRAM, HEAD, POST, LARGER], ids=lambda rung: rung.name)
def test_seeds_trained_side_by_side_are_what_each_is_alone(rung: Rung) -> None:
    """AdamW takes no notice of the factor 1/2 that a mean over two seeds puts before each gradient, but for its eps of
    1e-8, beside which gradients of 1e-3 and more are some 1e-5 off, times a rate of 1e-3 a step."""
    rung, how = replace(rung, dropout=0.0), recipe(weight_decay=0.0)
    side_by_side, _ = trained(rung, [1, 2], how)
    for model, seed in zip(side_by_side, (1, 2), strict=True):
        (alone,), _ = trained(rung, [seed], how)
        moved = max(
            float((ours - theirs).detach().abs().max())
            for ours, theirs in zip(model.parameters(), initialised(rung, V, T, seed).parameters(), strict=True)
        )
        ours, theirs = model(IDS_BT), alone(IDS_BT)
        assert moved > 1e-3, "four steps of 1e-3 and less"
        assert torch.allclose(ours, theirs, atol=1e-3)
        assert not torch.allclose(ours, initialised(rung, V, T, seed)(IDS_BT), atol=1e-3)


def test_a_training_that_diverges_is_looked_at_once_more() -> None:
    how, curve = recipe(steps=400, learning_rate=10.0, eval_interval=400), Curve([], [], [[], []])
    with pytest.raises(Diverged):
        fit([initialised(WIDE, V, T, seed) for seed in (1, 2)], text_of(500), how, [1, 2], curve)
    for looks in curve.looks:
        assert len(looks) == 1
        assert 0 < looks[0]["loss"] <= FAR


def test_what_a_rung_has_otherwise() -> None:
    values = shipped("ladder")["recipes"]["lecture"]
    own = {"bigram": {"times": 3, "learning_rate": 0.5}}
    found = Recipes.model_validate(values | {"rungs": own})
    bigram, other = found.of("bigram"), found.of("MLP")
    assert (bigram.steps, bigram.eval_interval, bigram.learning_rate) == (30000, 15000, 0.5)
    assert (other.steps, other.learning_rate) == (10000, 1e-3)
    with pytest.raises(ValueError, match="there is no rung 'bigrams'"):
        Recipes.model_validate(values | {"rungs": {"bigrams": {}}})
    with pytest.raises(ValueError, match="stepps"):
        Recipes.model_validate(values | {"rungs": {"bigram": {"stepps": 3}}})


def test_training_losses_are_means_of_as_many_steps() -> None:
    assert thinned([4.0, 2.0]) == [[1, 4.0], [2, 2.0]]
    found = thinned([float(step) for step in range(1, 201)])
    assert found[0] == [4, 2.5]
    assert found[-1] == [200, 198.5]
    assert len(found) == 50


def test_only_characters_of_the_text_are_in_the_vocabulary() -> None:
    assert symbols(text_of(1000)) == V
    part = shortened(text_of(1000), 100)
    assert {name: len(ids) for name, ids in part.ids.items()} == {"train": 1000, "validation": 100, "test": 100}
    assert part.n_bytes == {"train": 1000, "validation": 100, "test": 100}


@pytest.mark.parametrize(
    ("change", "lowers", "verdict"),
    [
        (Estimate(-0.2, 0.1), True, "confirmed"),
        (Estimate(-0.1, 0.2), True, "unclear"),
        (Estimate(0.2, 0.1), True, "refuted"),
        (Estimate(-0.2, 0.1), False, "refuted"),
        (Estimate(-0.1, 0.2), False, "unclear"),
        (Estimate(0.2, 0.1), False, "confirmed"),
        (Estimate(-0.2, None), True, "unclear"),
        (Estimate(-0.2, None), False, "unclear"),
    ],
)
def test_the_rule_of_the_verdicts(change: Estimate, lowers: bool, verdict: str) -> None:
    assert judged(change, lowers) == verdict


def test_compressors_are_charged_for_what_is_new() -> None:
    rng = np.random.default_rng(0)
    train, fresh = rng.bytes(4000), rng.bytes(1000)
    found = rivals(train, fresh, train[:1000], max_order=2)
    assert found["gzip -9"] < 1.0  # 1,000 bytes known, within the window of 32 kB; noise costs 8
    assert found["xz -9e"] < 1.0
    assert added(lambda text: bytes(2 * len(text)), train, fresh) == 16.0
    assert rivals(train, fresh, fresh, 2)["gzip -9"] == pytest.approx(8.0, abs=0.1)  # noise does not compress


@pytest.mark.slow
def test_the_whole_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any text of one's own, by --source, two recipes, every rung; the page in Markdown and in HTML."""
    write_text(tmp_path / "text.txt", 3000)
    tree = shipped("ladder") | {"quick": {}, "sample": 5, "held_out_tokens": 300, "ngram_max_order": 2}
    tree["data"] |= {"source": "text.txt", "block_bytes": 256}
    tree["recipes"]["lecture"] |= {"steps": 2, "eval_interval": 1, "batch_size": 2}
    tree["recipes"]["project"] |= {"steps": 2, "eval_interval": 2, "batch_size": 2, "block_size": 8, "warmup_steps": 0}
    tree["recipes"]["project"]["rungs"] = {"bigram": {"optimizer": "adamw"}, "MLP": {"times": 1.5, "gain": 2.0}}
    titles = [
        "The rungs",
        "What each rung adds",
        "Beside compressing and counting",
        "Costs",
        "By depth",
        "What they write",
    ]
    found = run_study("ladder", main, tree, titles, tmp_path, monkeypatch, seeds=2)
    assert len(found) == 2 * 2 * len(LADDER)
    run = found["1.2M parameters, lecture", 1]
    assert [look["step"] for look in run["looks"]] == [1, 2]
    assert all(
        len(one["depth"][when][what]) == 4
        for one in [found["pre-norm, project", 2]]
        for when in ("start", "end")
        for what in ("gradient", "activation")
    )
    html = (tmp_path / "reports" / "studies" / "small.html").read_text()
    assert "<svg" in html
    assert 'download="small.jsonl"' in html
    assert "studies/small.html" in (tmp_path / "reports" / "index.html").read_text()
