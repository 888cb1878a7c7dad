"""What pretrain and moe have in common: train a model on the tokens, show and log it, write its folder."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from troupe.bundles.bundle import save_bundle
from troupe.compute import Autocast, compiler_faults_named
from troupe.data.batches import Batches
from troupe.data.dataset import TokenDataset
from troupe.errors import Diverged
from troupe.files import write_json
from troupe.layout import model_dir
from troupe.models.gpt2 import GPT
from troupe.params import Params, TrainParams
from troupe.progress import Log, MetricsLog, lines_up_to, track
from troupe.seeding import derive_seed
from troupe.training.checkpoint import Checkpoints, folder_of, run_key, tidy_up
from troupe.training.loop import Penalty, RunContext, StepFigures, train, validate
from troupe.training.parallel import Team, leads, team_of
from troupe.training.probe import Choice
from troupe.training.stops import signals_noted


@dataclass(frozen=True)
class Trainee:
    """A model that a stage trains. The stage's name comes first in `name`: moe, or moe-control, its control."""

    name: str
    model: GPT
    watch: Callable[[GPT], StepFigures] | None = None  # what else to measure at a look at validation
    penalty: Penalty | None = None  # added to the loss (training/loop.py)

    @property
    def stage(self) -> str:
        """A control draws the same batches and dropout as the model it is held against."""
        return self.name.partition("-")[0]

    @property
    def folder(self) -> Path:
        """Where its model, metrics.jsonl and summary.json go."""
        return Path(model_dir(self.stage), *self.name.split("-")[1:])

    def settings(self, params: Params) -> TrainParams:
        """The section of its stage."""
        return {"pretrain": params.pretrain, "moe": params.moe}[self.stage]


def fit(
    trainee: Trainee,
    data: TokenDataset,
    params: Params,
    choice: Choice,
    inputs: Sequence[Path] = (),
    origin: Mapping[str, Any] | None = None,
) -> StepFigures:
    """Train a model on the training split; write to its folder the best one by validation, metrics.jsonl, summary.json.

    `choice` says how it computes, and is shown in one line. `inputs` are the files beyond the tokens that the result
    depends on: with any of them, a parameter of the model or the code changed, training starts afresh instead of from
    the checkpoints of an earlier attempt. `origin` is what the model's provenance says beyond stage, seed and corpus.
    Returns the facts of summary.json; nothing in a process that trains along and leaves writing to the one that leads.

    Raises Interrupted after a last checkpoint when SIGTERM or Ctrl-C comes, Diverged (training/loop.py), and
    ParamsError if `run.compile` asks for what torch cannot do here.
    """
    name, model, settings, how = trainee.name, trainee.model, trainee.settings(params), choice.how
    team, began = team_of(params.run, next(model.parameters()).device), time.monotonic()
    journal = trainee.folder / "metrics.jsonl" if team.leads else None
    checkpoints = Checkpoints(folder_of(name, _key(trainee, data, params, inputs), how), journal)
    resume = checkpoints.newest()
    start = resume.step if resume else 0
    team.require_same(f"{checkpoints.folder} step {start}")
    if team.leads:
        print(f"{name:<12} {choice.line(start)}", flush=True)
    _seed_dropout(trainee, params, team)
    batches, look = _batches(trainee, data, params), _look(trainee, data, how.autocast)
    record = _logged_and_shown(name, journal, settings.steps, start) if journal else nullcontext(_unlogged)
    with record as log, signals_noted() as interrupted, _last_good_one_named(checkpoints), compiler_faults_named():
        context = RunContext(how.autocast, how.compiled, team, log, checkpoints.save, resume, interrupted)
        best = train(model, batches, look, settings, context, trainee.penalty)
    if not team.leads:
        return {}

    facts = {
        **_facts(model, data, settings),
        "seconds": round(time.monotonic() - began, 1),
        "resumed_at_step": start,
        **asdict(how),
        **({f"probe/{name}": seconds for name, seconds in asdict(choice.probe).items()} if choice.probe else {}),
        **{f"best/{figure}": value for figure, value in best.items()},
        "weights_sha256": _save(trainee, data, {"seed": params.run.seed, **(origin or {})}),
    }
    write_json(trainee.folder / "summary.json", facts)
    checkpoints.finish()
    return facts


def finished(*names: str) -> None:
    """What a stage says last: its fits, `names`, are done. Whoever leads deletes checkpoints of no further use."""
    if leads():
        tidy_up(*names)


def _key(trainee: Trainee, data: TokenDataset, params: Params, inputs: Sequence[Path]) -> str:
    sections = {"run": params.run, "model": params.model, trainee.stage: trainee.settings(params)}
    return run_key(trainee.stage, sections, [*data.files("train", "validation"), *inputs])


def _batches(trainee: Trainee, data: TokenDataset, params: Params) -> Batches:
    seed, size = derive_seed(params.run.seed, trainee.stage, "batches"), trainee.settings(params).batch_size
    return Batches(data.shards("train"), trainee.model.config.block_size, size, seed)


def _seed_dropout(trainee: Trainee, params: Params, team: Team) -> None:
    purpose = "dropout" if team.leads else f"dropout of rank {team.rank}"
    torch.manual_seed(derive_seed(params.run.seed, trainee.stage, purpose))


def _look(trainee: Trainee, data: TokenDataset, precision: Autocast) -> Callable[[], StepFigures]:
    """What is measured at a look at validation: the loss, and what the trainee's `watch` finds."""
    model, watch, ids, n_bytes = trainee.model, trainee.watch, data.ids("validation"), data.n_bytes["validation"]

    def look() -> StepFigures:
        seen = validate(model, ids, n_bytes, precision)
        return seen | (watch(model) if watch else {})

    return look


def _facts(model: GPT, data: TokenDataset, settings: TrainParams) -> dict[str, Any]:
    """How much of a training it was, of what."""
    tokens = settings.steps * settings.batch_size * model.config.block_size
    return {
        "steps": settings.steps,
        "tokens": tokens,
        "epochs": round(tokens / data.n_tokens["train"], 2),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def _save(trainee: Trainee, data: TokenDataset, origin: Mapping[str, Any]) -> str:
    """Write the model's folder, with what was held out of what text; returns the digest of the weights."""
    text = {name: getattr(data, name) for name in ("corpus_sha256", "block_bytes", "test_sha256")}
    return save_bundle(trainee.folder, trainee.model, data.tokenizer, {"stage": trainee.name, **text, **origin})


@contextmanager
def _logged_and_shown(name: str, journal: Path, steps: int, start: int) -> Iterator[Log]:
    log = MetricsLog(journal, lines_up_to(journal, start))
    with track(name, steps, start) as show:

        def log_and_show(step: int, figures: Mapping[str, float]) -> None:
            log(step, figures)
            show(step, {"loss": figures["train/loss"], "tok/s": figures["train/tokens_per_second"]})

        yield log_and_show


def _unlogged(step: int, figures: Mapping[str, float]) -> None:
    """The log of a process that does not lead."""


@contextmanager
def _last_good_one_named(checkpoints: Checkpoints) -> Iterator[None]:
    try:
        yield
    except Diverged as error:
        good = checkpoints.before(error.since)
        raise Diverged(f"{error}; last good checkpoint: {good or 'none yet'}", error.since) from None
