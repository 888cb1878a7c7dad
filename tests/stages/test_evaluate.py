"""The evaluate stage: files in, figures out, the same for the same seed, and no figure that is not a number."""

import hashlib
import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.publish import publish
from pipelines.workspace import claim
from tests.splits import split_text
from troupe.bundles.architectures import load_bundle
from troupe.bundles.bundle import save_bundle
from troupe.data.dataset import TokenDataset
from troupe.data.tokenizer import load_tokenizer
from troupe.errors import ArtifactError
from troupe.evaluation.provenance import gather_provenance, git_commit
from troupe.evaluation.report import render_report
from troupe.evaluation.result import Embedded, Routing, read_found
from troupe.files import read_json, write_json
from troupe.judging.classifiers import FAMILIES
from troupe.judging.protocol import held_out
from troupe.layout import CORPUS, EMBEDDED, METRICS, MODEL_STAGES, REPORT, REPORTS, ROUTING, TOKENS, USAGE, model_dir
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.params import Params
from troupe.stages.corpus import corpus
from troupe.stages.evaluate import evaluate
from troupe.stages.inputs import inputs
from troupe.stages.tokens import tokens

SMALL = {"temperatures": [], "sample_tokens": 8, "ngram_max_order": 6}
JUDGED = {"seeds": 1, "texts": 10, "window": 64, "transformer_steps": 2}


def save_model(folder: Path, params: Params, seed: int, broken: bool = False) -> None:
    tokenizer = load_tokenizer(TOKENS / "tokenizer.json")
    model = GPT(GPTConfig(tokenizer.vocab_size, params.model.block_size, n_layer=1, n_head=2, n_embd=8, dropout=0.1))
    init_gpt2(model, torch.Generator().manual_seed(seed))
    if broken:
        with torch.no_grad():
            model.norm.bias.fill_(math.nan)
    save_bundle(folder, model, tokenizer, {})


@pytest.fixture
def params(workspace: Params) -> Params:
    for seed, stage in enumerate(MODEL_STAGES):
        save_model(model_dir(stage), workspace, seed)
        (model_dir(stage) / "metrics.jsonl").write_text('{"step": 1, "train/loss": 5.0}\n')
        write_json(model_dir(stage) / "summary.json", {"steps": 1, "seconds": 0.1})
    save_model(model_dir("moe") / "control", workspace, 3)
    write_json(USAGE, {"load": [[[[0.5, 0.5]], [[0.5, 0.5]]]]})
    return setting(setting(workspace, "judging", **JUDGED), "evaluate", **SMALL)


def setting(params: Params, section: str, **values: Any) -> Params:
    """With other parameters of a section."""
    return params.model_copy(update={section: getattr(params, section).model_copy(update=values)})


def numbers(node: Any) -> Iterator[float]:
    if isinstance(node, dict):
        for value in node.values():
            yield from numbers(value)
    elif isinstance(node, int | float):
        yield node


def assert_worst(judge: dict[str, Any], judges: dict[str, Any]) -> None:
    """What is reported is one family's figures, whole."""
    assert set(judges) == set(FAMILIES)
    assert judge == {"family": judge["family"], **judges[judge["family"]]}
    for figure in ("low", "high", "auc", "correct", "n", "standard_error", "jsd", "jsd_low", "jsd_high"):
        assert figure in judge


def page() -> str:
    """The report as `publish` renders it."""
    return render_report(REPORTS, None, gather_provenance()).read_text(encoding="utf-8")


def test_it_measures_everything(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(setting(setting(params, "judging", seeds=2), "evaluate", temperatures=[0.5]))
    metrics = read_json(METRICS)
    assert set(metrics) == {
        "test_sha256", "text", "initial", "judge", "models", "controls", "curve", "ngram", "rivals", "candidate",
    }  # fmt: skip
    assert set(metrics["controls"]) == {
        "dense_continued", "real_against_real", "real_text", "known_bad", "shuffled_words", "copied", "power",
    }  # fmt: skip
    assert set(metrics["controls"]["power"]["judges"]) == set(FAMILIES)
    assert all(math.isfinite(number) for number in numbers(metrics))
    assert list(metrics["ngram"]["test"]) == [str(order) for order in range(1, 7)]
    assert metrics["models"]["moe"]["test"]["judge"]["n"] == 2 * 2 * JUDGED["texts"]
    for stage, model in metrics["models"].items():
        assert model["weights_sha256"] == load_bundle(model_dir(stage)).sha256
        for split in ("validation", "test"):
            assert model[split]["bpb"] > metrics["ngram"][split]["5"]  # an untrained model, against counting
            assert model[split]["judge"]["low"] <= model[split]["judge"]["accuracy"] <= model[split]["judge"]["high"]
            assert_worst(model[split]["judge"], model[split]["judges"])
        worst = max(model["validation"]["judges"].values(), key=lambda one: one["accuracy"])
        assert model["validation"]["judge"]["accuracy"] == worst["accuracy"]
        assert model["test"]["judge"]["family"] == model["validation"]["judge"]["family"]
        assert set(model["quality"]) == set(metrics["controls"]["real_text"]["quality"])
        assert [point["temperature"] for point in metrics["curve"]["models"][stage]] == [0.5, 1.0]
    for name in ("real_against_real", "known_bad", "shuffled_words", "copied"):
        control = metrics["controls"][name]
        assert_worst({key: value for key, value in control.items() if key != "judges"}, control["judges"])
    for stage in MODEL_STAGES:
        assert read_json(REPORTS / "curves" / f"{stage}-loss.json") == [{"step": 1, "loss": 5.0}]
    samples = read_json(REPORTS / "samples.json")
    assert set(samples["texts"]) == set(MODEL_STAGES)
    assert set(samples["texts"]["moe"]) == {"greedy", "temperature", "top-k", "top-p"}
    embedded = read_found(Embedded, EMBEDDED)
    assert embedded.stage == metrics["candidate"]["stage"]
    assert embedded.bits is not None
    assert embedded.bits.float32 == pytest.approx(metrics["models"][embedded.stage]["test"]["bpb"], rel=1e-6)
    assert read_found(Routing, ROUTING).layers == [], "these models have no experts"
    assert "moe is the candidate" in page() or metrics["candidate"]["stage"] != "moe"
    assert f"candidate: {metrics['candidate']['stage']}, because" in capsys.readouterr().out


def test_the_page_is_rendered_anew_when_the_model_in_it_is_another(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its figures may be the same: a run that changes nothing else leaves the page as it is."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # out of reach: the page is written none the less
    evaluate(params)
    with claim() as run:
        publish(run)
        rendered = REPORT.stat().st_ino
        publish(run)
        assert REPORT.stat().st_ino == rendered
        write_json(EMBEDDED, read_json(EMBEDDED) | {"data": None, "refused": "it would add 9 MB"})
        publish(run)
    assert "not in this page: it would add 9 MB" in REPORT.read_text(encoding="utf-8")


def test_a_long_text_is_measured_at_its_beginning_and_the_report_says_so(params: Params) -> None:
    """All figures are of the cut text, and the gate sees that the test text is another."""
    sizes = read_json(TOKENS / "meta.json")["bytes"]
    cut = sizes["test"] - 40
    evaluate(params)
    whole = read_json(METRICS)
    parts = ("train", "validation", "test")
    assert whole["text"] == {split: {"bytes": sizes[split], "of": sizes[split]} for split in parts}
    assert whole["test_sha256"] == read_json(TOKENS / "meta.json")["test_sha256"]
    assert "Too long" not in page()
    evaluate(setting(params, "judging", train_bytes=1000, held_out_bytes=cut))
    metrics, text = read_json(METRICS), page()
    assert 1000 <= metrics["text"]["train"]["bytes"] < sizes["train"]
    assert (n_bytes := metrics["text"]["test"]["bytes"]) == cut
    assert metrics["test_sha256"] == hashlib.sha256(split_text(CORPUS, "test").encode()[:n_bytes]).hexdigest()
    assert metrics["ngram"]["test"] != whole["ngram"]["test"]
    assert text.count("Too long") == len([part for part in metrics["text"].values() if part["bytes"] < part["of"]])
    assert f"its first {n_bytes:,} bytes of {sizes['test']:,} (judging.held_out_bytes)" in text


def test_the_cut_text_is_the_same_whatever_the_tokens(workspace: Params) -> None:
    """It ends with a whole character, the last that fits, within a token or not; its ids are of just this text."""
    text = "Größe: naïve cafés, 日本 and 😀 all over. " * 400
    Path("text.txt").write_text(text, encoding="utf-8")
    for kind in ("bytes", "chars", "bpe"):
        params = workspace.model_copy(update={"tokens": workspace.tokens.model_copy(update={"kind": kind})})
        for stage in (inputs, corpus, tokens):
            stage(params)
        tokenizer, whole = load_tokenizer(TOKENS / "tokenizer.json"), split_text(CORPUS, "test").encode()
        for n_bytes in (*range(601, 612), len(whole), len(whole) + 1):
            judging = params.judging.model_copy(update={"held_out_bytes": n_bytes, "window": 32})
            read = held_out(TokenDataset.open(), judging, 16, "test")
            assert read.content == whole[:n_bytes].decode(errors="ignore").encode()
            assert read.ids.tolist() == tokenizer.encode(read.content.decode())


def test_it_repeats_itself_with_any_number_of_threads(params: Params) -> None:
    found = []
    for threads in (1, 3):
        threaded = params.model_copy(update={"run": params.run.model_copy(update={"threads": threads})})
        evaluate(setting(threaded, "evaluate", temperatures=[0.5]))
        found.append((METRICS.read_bytes(), (REPORTS / "samples.json").read_bytes()))
    torch.set_num_threads(1)
    assert found[0] == found[1]


def test_another_seed_writes_other_texts(params: Params) -> None:
    texts = []
    for seed in (1, 2):
        evaluate(params.model_copy(update={"run": params.run.model_copy(update={"seed": seed})}))
        texts.append(read_json(REPORTS / "samples.json")["texts"]["pretrain"])
    assert texts[0]["greedy"] == texts[1]["greedy"]
    assert texts[0]["temperature"] != texts[1]["temperature"]


def test_a_diverged_model_is_named_and_nothing_is_written(params: Params) -> None:
    save_model(model_dir("moe"), params, 1, broken=True)
    with pytest.raises(ArtifactError, match="moe: its model gives the validation text nan nats"):
        evaluate(params)
    assert not REPORTS.exists()


def test_without_control_or_temperatures_they_are_left_out(params: Params) -> None:
    for file in (model_dir("moe") / "control").iterdir():
        file.unlink()
    (model_dir("moe") / "control").rmdir()
    evaluate(params)
    assert "dense_continued" not in read_json(METRICS)["controls"]
    assert read_json(METRICS)["curve"] is None


def test_provenance_names_commit_and_overrides(params: Params) -> None:
    assert git_commit() == "unknown"
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost"]
    for command in (["init", "-q"], ["add", "text.txt"], ["commit", "-qm", "text"]):
        subprocess.run([*git, *command], check=True)
    gathered = gather_provenance(["run.seed=1"])
    assert len(gathered["git_commit"]) == 40
    Path("text.txt").write_text("changed")
    assert git_commit() == gathered["git_commit"] + "+"
    assert gathered["overrides"] == ["run.seed=1"]
    assert gathered["corpus"]["source"] == "text.txt"
    assert gathered["stages"]["pretrain"]["steps"] == 1
    json.dumps(gathered)
