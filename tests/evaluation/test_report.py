"""The page and its pictures: self-contained, escaped, the same for the same figures."""

import base64
import csv
import hashlib
import io
import json
import math
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from troupe.errors import ArtifactError
from troupe.evaluation.plots import (
    PANELS,
    curve,
    draw_all,
    judge_over_temperature,
    panels,
    quality_against_diversity,
    series,
)
from troupe.evaluation.report import TEXTS, counted, layers_shown, lineage, render_report, rows
from troupe.evaluation.result import Embedded, Evaluation, Greedy, RoundedBits, Routed, Routing
from troupe.files import read_json, write_json
from troupe.layout import MODEL_STAGES

SAME = {"correct": 70, "n": 100, "standard_error": 0.01, "jsd": 0.2, "jsd_low": 0.1, "jsd_high": 0.3}
LOAD = [[[[0.5, 0.5, 0.0]], [[0.2, 0.3, 0.5]]], [[[1.0, 0.0, 0.0]], [[0.3, 0.3, 0.4]]]]  # 2 layers of one head
USED = {"experts/layer0/values/head0": 2.5, "experts/layer11/outputs/head3": 1.5}  # experts, of two routers
NASTY = "<script>alert('x')</script> & \"quotes\""


def judged(accuracy: float) -> dict[str, Any]:
    """As of a stage: the worst is "boosted"."""
    judges = {
        family: {"accuracy": found, "low": found - 0.02, "high": found + 0.02, "auc": found, **SAME}
        for family, found in (("linear", accuracy - 0.05), ("boosted", accuracy), ("likelihood", accuracy - 0.01))
    }
    return {"judge": {"family": "boosted", **judges["boosted"]}, "judges": judges}


def control(accuracy: float) -> dict[str, Any]:
    ruling = judged(accuracy)
    return {**ruling["judge"], "judges": ruling["judges"]}


def power(accuracies: Sequence[float]) -> dict[str, Any]:
    several = [judged(accuracy)["judges"] for accuracy in accuracies]
    return {
        "shares": [0.01, 0.05, 0.2],
        "judges": {family: [judges[family] for judges in several] for family in several[0]},
    }


def evaluation(**changes: Any) -> Evaluation:
    return Evaluation.model_validate(metrics() | changes)


def metrics(temperatures: Sequence[float] = (0.7, 1.0)) -> dict[str, Any]:
    quality = dict.fromkeys(TEXTS, 0.5)
    both = {split: {"bpb": 1.4, **judged(0.7)} for split in ("validation", "test")}
    model = {"weights_sha256": "ab" * 32, "parameters": 2_010_000, "quality": quality, **both}
    points = [{"temperature": t, "accuracy": 0.6 + t / 10, **quality, "bits": 2 + t} for t in temperatures]
    curve = {
        "judges": ["linear", "boosted"],
        "models": dict.fromkeys(MODEL_STAGES, points),
        "real_text": {"accuracy": 0.5, **quality},
    }
    ngram = {str(order): 3.0 / order for order in range(1, 7)}
    return {
        "test_sha256": "cd" * 32,
        "text": {split: {"bytes": 1000, "of": 1000} for split in ("train", "validation", "test")},
        "initial": None,
        "judge": {"name": "judge", "seeds": 5, "window_bytes": 128, "texts": 400, "digest": "ef" * 32}
        | {"families": {"linear": "words", "boosted": "trees", "likelihood": NASTY}},
        "models": dict.fromkeys(MODEL_STAGES, model),
        "controls": {
            "dense_continued": {"parameters": 2_000_000, "validation": {"bpb": 1.5}, "test": {"bpb": 1.5}},
            "real_against_real": control(0.5),
            "real_text": {"quality": quality},
            "known_bad": control(0.98),
            "shuffled_words": control(0.97),
            "copied": control(0.96),
            "power": power([0.505, 0.51, 0.9]),
        },
        "curve": curve if temperatures else None,
        "ngram": {"order_chosen_on_validation": 6, "validation": ngram, "test": ngram},
        "rivals": {"xz": 2.5, "counts": 1.7},
        "candidate": {"stage": "moe", "reason": "it is " + NASTY},
    }


def provenance() -> dict[str, Any]:
    sizes = {split: {"bytes": 1000, "sha256": "00"} for split in ("train", "validation", "test")}
    model = {"n_layer": 4, "n_head": 4, "n_embd": 192, "block_size": 128}
    return {
        "corpus": {"source": NASTY, "bytes": 3000, "sha256": "12" * 32, "licence": NASTY, "splits": sizes},
        "tokens": {"vocab_size": 1024, "tokens": {"train": 1, "validation": 1, "test": 1}, "sha256": "56" * 32},
        "stages": {"pretrain": {"steps": 1000, "seconds": 61.4}},
        "params": {
            "run": {"seed": 1},
            "tokens": {"kind": "bpe"},
            "model": model,
            "moe": {"top_k": 2, "n_expert": 4},
            "adversarial": {"methods": ["tilt", "gan"]},
        },
        "profile": "small",
        "overrides": ["run.seed=1"],
        "changed": ["model.n_layer", "run.seed"],
        "git_commit": "3" * 40,
    }


def logs() -> dict[str, list[dict[str, float]]]:
    """Of every stage a falling loss; of stage moe how many experts two routers use, too."""
    found: dict[str, list[dict[str, float]]] = {
        stage: [{"step": i, "train/loss": 2 + math.exp(-i)} for i in range(200)] for stage in MODEL_STAGES
    }
    found["moe"] += [{"step": step, **USED, "moe/dead_experts": 0} for step in (0, 100, 200)]
    return found


EMBEDDED = Embedded(
    stage="moe",
    tilted=True,
    parameters=1_234_567,
    bits=RoundedBits(float32=1.5, int8=1.5004),
    greedy=Greedy(prompt="The " + NASTY, ids=[1, 2, 3], as_float32=2),
    data={"model": {}, "tokenizer": {"tokens": ["</script>", NASTY, "\u2028", "é"]}},
)
TOOK = [Routed(experts=[expert, 3 - expert], gates=[0.75, 0.25]) for expert in range(3)]
ROUTING = Routing(
    sentence="a " + NASTY, tokens=["a", " <b>", "\n"], n_expert=4, layers=[{"values": [TOOK], "outputs": [TOOK[::-1]]}]
)


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    write_reports(tmp_path, EMBEDDED)
    return tmp_path


def write_reports(folder: Path, embedded: Embedded) -> None:
    """What stage evaluate leaves for the page."""
    samples = {
        "prompt": "The ",
        "tokens": 8,
        "settings": {"greedy": "the likeliest token"},
        "texts": {stage: {"greedy": NASTY} for stage in MODEL_STAGES},
    }
    write_json(folder / "metrics.json", metrics())
    write_json(folder / "samples.json", samples)
    write_json(folder / "embedded.json", embedded.model_dump())
    write_json(folder / "routing.json", ROUTING.model_dump())
    draw_all(folder, evaluation(), logs(), LOAD)


class Page(HTMLParser):
    """Which elements there are, and which addresses they name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.addresses: list[str] = []
        self.pictures: list[str | None] = []  # in words
        self.downloads: dict[str, str] = {}
        self.scripts: list[str] = []
        self.policy = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        of = dict(attributes)
        if tag == "script":
            self.scripts.append("")
        if tag == "img":
            self.pictures.append(of.get("alt"))
        if tag == "a":
            self.downloads[str(of["download"])] = base64.b64decode(str(of["href"]).partition(",")[2]).decode()
        if of.get("http-equiv") == "Content-Security-Policy":
            self.policy = str(of["content"])
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "action")]

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data


def table(content: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content, newline="")))


def test_the_page_needs_nothing_else_and_escapes_all_text(reports: Path) -> None:
    text = render_report(reports, None, provenance()).read_text(encoding="utf-8")
    page = Page(text)
    assert not {"link", "iframe"} & set(page.elements)
    assert page.elements.count("script") == 3, "the model, what its worker runs, and the form's: whatever texts hold"
    assert page.elements.count("img") == 5 + len(MODEL_STAGES) + 2, (
        "two tables, what judges see, two over temperatures, each stage's, experts and how many are in use"
    )
    assert all(
        address.startswith(("data:image/svg+xml;base64,", "data:text/csv;base64,")) for address in page.addresses
    )
    assert "url(" not in text
    assert "@import" not in text
    assert text.count("&lt;script&gt;alert") == 7 + len(MODEL_STAGES)


def test_its_policy_lets_one_script_run_and_nothing_be_asked_for(reports: Path) -> None:
    page = Page(render_report(reports, None, provenance()).read_text(encoding="utf-8"))
    model, worker, form = page.scripts
    assert json.loads(model) == {"data": EMBEDDED.data, "greedy": EMBEDDED.model_dump()["greedy"]}
    assert "onmessage" in worker
    digest = base64.b64encode(hashlib.sha256(form.encode()).digest()).decode()
    assert set(page.policy.split("; ")) == {
        *("default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'"),
        *("worker-src blob:", "base-uri 'none'", "form-action 'none'"),
    }


def test_it_says_what_the_model_in_it_is(reports: Path) -> None:
    text = render_report(reports, None, provenance()).read_text(encoding="utf-8")
    assert "the untilted network writes" in text
    assert "needs 1.5004 bits per byte of test text, and 1.5000 before" in text
    assert "Of 3 greedy tokens the first 2 are" in text
    plain = EMBEDDED.model_copy(update={"tilted": False})
    write_json(reports / "embedded.json", plain.model_dump())
    assert "untilted" not in render_report(reports, None, provenance()).read_text(encoding="utf-8")
    refused = Embedded(stage="moe", tilted=False, parameters=9, refused="it would add <9> MB")
    write_json(reports / "embedded.json", refused.model_dump())
    text = render_report(reports, None, provenance()).read_text(encoding="utf-8")
    assert "The model of moe is not in this page: it would add &lt;9&gt; MB." in text
    assert not {"script", "form"} & set(Page(text).elements)


def test_every_figure_says_in_words_what_it_shows_and_hands_out_its_data(reports: Path) -> None:
    page = Page(render_report(reports, None, provenance()).read_text(encoding="utf-8"))
    assert all(page.pictures)
    assert "moe · training loss, nats per token, over steps: from 3 at step 0 to 2 at step 199" in page.pictures
    pictures = {f"{path.stem}.csv" for path in (reports / "plots").iterdir()}
    assert set(page.downloads) == pictures | {"routing.csv"}
    tables = {name: table(content) for name, content in page.downloads.items()}
    points = tables["moe-00-train-loss.csv"]
    assert points[0] == ["step", "moe · training loss, nats per token"]
    assert [(int(step), float(loss)) for step, loss in points[1:]] == [(i, 2 + math.exp(-i)) for i in range(200)]
    assert ["moe", "1.4"] in tables["bits-per-byte.csv"]
    [of_moe] = [row for row in tables["judge.csv"] if row[0] == "moe"]
    assert [float(figure) for figure in of_moe[1:]] == [0.7, 0.7 - 0.02, 0.7 + 0.02]
    assert ["1", "outputs", "0", "2", "0.4"] in tables["moe-experts.csv"]
    assert tables["moe-experts-over-steps.csv"] == [
        ["layer", "routes", "head", "step", "experts in use"],
        *(["0", "values", "0", str(step), "2.5"] for step in (0, 100, 200)),
        *(["11", "outputs", "3", str(step), "1.5"] for step in (0, 100, 200)),
    ]
    assert tables["curve-judge.csv"][0][:3] == ["model", "temperature", "accuracy"]
    assert len(tables["curve-judge.csv"]) == 1 + 2 * len(MODEL_STAGES) + 1


def test_the_lineage_leads_from_the_text_to_the_weights_that_were_measured() -> None:
    about = provenance() | {"stages": {"adversarial": {"selected": "tilt"}}}
    steps = lineage(evaluation(), about)
    assert [step.stage for step in steps] == ["corpus", "tokens", *MODEL_STAGES]
    assert [step.sha256 for step in steps] == ["12" * 32, "56" * 32, *["ab" * 32] * 3]
    assert steps[-1].source == "the weights of moe, kept: tilt"
    begun = {"init_from": "gpt2", "sha256": "0", "has_seen": "unknown"}
    assert "begun as gpt2" in lineage(evaluation(initial=begun), about)[2].source


def test_the_sentence_s_experts_stand_token_by_token(reports: Path) -> None:
    text = render_report(reports, None, provenance()).read_text(encoding="utf-8")
    assert '<th scope="row">·&lt;b&gt;</th><td class="e1">1 2</td><td class="e1">1 2</td></tr>' in text
    assert '<th scope="row">⏎</th><td class="e2">2 1</td><td class="e0">0 3</td></tr>' in text
    rows = table(Page(text).downloads["routing.csv"])
    assert rows[0] == ["layer", "routes", "head", "position", "token", "expert", "gate"]
    assert rows.count(["0", "values", "0", "2", "\n", "1", "0.25"]) == 1
    assert len(rows) == 1 + 2 * len(TOOK) * 2
    deep = ROUTING.model_copy(update={"layers": ROUTING.layers * 12})
    write_json(reports / "routing.json", deep.model_dump())
    text = render_report(reports, None, provenance()).read_text(encoding="utf-8")
    assert "Of 12 layers 4 are drawn." in text
    assert re.findall(r"<caption>Layer (\d+)", text) == ["0", "4", "7", "11"]
    assert len(table(Page(text).downloads["routing.csv"])) == 1 + 12 * 2 * len(TOOK) * 2
    assert [layers_shown(n) for n in range(6)] == [[], [0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 3, 4]]
    write_json(reports / "routing.json", ROUTING.model_copy(update={"layers": []}).model_dump())
    assert "through the experts" not in render_report(reports, None, provenance()).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("outcome", "before", "title"),
    [
        ("promoted", None, "moe is the new champion"),
        ("refused", "models:/troupe/2", "The champion stays"),
        ("refused", None, "No model was promoted"),
        ("unchanged", "models:/troupe/2", "The champion stays as it is"),
    ],
)
def test_the_headline_is_the_verdict(reports: Path, outcome: str, before: str | None, title: str) -> None:
    verdict = {"outcome": outcome, "stage": "moe", "version": "models:/troupe/3", "reasons": ["worse by <0.1>"]}
    text = render_report(reports, verdict | {"champion_before": before, "time": "now"}, provenance()).read_text()
    assert f"<h1>{title}</h1>" in text
    assert "<p>Worse by &lt;0.1&gt;</p>" in text


def test_without_a_verdict_it_says_what_to_do(reports: Path) -> None:
    text = render_report(reports, None, provenance()).read_text(encoding="utf-8")
    assert "<h1>moe is the candidate</h1>" in text
    assert "run make promote" in text


def test_it_names_profile_and_overrides_and_marks_what_they_set(reports: Path) -> None:
    text = render_report(reports, None, provenance()).read_text(encoding="utf-8")
    assert 'make pipeline PROFILE=small SET="run.seed=1"</pre>' in unescape(text)
    assert '<dt>n_layer</dt><dd class="set">4</dd>' in text
    assert '<dt>n_head</dt><dd class="">4</dd>' in text
    plain = provenance() | {"profile": "", "overrides": [], "changed": []}
    text = render_report(reports, None, plain).read_text(encoding="utf-8")
    assert "make pipeline</pre>" in text
    assert "none: params.yaml as it stands" in text


def test_a_missing_figure_is_an_error_not_a_blank(reports: Path) -> None:
    (reports / "metrics.json").unlink()
    with pytest.raises(ArtifactError, match=r"metrics\.json"):
        render_report(reports, None, provenance())


def test_a_figure_of_another_shape_is_named(reports: Path) -> None:
    figures = metrics()
    figures["models"]["moe"] = {**figures["models"]["moe"], "test": {"judge": {}}}
    write_json(reports / "metrics.json", figures)
    with pytest.raises(
        ArtifactError, match=r"metrics\.json: models\.moe\.test\.bpb: Field required; run stage evaluate"
    ):
        render_report(reports, None, provenance())


def test_an_evaluation_is_written_as_it_is_read(tmp_path: Path) -> None:
    evaluation().write(tmp_path / "metrics.json")
    assert read_json(tmp_path / "metrics.json") == metrics()
    assert Evaluation.read(tmp_path / "metrics.json") == evaluation()


def test_the_table_has_every_competitor_and_the_best_order() -> None:
    assert [row.name for row in rows(evaluation())] == [
        *MODEL_STAGES, "dense, continued", "Kneser-Ney, order 5", "Kneser-Ney, order 6", "counts, mixed", "xz -9e",
        "real text", "known bad", "shuffled words", "copied",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("n_bytes", "of", "said"),
    [
        (1000, 1000, ""),
        (1100, 2000, "the first 1.07 KiB"),
        (2**22 + 2048, 2**23, "the first 4 MiB"),
        (2**29, 2**33, "the first 512 MiB"),
    ],
)
def test_what_counting_has_not_seen_is_said_wherever_it_is_named(
    n_bytes: int, of: int, said: str, reports: Path
) -> None:
    figures = metrics()
    figures["text"]["train"] = {"bytes": n_bytes, "of": of}
    found = Evaluation.model_validate(figures)
    assert counted(found) == said
    counting = [row.name for row in rows(found) if row.name.startswith("Kneser-Ney")]
    suffix = f", of {said}" if said else ""
    assert counting == [f"Kneser-Ney, order 5{suffix}", f"Kneser-Ney, order 6{suffix}"]
    write_json(reports / "metrics.json", figures)
    text = render_report(reports, None, provenance()).read_text(encoding="utf-8")
    assert (f"<th>copied<br>from {said}</th>" if said else "<th>copied</th>") in text


@pytest.mark.parametrize("seen", ["unknown", "training text"])
def test_weights_with_an_unknown_past_are_called_so(seen: str, reports: Path) -> None:
    write_json(reports / "metrics.json", metrics() | {"initial": {"init_from": "gpt2", "has_seen": seen}})
    text = render_report(reports, None, provenance()).read_text(encoding="utf-8")
    warned = "began as gpt2; what these weights have seen before is unknown: likelihoods on test text may be too good"
    assert (warned in text) == (seen == "unknown")


def test_every_family_stands_beside_the_worst_which_is_marked(reports: Path) -> None:
    text = render_report(reports, None, provenance()).read_text(encoding="utf-8")
    for family in ("linear", "boosted", "likelihood"):
        assert f"<th>{family}</th>" in text
    assert text.count('<td><span class="model">0.700</span></td>') == len(MODEL_STAGES)
    assert text.count('<td><span class="">0.690</span></td>') == len(MODEL_STAGES)
    assert "accuracy of the worst of these judges (boosted) on 100 texts, half of them real; 50 % is guessing" in text


def test_a_share_counts_as_detected_if_every_larger_one_is(reports: Path) -> None:
    """The interval is the accuracy and 0.02 on either side."""
    found = evaluation().controls.power
    assert {family: found.smallest(family) for family in found.judges} == {
        "linear": 0.2, "boosted": 0.2, "likelihood": 0.2,
    }  # fmt: skip
    all_seen, gap = (type(found).model_validate(power(seen)) for seen in ([0.6, 0.7, 0.9], [0.6, 0.5, 0.9]))
    assert (all_seen.smallest("boosted"), gap.smallest("boosted")) == (0.01, 0.2)
    assert type(found).model_validate(power([0.6, 0.7, 0.5])).smallest("boosted") is None
    text = render_report(reports, None, provenance()).read_text(encoding="utf-8")
    assert "<td>20 %</td>" in text
    assert "On 100 texts of test text, once;" in text


def test_without_a_curve_there_is_no_mention_of_one(reports: Path) -> None:
    assert "Over temperatures" in render_report(reports, None, provenance()).read_text(encoding="utf-8")
    write_json(reports / "metrics.json", metrics(temperatures=()))
    draw_all(reports, evaluation(curve=None), {}, LOAD)
    assert not list((reports / "plots").glob("curve-*"))
    assert "Over temperatures" not in render_report(reports, None, provenance()).read_text(encoding="utf-8")


def test_a_line_goes_through_every_point_of_the_curve_and_real_text_is_drawn() -> None:
    figures = evaluation().curve
    assert figures is not None
    axes = quality_against_diversity(figures).axes[0]
    *models, real = [list(zip(*line.get_data(), strict=True)) for line in axes.lines]
    assert models == [[(0.5, 2.7), (0.5, 3.0)]] * len(MODEL_STAGES)
    assert real == [(0.5, 0.5)]
    *judged_models, floor = judge_over_temperature(figures).axes[0].lines
    assert [line.get_ydata().tolist() for line in judged_models] == [pytest.approx([0.67, 0.7])] * len(MODEL_STAGES)
    assert list(floor.get_ydata()) == [0.5, 0.5]


def test_pictures_are_well_formed_and_the_same_for_the_same_figures(reports: Path) -> None:
    before = {path.name: path.read_bytes() for path in (reports / "plots").iterdir()}
    draw_all(reports, evaluation(), logs(), LOAD)
    assert before == {path.name: path.read_bytes() for path in (reports / "plots").iterdir()}
    for picture in before.values():
        root = ElementTree.fromstring(picture)  # our own file
        assert root.tag.endswith("svg")
        assert b"prefers-color-scheme:dark" in picture
    assert "matplotlib.pyplot" not in sys.modules


def test_a_curve_keeps_the_range_of_its_figures() -> None:
    """Smoothing takes means, so the thick line stays within the thin one and ends near its end."""
    axes = curve([(step, float(step % 2)) for step in range(1000)], "zigzag", "blue").axes[0]
    thin, thick = axes.lines
    assert len(thin.get_xdata()) == 1000
    assert set(thick.get_ydata()) == {0.5}


def test_figures_that_are_not_numbers_are_left_out() -> None:
    records = [{"step": 1, "train/loss": 2.0}, {"step": 2, "train/loss": "nan"}, {"step": 3}]
    assert series(records, "train/loss") == [(1, 2.0)]
    assert "train/loss" in PANELS


def test_it_says_what_came_of_every_method_and_why_what_is_kept_is(reports: Path) -> None:
    figures = {"accuracy": 0.514, "low": 0.49, "high": 0.54, "judge": "linear", "bpb": 1.5234}
    facts = provenance()
    summary = {
        "methods": ["tilt", "gan"],
        "tilt": {"result": "3 of 3"},
        "gan": {"result": "signal: AUC 0.8"},
        "candidates": {"tilt_1": figures},
        "kept": "tilt_1: " + NASTY,
    }
    facts["stages"]["adversarial"] = summary
    text = render_report(reports, None, facts).read_text(encoding="utf-8")
    assert "<dt>tilt</dt><dd>3 of 3</dd>" in text
    assert "<dt>gan</dt><dd>signal: AUC 0.8</dd>" in text
    assert "tilt_1 0.514 (0.490 to 0.540; linear) at 1.523 bits per byte: detection accuracy" in text
    assert "<dt>Kept</dt><dd>tilt_1: &lt;script&gt;alert" in text
    summary["candidates"] = {}
    assert "<dt>Candidates</dt>" not in render_report(reports, None, facts).read_text(encoding="utf-8")
    assert "<dt>gan</dt>" not in render_report(reports, None, provenance()).read_text(encoding="utf-8")


def test_figures_of_methods_are_drawn_under_their_names() -> None:
    records = [
        {"step": 1, "gan/critic/loss": 0.7, "gan/val/bpb": 2.0},
        {"step": 0, "tilt/val/bpb": 2.0, "tilt/auc": 1.0},
    ]
    assert [name for name, _ in panels(records)] == ["gan/val/bpb", "gan/critic/loss", "tilt/val/bpb"]
    assert panels([{"step": 1, "val/bpb": 2.0}]) == [("val/bpb", PANELS["val/bpb"])]
