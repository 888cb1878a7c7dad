"""Stage adversarial: tokens, artifacts/pretrain and moe -> artifacts/adversarial: the expert model, refined.

Each of `adversarial.methods` (METHODS) refines the expert model in its own way. Judges of
validation text select among the start and all that came of the methods (troupe/judging).
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cache
from itertools import count
from typing import Any

from troupe.adversarial import ddo, distil, gan, likelihood, moments, temperature, tilt
from troupe.adversarial.method import Facts, MethodResult, Task
from troupe.bundles.architectures import load_bundle
from troupe.bundles.bundle import CONFIG, WEIGHTS, Bundle, save_bundle
from troupe.compute import Arithmetic, set_up, threads_of
from troupe.data.dataset import TokenDataset
from troupe.data.room import check_tokens
from troupe.files import write_json
from troupe.judging.protocol import make_setup
from troupe.judging.selection import Candidate, Selection, select
from troupe.layout import CORPUS, model_dir
from troupe.models.gpt2 import GPT, evaluating
from troupe.params import Params
from troupe.progress import MetricsLog, lines_under, track
from troupe.stages.common import stage_main
from troupe.training.checkpoint import Checkpoints, folder_of, run_key, tidy_up
from troupe.training.loop import RunContext, validate
from troupe.training.probe import eager
from troupe.training.stops import signals_noted

NAME, START = "adversarial", "start"  # the stage; the candidate to which nothing was done
LOG = model_dir(NAME) / "metrics.jsonl"
PROBED_BATCH = 16  # sequences on which the precision of forward passes is chosen
METHODS: Mapping[str, Callable[[Task, Any], MethodResult]] = {
    "temperature": temperature.run,
    "likelihood": likelihood.run,
    "tilt": tilt.run,
    "gan": gan.run,
    "ddo": ddo.run,
    "distil": distil.run,
    "moments": moments.run,
}


def adversarial(params: Params) -> None:
    """Refine the expert model as the parameters say; write what judges of validation text select."""
    data = TokenDataset.open()
    check_tokens(params, data)
    began, device = time.monotonic(), set_up(params.run)
    expert, dense = (load_bundle(model_dir(stage), device) for stage in ("moe", "pretrain"))
    how, _ = eager(params.run, dense.model, PROBED_BATCH)
    measure = validation_bits(data, how)
    bits_per_byte = cache(measure)  # of candidates, which no longer change
    results: dict[str, MethodResult] = {}
    checkpoints = checkpoints_of_methods(data, params, how)
    task = Task(expert, dense, data, measure, params.run.seed, threads_of(params.run))
    for name, context in contexts(checkpoints, how).items():
        results[name] = METHODS[name](replace(task, context=context), getattr(params.adversarial, name))
        print(f"{NAME}: {name}: {results[name].reason}", flush=True)
    models = {START: expert.model}
    for result in results.values():
        models |= result.candidates
    candidates = judged(models, data, bits_per_byte, params)
    selection = select(candidates, params.judging.bits_margin) if candidates else Selection(START, ())
    for one in checkpoints.values():
        one.finish()
    chosen = models[selection.selected]
    facts = {
        **summary(results, candidates, selection),
        "start/val/bpb": bits_per_byte(expert.model),
        "kept/val/bpb": bits_per_byte(chosen),
        **asdict(how),
        "parameters": sum(parameter.numel() for parameter in chosen.parameters()),
        "weights_sha256": save(params, data, chosen, expert, provenance(results, selection)),
        "seconds": round(time.monotonic() - began, 1),
    }
    write_json(model_dir(NAME) / "summary.json", facts)
    print(f"{NAME}: kept {facts['kept']}", flush=True)
    tidy_up(*(fit_of(name) for name in METHODS))


def judged(
    models: Mapping[str, GPT], data: TokenDataset, bits_per_byte: Callable[[GPT], float], params: Params
) -> dict[str, Candidate]:
    """The figures of every model on validation text; none if there is nothing to select from."""
    if len(models) == 1:
        return {}
    with signals_noted("while candidates were judged"):
        setup = make_setup(data, params, models[START].config.block_size, "validation")
        with track(f"{NAME}: judges", setup.steps(len(models))) as show:
            done = count(1)
            found = setup.on_validation(models, lambda figures: show(next(done), figures))
        return {name: Candidate(bits_per_byte(models[name]), found[name]) for name in models}


def summary(results: Mapping[str, MethodResult], candidates: Mapping[str, Candidate], selection: Selection) -> Facts:
    """What came of every method, what judges found of every candidate, and why one of them is kept."""
    in_vain = [f"{name}: {result.reason}" for name, result in results.items() if not result.candidates]
    reason = "; ".join([*in_vain, *([selection.reason] if selection.reason else [])]) or "no method was asked for"
    return {
        "methods": list(results),
        **{name: {"result": result.reason, **result.facts} for name, result in results.items()},
        "candidates": {name: candidate.facts() for name, candidate in candidates.items()},
        "comparisons": [comparison.facts() for comparison in selection.comparisons],
        "selected": selection.selected,
        "kept": f"{selection.selected}: {reason}",
    }


def provenance(results: Mapping[str, MethodResult], selection: Selection) -> Facts:
    """Which method made the model that is kept, and what else it was made from."""
    for name, result in results.items():
        if selection.selected in result.candidates:
            return {"method": name, **result.provenance}
    return {"method": None}


def save(params: Params, data: TokenDataset, model: GPT, expert: Bundle, made: Facts) -> str:
    """Write the model; returns its digest."""
    about = {
        "stage": NAME,
        "seed": params.run.seed,
        "corpus_sha256": data.corpus_sha256,
        "block_bytes": data.block_bytes,
        "parent_weights_sha256": expert.sha256,
        **made,
    }
    return save_bundle(model_dir(NAME), model, expert.tokenizer, about)


def fit_of(method: str) -> str:
    """The name of a method's checkpoints."""
    return f"{NAME}-{method}"


def checkpoints_of_methods(data: TokenDataset, params: Params, how: Arithmetic) -> dict[str, Checkpoints]:
    """By method: with any of what its result depends on changed, a method begins afresh."""
    models = [model_dir(stage) / name for stage in ("pretrain", "moe") for name in (WEIGHTS, CONFIG)]
    inputs = [*data.files("train", "critic", "validation"), CORPUS / "manifest.json", *models]
    found = {}
    for name, settings in params.adversarial.active().items():
        key = run_key(NAME, {"run": params.run, name: settings}, inputs)
        found[name] = Checkpoints(folder_of(fit_of(name), key, how), LOG)
    return found


def contexts(checkpoints: Mapping[str, Checkpoints], how: Arithmetic) -> dict[str, RunContext]:
    """What each method resumes from, where it saves and logs; one that cannot resume logs again from its start."""
    newest = {name: own.newest() for name, own in checkpoints.items()}
    resumed = {name: found.step for name, found in newest.items() if found}
    # Each method's own copy of the log: another's may be of other parameters, or of before this one had begun.
    copies = {name: checkpoints[name].folder / LOG.name for name in resumed}
    log = MetricsLog(LOG, [line for name, step in resumed.items() for line in lines_under(copies[name], name, step)])
    return {
        name: RunContext(how.autocast, log=log.under(name), save=own.save, resume=newest[name])
        for name, own in checkpoints.items()
    }


def validation_bits(data: TokenDataset, how: Arithmetic) -> Callable[[GPT], float]:
    """The figure that pretrain and moe report too, of the same text."""
    ids, n_bytes = data.ids("validation"), data.n_bytes["validation"]

    def bits_per_byte(model: GPT) -> float:
        with evaluating(model):  # `validate` leaves a model in training mode
            return validate(model, ids, n_bytes, how.autocast)["val/bpb"]

    return bits_per_byte


if __name__ == "__main__":
    stage_main(NAME, adversarial)
