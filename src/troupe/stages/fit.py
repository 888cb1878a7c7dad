"""What pretrain and moe have in common: train a model on the tokens, show and log it, write its folder."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from troupe.compute import compiler_faults_told
from troupe.data.batches import Batches
from troupe.data.dataset import TokenDataset
from troupe.errors import Diverged
from troupe.files import write_json
from troupe.models.bundle import save_bundle
from troupe.models.gpt2 import GPT
from troupe.params import RunParams, Section, TrainParams
from troupe.seeding import derive_seed
from troupe.stages.log import MetricsLog
from troupe.stages.progress import track
from troupe.training.checkpoint import Checkpoints, folder_of, run_key, tidy_up
from troupe.training.interruption import signals_noted
from troupe.training.loop import train
from troupe.training.loss import Autocast
from troupe.training.parallel import Team, leads, team_of
from troupe.training.probe import Choice
from troupe.training.step import Figures
from troupe.training.validation import validate

Log = Callable[[int, Mapping[str, float]], None]
Watch = Callable[[GPT], Figures]  # what else to measure at a look at validation


def fit(
    name: str,
    model: GPT,
    data: TokenDataset,
    params: TrainParams,
    run: RunParams,
    choice: Choice,
    folder: Path,
    sections: Mapping[str, Section],
    inputs: Sequence[Path] = (),
    watch: Watch | None = None,
    origin: Mapping[str, Any] | None = None,
    penalty: Callable[[], Tensor] | None = None,
) -> Figures:
    """Train `model` on the training split; write to `folder` the best model by validation, metrics.jsonl, summary.json.

    `choice` says how it computes, and is shown in one line. `sections` and `inputs` (beyond the tokens) are what the
    result depends on: with any of them changed, training starts afresh instead of from the checkpoints of an earlier
    attempt. `origin` is what the model's provenance says beyond stage, seed and corpus; `penalty` is added to the loss
    (training/loop.py).
    Returns the facts of summary.json; nothing in a process that trains along and leaves writing to the one that leads.

    Raises Interrupted after a last checkpoint when SIGTERM or Ctrl-C comes, Diverged (training/loop.py), and
    ParamsError if `run.compile` asks for what torch cannot do here.
    """
    team, began = team_of(run, next(model.parameters()).device), time.monotonic()
    batches, how = _batches(name, model, data, params, run), choice.how
    look = _look(model, data, how.autocast, watch)
    journal = folder / "metrics.jsonl" if team.leads else None
    key = run_key(_stage(name), sections, [*data.files("train", "validation"), *inputs])
    checkpoints = Checkpoints(folder_of(name, key, how), journal)
    resume = checkpoints.newest()
    start = resume.step if resume else 0
    if team.leads:
        print(f"{name:<12} {choice.line(start)}", flush=True)
    _seed_dropout(name, run, team)
    record = _logged_and_shown(name, journal, params.steps, start) if journal else nullcontext(_unheard)
    with record as log, signals_noted() as interrupted, _last_good_one_named(checkpoints), compiler_faults_told():
        save = checkpoints.save
        best = train(
            model, batches, look, params, how.autocast, log, save, resume, team, interrupted, how.compiled, penalty
        )
    if not team.leads:
        return {}

    facts = _facts(model, data, params, time.monotonic() - began, start, choice, best)
    facts["weights_sha256"] = _save(folder, model, data, {"stage": name, "seed": run.seed, **(origin or {})})
    write_json(folder / "summary.json", facts)
    checkpoints.finish()
    return facts


def finished(*names: str) -> None:
    """What a stage says last: its fits, `names`, are done. Whoever leads deletes checkpoints of no further use."""
    if leads():
        tidy_up(*names)


def _stage(name: str) -> str:
    """A control draws the same batches and dropout as the model it is held against."""
    return name.partition("-")[0]


def _batches(name: str, model: GPT, data: TokenDataset, params: TrainParams, run: RunParams) -> Batches:
    seed = derive_seed(run.seed, _stage(name), "batches")
    return Batches(data.shards("train"), model.config.block_size, params.batch_size, seed)


def _seed_dropout(name: str, run: RunParams, team: Team) -> None:
    torch.manual_seed(derive_seed(run.seed, _stage(name), "dropout" if team.leads else f"dropout of rank {team.rank}"))


def _look(model: GPT, data: TokenDataset, precision: Autocast, watch: Watch | None) -> Callable[[], Figures]:
    """What is measured at a look at validation: the loss, and what `watch` finds."""
    ids, n_bytes = data.ids("validation"), data.n_bytes["validation"]

    def look() -> Figures:
        seen = validate(model, ids, n_bytes, precision)
        return seen | (watch(model) if watch else {})

    return look


def _facts(
    model: GPT, data: TokenDataset, params: TrainParams, seconds: float, start: int, choice: Choice, best: Figures
) -> dict[str, Any]:
    """What summary.json says: how much of a training it was, how it was computed, and what it came to."""
    tokens = params.steps * params.batch_size * model.config.block_size
    return {
        "steps": params.steps,
        "tokens": tokens,
        "epochs": round(tokens / data.n_tokens["train"], 2),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(seconds, 1),
        "resumed_at_step": start,
        **asdict(choice.how),
        **({f"probe/{name}": seconds for name, seconds in asdict(choice.probe).items()} if choice.probe else {}),
        **{f"best/{figure}": value for figure, value in best.items()},
    }


def _save(folder: Path, model: GPT, data: TokenDataset, origin: Mapping[str, Any]) -> str:
    """Write the model's folder, with what was held out of what text; returns the digest of the weights."""
    text = {name: getattr(data, name) for name in ("corpus_sha256", "block_bytes", "test_sha256")}
    return save_bundle(folder, model, data.tokenizer, {**text, **origin})


@contextmanager
def _logged_and_shown(name: str, journal: Path, steps: int, start: int) -> Iterator[Log]:
    log = MetricsLog(journal, start)
    with track(name, steps, start) as show:

        def log_and_show(step: int, figures: Mapping[str, float]) -> None:
            log(step, figures)
            show(step, {"loss": figures["train/loss"], "tok/s": figures["train/tokens_per_second"]})

        yield log_and_show


def _unheard(step: int, figures: Mapping[str, float]) -> None:
    """The log of a process that does not lead."""


@contextmanager
def _last_good_one_named(checkpoints: Checkpoints) -> Iterator[None]:
    try:
        yield
    except Diverged as error:
        good = checkpoints.before(error.since)
        raise Diverged(f"{error}; last good checkpoint: {good or 'none yet'}", error.since) from None
