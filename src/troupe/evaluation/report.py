"""reports/report.html: one page that needs nothing else, made from what stage evaluate leaves in reports/."""

import base64
import csv
import hashlib
import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from troupe.evaluation.result import Embedded, Evaluation, ModelFound, Routing, WorstDetection, read_found
from troupe.files import read_json, write_atomic
from troupe.judging.detection import Detection
from troupe.layout import EMBEDDED, METRICS, MODEL_STAGES, REPORT, ROUTING
from troupe.overlay import as_typed

TEMPLATE = "report.html.j2"
UNDECIDED = {"outcome": "undecided", "reasons": ["not yet decided: run make promote"]}
TEXTS = {  # the columns of the table of texts, of evaluation/quality.py: heading, format, factor
    "bits": ("bits<br>per byte", "%.2f", 1),
    "reverse_bits": ("reverse<br>bits", "%.2f", 1),
    "bleu_3": ("BLEU-3", "%.3f", 1),
    "self_bleu_3": ("self-<br>BLEU-3", "%.3f", 1),
    "distinct_1": ("distinct<br>words", "%.1f %%", 100),
    "distinct_2": ("distinct<br>pairs", "%.1f %%", 100),
    "repetition": ("repe-<br>tition", "%.1f %%", 100),
    "unigram_entropy": ("entropy<br>of words", "%.2f", 1),
    "out_of_vocabulary": ("unknown<br>words", "%.1f %%", 100),
    "memorisation": ("copied", "%.1f %%", 100),
    "longest_copy": ("longest<br>copy", "%.0f", 1),
}
VERDICT_KEYS = ("outcome", "stage", "version", "reasons", "champion_before", "time")


def render_report(reports_dir: Path, verdict: Mapping[str, Any] | None, provenance: Mapping[str, Any]) -> Path:
    """Write the page and return its path.

    `verdict` is {"outcome": "promoted" | "refused" | "unchanged", "stage", "version", "reasons": [line],
    "champion_before", "time" (ISO 8601)}, or None before the gate has spoken; `provenance` is of `gather_provenance`.
    Raises ArtifactError if metrics.json, samples.json, embedded.json or routing.json is missing or broken.
    """
    found = Evaluation.read(reports_dir / METRICS.name)
    routing = read_found(Routing, reports_dir / ROUTING.name)
    template = _environment().get_template(TEMPLATE)
    page = template.render(
        verdict=dict.fromkeys(VERDICT_KEYS) | dict(verdict or UNDECIDED),
        rendered=time.strftime("%Y-%m-%d %H:%M"),
        metrics=found,
        rows=rows(found),
        caveats=caveats(found),
        counted=counted(found),
        lineage=lineage(found, provenance),
        texts=TEXTS,
        samples=read_json(reports_dir / "samples.json"),
        plots={path.stem: _plot(path) for path in sorted((reports_dir / "plots").glob("*.svg"))},
        embedded=read_found(Embedded, reports_dir / EMBEDDED.name),
        routing=routing,
        layers_shown=layers_shown(len(routing.layers)),
        worker=_script("tokenizer.js", "transformer.js", "worker.js"),
        writer=_script("writer.js"),
        **_of_run(provenance),
    )
    path = reports_dir / REPORT.name
    write_atomic(path, page.encode())
    return path


@dataclass(frozen=True)
class Plot:
    """A picture of the page, what it shows in words, and what it was drawn from."""

    uri: str
    data_uri: str
    alt: str  # of a curve; other pictures have theirs in the template


@dataclass(frozen=True)
class Row:
    """A line of the comparison table; None stands for what it has not."""

    name: str
    note: str = ""
    model: ModelFound | None = None
    candidate: bool = False
    parameters: int | None = None
    bpb: float | None = None
    judge: WorstDetection | None = None
    judges: Mapping[str, Detection] | None = None
    quality: Mapping[str, float] | None = None


def rows(found: Evaluation) -> list[Row]:
    """The comparison table: models, control, real text and competitors."""
    controls, ngram, part = found.controls, found.ngram, counted(found)
    table = [_of_model(found, stage) for stage in MODEL_STAGES]
    if control := controls.dense_continued:
        table.append(Row("dense, continued", parameters=control.parameters, bpb=control.test.bpb))
    best = str(ngram.order_chosen_on_validation)
    for order in sorted({"5", best} & set(ngram.test), key=int):
        note = "chosen on validation" if order == best else ""
        name = f"Kneser-Ney, order {order}" + (f", of {part}" if part else "")
        table.append(Row(name, note, bpb=ngram.test[order]))
    if rivals := found.rivals:
        if rivals.counts is not None:
            table.append(Row("counts, mixed", "without a network", bpb=rivals.counts))
        table.append(Row("xz -9e", "after the training text" if not part else f"after {part} of it", bpb=rivals.xz))
    real = controls.real_against_real
    table.append(Row("real text", judge=real, judges=real.judges, quality=controls.real_text.quality))
    for name, note, bad in (
        ("known bad", "byte Markov chain", controls.known_bad),
        ("shuffled words", "of real text", controls.shuffled_words),
        ("copied", "training text", controls.copied),
    ):
        table.append(Row(name, note, judge=bad, judges=bad.judges))
    return table


def _of_model(found: Evaluation, stage: str) -> Row:
    model = found.models[stage]
    return Row(
        stage,
        model=model,
        candidate=stage == found.candidate.stage,
        parameters=model.parameters,
        bpb=model.test.bpb,
        judge=model.test.judge,
        judges=model.test.judges,
        quality=model.quality,
    )


@dataclass(frozen=True)
class Origin:
    """What a stage has made, from what, and its digest."""

    stage: str
    made: str
    source: str
    sha256: str


def lineage(found: Evaluation, provenance: Mapping[str, Any]) -> list[Origin]:
    """From the text to the weights that were measured: files alone, so it needs no registry."""
    text, tokens = provenance["corpus"], provenance["tokens"]
    begun_as = f", begun as {found.initial.init_from}" if found.initial else ""
    kept = provenance["stages"].get("adversarial", {}).get("selected")
    sources = {
        "pretrain": f"the text in tokens{begun_as}",
        "moe": "the weights of pretrain",
        "adversarial": "the weights of moe" + (f", kept: {kept}" if kept else ""),
    }
    return [
        Origin("corpus", "text", text["source"], text["sha256"]),
        Origin("tokens", "tokenizer", "the training text", tokens["sha256"]),
        *(Origin(stage, "weights", sources[stage], found.models[stage].weights_sha256) for stage in MODEL_STAGES),
    ]


def caveats(found: Evaluation) -> list[str]:
    """What a reader must know before believing the figures: a sentence each."""
    sentences, initial = [], found.initial
    if initial and initial.has_seen != "training text":
        sentences.append(
            f"The models began as {initial.init_from}; what these weights have seen before is unknown: "
            "likelihoods on test text may be too good."
        )
    return sentences


def counted(found: Evaluation) -> str:
    """The part of the training text that n-grams were counted and copies looked for in; "" if it is all of it."""
    train = found.text["train"]
    if train.bytes >= train.of:
        return ""
    size, unit = (train.bytes / 2**20, "MiB") if train.bytes >= 2**20 else (train.bytes / 2**10, "KiB")
    return f"the first {size:.3g} {unit}"


def _of_run(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What was trained on what."""
    copied = ("corpus", "tokens", "params", "profile", "overrides", "changed", "git_commit")
    return {name: provenance[name] for name in copied} | {
        "stages": {stage: provenance["stages"].get(stage, {}) for stage in MODEL_STAGES},
        "typed": as_typed(provenance["overrides"]) if provenance["overrides"] else "",
    }


def layers_shown(n_layer: int) -> list[int]:
    """The first, the last and at most two between: what a phone scrolls through in a few strokes."""
    return sorted({round(part * (n_layer - 1) / 3) for part in range(4)}) if n_layer else []


def routed(routing: Routing) -> list[tuple[object, ...]]:
    """A row for each expert that a token took, under names of columns."""
    table: list[tuple[object, ...]] = [("layer", "routes", "head", "position", "token", "expert", "gate")]
    for layer, routers in enumerate(routing.layers):
        for routes, heads in routers.items():
            for head, tokens in enumerate(heads):
                for position, took in enumerate(tokens):
                    of_token = (layer, routes, head, position, routing.tokens[position])
                    table += [(*of_token, *pair) for pair in zip(took.experts, took.gates, strict=True)]
    return table


def _script(*names: str) -> Markup:
    """Files of this folder as they stand, to be put between two tags."""
    content = "".join((Path(__file__).parent / name).read_text(encoding="utf-8") for name in names)
    return Markup(content)  # our own code, which holds no tag


def _digest(script: str) -> str:
    """As a content security policy names an inline script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _json(value: object) -> Markup:
    """For an inert script: whatever stands in a text, it ends no tag."""
    return Markup(json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


def _plot(path: Path) -> Plot:
    data = (path.parents[1] / "data" / f"{path.stem}.csv").read_text(encoding="utf-8")
    return Plot(_data_uri("image/svg+xml", path.read_text(encoding="utf-8")), _data_uri("text/csv", data), _words(data))


def _words(data: str) -> str:
    """What a curve over steps shows; "" of any other table."""
    (first, title, *_), *points = csv.reader(io.StringIO(data))
    if first != "step" or not points:
        return ""
    (start, at_start), (end, at_end) = points[0], points[-1]
    return f"{title}, over steps: from {float(at_start):.4g} at step {start} to {float(at_end):.4g} at step {end}"


def _csv(table: list[tuple[object, ...]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(table)
    return _data_uri("text/csv", buffer.getvalue())


def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["thousands"] = lambda number: f"{number:,}".replace(",", "\u202f")  # narrow space
    environment.filters |= {"json": _json, "digest": _digest, "csv": _csv, "routed": routed}
    environment.filters["capitalised"] = lambda text: text[:1].upper() + text[1:]
    environment.tests["startswith"] = str.startswith
    return environment


def _data_uri(kind: str, content: str) -> str:
    return f"data:{kind};base64," + base64.b64encode(content.encode()).decode()
