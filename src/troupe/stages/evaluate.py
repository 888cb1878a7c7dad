"""Stage evaluate: every model on the same held-out text -> reports: metrics.json, samples.json, plots, report.html."""

import hashlib
from collections.abc import Mapping
from itertools import count

import numpy as np
from rich.console import Console
from rich.table import Table

from troupe.compute import set_up
from troupe.data.batches import load_ids
from troupe.data.corpus import Split, read_manifest, split_beginning, split_text
from troupe.data.tokenizer import load_tokenizer
from troupe.evaluation.candidate import choose
from troupe.evaluation.comparison import Comparison, Figures, HeldOut
from troupe.evaluation.plots import draw_all
from troupe.evaluation.provenance import gather_provenance
from troupe.evaluation.realism import description, prompt_length
from troupe.evaluation.report import render_report
from troupe.evaluation.samples import write_samples
from troupe.evaluation.windows import find_places, token_bytes
from troupe.files import read_json, write_json
from troupe.layout import CORPUS, METRICS, MODEL_STAGES, REPORTS, TOKENS, model_dir
from troupe.models.bundle import TOKENIZER, Bundle, load_bundle
from troupe.params import EvaluateParams, Params
from troupe.stages.common import overrides_from_environment, profile_from_environment, stage_main
from troupe.stages.log import read_metrics
from troupe.stages.progress import track

HELD_OUT: tuple[Split, ...] = ("validation", "test")
CONTROL = model_dir("moe") / "control"  # the dense model continued, with moe.control


def evaluate(params: Params) -> None:
    """Measure all models on held-out text, have them judged, and write what was found to reports/."""
    device = set_up(params.run)
    models = {stage: load_bundle(model_dir(stage), device) for stage in MODEL_STAGES}
    control = load_bundle(CONTROL, device) if CONTROL.exists() else None
    metrics = measure(params, models, control)
    write_json(METRICS, metrics)
    write_json(REPORTS / "samples.json", write_samples(models, params.evaluate, params.run.seed))
    logs = {stage: read_metrics(model_dir(stage) / "metrics.jsonl") for stage in MODEL_STAGES}
    draw_all(REPORTS / "plots", metrics, logs)
    provenance = gather_provenance(overrides_from_environment(), profile_from_environment())
    page = render_report(REPORTS, None, provenance)
    Console().print(table(metrics))
    print(
        f"candidate: {metrics['candidate']['stage']}, because {metrics['candidate']['reason']}\nreport: {page}",
        flush=True,
    )


def measure(params: Params, models: dict[str, Bundle], control: Bundle | None) -> Figures:
    """The content of reports/metrics.json."""
    train = split_beginning(CORPUS, "train", params.evaluate.train_bytes)
    held_out = read_held_out(params.evaluate, models["pretrain"].model.config.block_size)
    text = {"train": train.encode()} | {split: held_out[split].content for split in HELD_OUT}
    digests = {split: hashlib.sha256(content).hexdigest() for split, content in text.items()}
    seeds, everyone = params.evaluate.judge_seeds, models | ({"dense_continued": control} if control else {})
    with track("evaluate", len(everyone) * len(HELD_OUT) + (len(models) + 2) * seeds) as show:
        done = count(1)
        comparison = Comparison(
            train=train,
            held_out=held_out,
            params=params.evaluate,
            seed=params.run.seed,
            tick=lambda figures: show(next(done), figures),
        )
        bpb = comparison.likelihoods({name: bundle.model for name, bundle in everyone.items()})
        judged = comparison.judge({stage: bundle.model for stage, bundle in models.items()})
    measured = {stage: of_model(bundle, bpb[stage], judged[stage]) for stage, bundle in models.items()}
    controls: Figures = {name: judged[name]["judge"]["test"] for name in ("known_bad", "real_against_real")}
    if control:
        likelihood = {split: {"bpb": value} for split, value in bpb["dense_continued"].items()}
        controls["dense_continued"] = {"parameters": size(control), **likelihood}
    return {
        "test_sha256": digests["test"],
        "text": shares(text),
        "judge": description(params.evaluate, {split: digests[split] for split in ("train", "validation")}),
        "models": measured,
        "controls": controls | {"real_text": {"diversity": comparison.real_diversity()}},
        "ngram": comparison.ngram(),
        "candidate": choose(measured, params.promote.bpb_margin),
    }


def of_model(bundle: Bundle, bpb: Mapping[str, float], judged: Figures) -> Figures:
    """What metrics.json says of one model."""
    return {
        "weights_sha256": bundle.sha256,
        "parameters": size(bundle),
        **{split: {"bpb": bpb[split], "judge": judged["judge"][split]} for split in HELD_OUT},
        "diversity": judged["diversity"],
    }


def size(bundle: Bundle) -> int:
    return sum(parameter.numel() for parameter in bundle.model.parameters())


def shares(measured: Mapping[str, bytes]) -> Figures:
    """{split: {"bytes", "of"}}: how many bytes of each split the figures are of, and how many it has."""
    splits = read_manifest(CORPUS)["splits"]
    return {split: {"bytes": len(content), "of": splits[split]["bytes"]} for split, content in measured.items()}


def read_held_out(params: EvaluateParams, block_size: int) -> dict[str, HeldOut]:
    """The beginning of each held-out split: at most `held_out_bytes` in whole tokens, with the judge's places in it."""
    tokenizer, meta = load_tokenizer(TOKENS / TOKENIZER), read_json(TOKENS / "meta.json")
    prompt = prompt_length(meta["bytes"]["train"] / meta["tokens"]["train"], block_size)
    read: dict[str, HeldOut] = {}
    for split in HELD_OUT:
        ids = load_ids(TOKENS, split)[: params.held_out_bytes]  # a token is a byte at least
        ends = np.cumsum(token_bytes(tokenizer)[ids])
        ids = ids[: np.searchsorted(ends, params.held_out_bytes, side="right")]
        places = find_places(split, ids, tokenizer, params.judge_window, prompt)
        read[split] = HeldOut(split_text(CORPUS, split).encode()[: ends[len(ids) - 1]], ids, places)
    return read


def table(metrics: Figures) -> Table:
    """The main figures for a terminal, all on test text."""
    shown = Table("model", "bits per byte", "judge accuracy (95 %)", title="Test text: lower is better")
    for name in MODEL_STAGES:
        model = metrics["models"][name]
        judge = model["test"]["judge"]
        accuracy = f"{judge['accuracy']:.3f}  ({judge['low']:.3f} to {judge['high']:.3f})"
        shown.add_row(name, f"{model['test']['bpb']:.3f}", accuracy)
    if control := metrics["controls"].get("dense_continued"):
        shown.add_row("dense, continued", f"{control['test']['bpb']:.3f}", "")
    ngram = metrics["ngram"]
    best = str(ngram["order_chosen_on_validation"])
    for order in dict.fromkeys(("5", best)):
        if order in ngram["test"]:
            shown.add_row(f"Kneser-Ney order {order}", f"{ngram['test'][order]:.3f}", "")
    return shown


if __name__ == "__main__":
    stage_main("evaluate", evaluate)
