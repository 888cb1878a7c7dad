"""Stage evaluate: every model on the same held-out text -> reports: metrics.json, samples.json, plots, report.html."""

import hashlib
from collections.abc import Mapping
from itertools import count

from rich.console import Console
from rich.table import Table

from troupe.compute import set_up
from troupe.data.corpus import Split, read_manifest, split_beginning
from troupe.data.dataset import TokenDataset
from troupe.data.room import prompt_length
from troupe.evaluation.candidate import choose
from troupe.evaluation.comparison import Comparison, Figures, HeldOut
from troupe.evaluation.judging import make_judging
from troupe.evaluation.plots import draw_all
from troupe.evaluation.provenance import gather_provenance
from troupe.evaluation.referee import description
from troupe.evaluation.report import caveats, render_report, rows
from troupe.evaluation.result import (
    Controls,
    Counted,
    Curve,
    Evaluation,
    Initial,
    JudgeDescription,
    Measured,
    ModelFound,
    OnSplit,
    RealText,
    WorstDetection,
)
from troupe.evaluation.samples import write_samples
from troupe.evaluation.windows import find_places
from troupe.evaluation.writing import CONTROLS, REAL, Writing
from troupe.files import read_json, write_json
from troupe.layout import CORPUS, MODEL_STAGES, REPORTS, USAGE, model_dir
from troupe.models.bundle import Bundle, load_bundle
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
    found = measure(params, models, control)
    found.write()
    write_json(REPORTS / "samples.json", write_samples(models, params.evaluate, params.run.seed))
    logs = {stage: read_metrics(model_dir(stage) / "metrics.jsonl") for stage in MODEL_STAGES}
    draw_all(REPORTS / "plots", found, logs, read_json(USAGE)["load"])
    provenance = gather_provenance(overrides_from_environment(), profile_from_environment())
    page = render_report(REPORTS, None, provenance)
    Console().print(table(found))
    candidate = f"candidate: {found.candidate.stage}, because {found.candidate.reason}"
    print(*caveats(found), candidate, f"report: {page}", sep="\n", flush=True)


def measure(params: Params, models: dict[str, Bundle], control: Bundle | None) -> Evaluation:
    """All figures of all models."""
    train = split_beginning(CORPUS, "train", params.evaluate.train_bytes)
    held_out = read_held_out(params.evaluate, models["pretrain"].model.config.block_size)
    text = {"train": train.encode()} | {split: held_out[split].content for split in HELD_OUT}
    digests = {split: hashlib.sha256(content).hexdigest() for split, content in text.items()}
    everyone = models | ({"dense_continued": control} if control else {})
    judging = make_judging(Writing(train, held_out, models, params.evaluate, params.run.seed))
    with track("evaluate", len(everyone) * len(HELD_OUT) + judging.steps) as show:
        done = count(1)
        comparison = Comparison(train, held_out, params.evaluate, lambda figures: show(next(done), figures))
        bpb = comparison.likelihoods({name: bundle.model for name, bundle in everyone.items()})
        judged = judging.figures(comparison.tick)
    measured = {stage: of_model(bundle, bpb[stage], judged, stage) for stage, bundle in models.items()}
    initial, learnt_from = models["pretrain"].config["provenance"].get("initial"), ("train", "validation")
    return Evaluation(
        test_sha256=digests["test"],
        text=shares(text),
        initial=Initial(**initial) if initial else None,
        judge=JudgeDescription(**description(params.evaluate, {split: digests[split] for split in learnt_from})),
        models=measured,
        controls=controls(judged, control, bpb),
        curve=Curve(**judged["curve"]) if judged["curve"] else None,
        ngram=Counted(**comparison.ngram()),
        candidate=choose(measured, params.promote.bpb_margin),
    )


def of_model(bundle: Bundle, bpb: Mapping[str, float], judged: Figures, stage: str) -> ModelFound:
    """What was found of one model."""
    validation, test = (OnSplit(bpb=bpb[split], **judged["rulings"][stage][split]) for split in HELD_OUT)
    return ModelFound(
        weights_sha256=bundle.sha256,
        parameters=size(bundle),
        validation=validation,
        test=test,
        quality=judged["quality"][stage],
    )


def controls(judged: Figures, control: Bundle | None, bpb: Mapping[str, Mapping[str, float]]) -> Controls:
    """What the models' figures are held against; rulings are of test text."""
    rulings = {name: judged["rulings"][name]["test"] for name in CONTROLS}
    found: Figures = {name: {**of_all["judge"], "judges": of_all["judges"]} for name, of_all in rulings.items()}
    if control:
        likelihood = {split: {"bpb": value} for split, value in bpb["dense_continued"].items()}
        found["dense_continued"] = {"parameters": size(control), **likelihood}
    return Controls(real_text=RealText(quality=judged["quality"][REAL]), **found)


def size(bundle: Bundle) -> int:
    """How many parameters a model has."""
    return sum(parameter.numel() for parameter in bundle.model.parameters())


def shares(measured: Mapping[str, bytes]) -> dict[str, Measured]:
    """How many bytes of each split the figures are of, and how many it has."""
    splits = read_manifest(CORPUS)["splits"]
    return {split: Measured(bytes=len(content), of=splits[split]["bytes"]) for split, content in measured.items()}


def read_held_out(params: EvaluateParams, block_size: int) -> dict[str, HeldOut]:
    """The beginning of each held-out split, with the judge's places in it.

    At most `held_out_bytes` in whole characters: the same text whatever the tokens, so that figures can be compared.
    """
    data = TokenDataset.open()
    tokenizer, prompt = data.tokenizer, prompt_length(data.bytes_per_token("train"), block_size)
    read: dict[str, HeldOut] = {}
    for split in HELD_OUT:
        blocks = split_beginning(CORPUS, split, params.held_out_bytes).encode()
        text = blocks[: params.held_out_bytes].decode(errors="ignore")  # all but the last character is whole
        ids = tokenizer.encode_array(text)
        read[split] = HeldOut(text.encode(), ids, find_places(split, ids, tokenizer, params.judge_window, prompt))
    return read


def table(found: Evaluation) -> Table:
    """The main figures for a terminal, all on test text."""
    shown = Table("", "bits per byte", "worst judge (95 %)", "family", title="Test text: lower is better")
    for row in rows(found):
        likelihood = "" if row.bpb is None else f"{row.bpb:.3f}"
        shown.add_row(row.name, likelihood, *(_shown(row.judge) if row.judge else ()))
    return shown


def _shown(judge: WorstDetection) -> tuple[str, str]:
    return f"{judge.accuracy:.3f}  ({judge.low:.3f} to {judge.high:.3f})", judge.family


if __name__ == "__main__":
    stage_main("evaluate", evaluate)
