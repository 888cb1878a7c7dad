"""Stage evaluate: every model on the same held-out text -> reports: metrics.json, samples.json, plots, data, curves,
and for the page embedded.json and routing.json."""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import count

from troupe.bundles.architectures import load_bundle
from troupe.bundles.bundle import Bundle
from troupe.compute import set_up
from troupe.data.corpus import Split, read_manifest
from troupe.data.dataset import TokenDataset
from troupe.evaluation.comparison import Comparison
from troupe.evaluation.embedded import embed
from troupe.evaluation.judged import JudgedTexts, description, make_judging
from troupe.evaluation.plots import draw_all
from troupe.evaluation.result import (
    Chosen,
    ControlDetection,
    Controls,
    DenseContinued,
    Evaluation,
    Initial,
    Likelihood,
    Measured,
    ModelFound,
    OnSplit,
    Power,
    RealText,
    WorstDetection,
)
from troupe.evaluation.rivals import rivals
from troupe.evaluation.routing import route
from troupe.evaluation.samples import write_samples
from troupe.files import read_json, write_json
from troupe.judging.protocol import COPIED, KNOWN_BAD, REAL, SHARES, SHUFFLED, held_out, make_setup
from troupe.judging.selection import Candidate, select
from troupe.judging.two_sample import Judged
from troupe.layout import CORPUS, EMBEDDED, MODEL_STAGES, REPORTS, ROUTING, USAGE, model_dir
from troupe.params import Params
from troupe.progress import read_metrics, track
from troupe.stages.common import stage_main

HELD_OUT: tuple[Split, ...] = ("validation", "test")
CONTROL = model_dir("moe") / "control"  # the dense model continued, with moe.control
CURVES = {"loss": "train/loss", "bits": "val/bpb"}  # in dvc.yaml, and as stages log them
Bits = Mapping[str, Mapping[str, float]]  # bits per byte, by model and split


def evaluate(params: Params) -> None:
    """Measure all models on held-out text, have them judged, and write what was found to reports/."""
    device = set_up(params.run)
    models = {stage: load_bundle(model_dir(stage), device) for stage in MODEL_STAGES}
    control = load_bundle(CONTROL, device) if CONTROL.exists() else None
    found = measure(params, models, control)
    found.write()
    write_json(REPORTS / "samples.json", write_samples(models, params.evaluate, params.run.seed))
    logs = {stage: read_metrics(model_dir(stage) / "metrics.jsonl") for stage in MODEL_STAGES}
    draw_all(REPORTS, found, logs, read_json(USAGE)["load"])
    write_curves(logs)
    write_for_page(params, models, found.candidate.stage)
    print(f"candidate: {found.candidate.stage}, because {found.candidate.reason}", flush=True)


def write_curves(logs: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """As `dvc plots` reads them: a file a stage and figure, for it passes over a list whose records differ in keys."""
    for stage, records in logs.items():
        for name, figure in CURVES.items():
            if points := [{"step": record["step"], name: record[figure]} for record in records if figure in record]:
                write_json(REPORTS / "curves" / f"{stage}-{name}.json", points)


def write_for_page(params: Params, models: Mapping[str, Bundle], candidate: str) -> None:
    """What the report's page needs beside figures: the candidate's network, and where the experts sent a sentence."""
    bundle = models[candidate]
    test = held_out(TokenDataset.open(), params.judging, bundle.model.config.block_size, "test")
    found = embed(candidate, bundle, test, params.evaluate.stride, params.evaluate.prompt)
    write_json(EMBEDDED, found.model_dump())
    write_json(ROUTING, route(models["moe"], test.content.decode()).model_dump())


def measure(params: Params, models: dict[str, Bundle], control: Bundle | None) -> Evaluation:
    """All figures of all models."""
    data, config = TokenDataset.open(), models["pretrain"].model.config
    setup = make_setup(data, params, config.block_size, *HELD_OUT)
    text = {"train": setup.train.encode()} | {split: setup.held_out[split].content for split in HELD_OUT}
    digests = {split: hashlib.sha256(content).hexdigest() for split, content in text.items()}
    everyone = models | ({"dense_continued": control} if control else {})
    judging = make_judging(setup, {name: bundle.model for name, bundle in models.items()}, params.evaluate.temperatures)
    with track("evaluate", len(everyone) * len(HELD_OUT) + judging.steps) as show:
        done = count(1)
        comparison = Comparison(setup.train, setup.held_out, params.evaluate, lambda figures: show(next(done), figures))
        bpb = comparison.likelihoods({name: bundle.model for name, bundle in everyone.items()})
        texts = judging.run(comparison.tick)
    initial, learnt_from = models["pretrain"].config["provenance"].get("initial"), ("train", "validation")
    return Evaluation(
        test_sha256=digests["test"],
        text=shares(text),
        initial=Initial(**initial) if initial else None,
        judge=description(params.judging, params.evaluate.stride, {split: digests[split] for split in learnt_from}),
        models={stage: of_model(bundle, bpb[stage], texts, stage) for stage, bundle in models.items()},
        controls=controls(texts, control, bpb),
        curve=texts.curve,
        ngram=comparison.ngram(),
        rivals=rivals(setup.train, data, setup.held_out["test"], config, params.evaluate.stride, params.run.seed),
        candidate=chosen(texts, bpb, params.judging.bits_margin),
    )


def of_model(bundle: Bundle, bpb: Mapping[str, float], texts: JudgedTexts, stage: str) -> ModelFound:
    """What was found of one model."""
    validation, test = (on_split(bpb[split], texts.judged[stage, split]) for split in HELD_OUT)
    quality = texts.quality[stage]
    return ModelFound(
        weights_sha256=bundle.sha256, parameters=size(bundle), validation=validation, test=test, quality=quality
    )


def on_split(bpb: float, judged: Judged) -> OnSplit:
    return OnSplit(bpb=bpb, judge=worst(judged), judges=judged.detections)


def worst(judged: Judged) -> WorstDetection:
    return WorstDetection(family=judged.worst, **judged.detection.model_dump())


def controls(texts: JudgedTexts, control: Bundle | None, bpb: Bits) -> Controls:
    """What the models' figures are held against, on test text."""
    judged = [texts.judged[name, "test"] for name in (REAL, KNOWN_BAD, SHUFFLED, COPIED)]
    real, bad, shuffled, copied = (
        ControlDetection(**worst(found).model_dump(), judges=found.detections) for found in judged
    )
    continued = None
    if control:
        validation, test = (Likelihood(bpb=bpb["dense_continued"][split]) for split in HELD_OUT)
        continued = DenseContinued(parameters=size(control), validation=validation, test=test)
    return Controls(
        real_against_real=real,
        known_bad=bad,
        shuffled_words=shuffled,
        copied=copied,
        power=power(texts),
        real_text=RealText(quality=texts.quality[REAL]),
        **({"dense_continued": continued} if continued else {}),
    )


def power(texts: JudgedTexts) -> Power:
    """On test text."""
    found = [texts.judged[name, "test"].detections for name in SHARES]
    judges = {family: [detections[family] for detections in found] for family in found[0]}
    return Power(shares=list(SHARES.values()), judges=judges)


def chosen(texts: JudgedTexts, bpb: Bits, margin: float) -> Chosen:
    """The stage that is put forward for promotion: selected as the adversarial stage selects, on the same text."""
    found = {stage: Candidate(bpb[stage]["validation"], texts.judged[stage, "validation"]) for stage in MODEL_STAGES}
    selection = select(found, margin)
    return Chosen(stage=selection.selected, reason=f"on validation text {selection.reason}")


def size(bundle: Bundle) -> int:
    return sum(parameter.numel() for parameter in bundle.model.parameters())


def shares(measured: Mapping[str, bytes]) -> dict[str, Measured]:
    """How many bytes of each split the figures are of, and how many it has."""
    splits = read_manifest(CORPUS)["splits"]
    return {split: Measured(bytes=len(content), of=splits[split]["bytes"]) for split, content in measured.items()}


if __name__ == "__main__":
    stage_main("evaluate", evaluate)
