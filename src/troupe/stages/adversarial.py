"""Stage adversarial: tokens, artifacts/moe -> artifacts/adversarial, that model refined against a discriminator."""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from troupe.adversarial.game import Game
from troupe.adversarial.loop import Outcome, Validate, refine
from troupe.adversarial.selection import distinct_2
from troupe.compute import arithmetic, autocast, set_up
from troupe.data.batches import load_ids, open_ids
from troupe.files import read_json, write_json
from troupe.layout import TOKENS, model_dir
from troupe.models.bundle import CONFIG, WEIGHTS, load_bundle, save_bundle
from troupe.models.gpt2 import GPT
from troupe.models.mode import evaluating
from troupe.params import AdversarialParams, Params
from troupe.stages.common import stage_main
from troupe.stages.fit import TOKEN_FILES, finished
from troupe.stages.log import MetricsLog
from troupe.stages.progress import track
from troupe.training.checkpoint import Checkpoints, folder_of, run_key
from troupe.training.interruption import signals_noted
from troupe.training.validation import validate

NAME = "adversarial"
SHOWN = (
    "critic/loss",
    "reward/mean",
    "generator/kl",
    "val/bpb",
    "critic/auc",
)  # of what is logged, in the progress line


def adversarial(params: Params) -> None:
    """Refine the expert model by REINFORCE against an LSTM discriminator; write the generator that was kept."""
    began, device, folder = time.monotonic(), set_up(params.run), model_dir(NAME)
    torch.set_num_threads(params.adversarial.threads)  # not run.threads: params.yaml says why
    expert = load_bundle(model_dir("moe"), device)
    train_ids, validation_ids = open_ids(TOKENS, "train"), load_ids(TOKENS, "validation")
    game = Game(expert.model, train_ids, validation_ids, params.adversarial, params.run.seed)
    facts = play(game, params, device)
    provenance = {
        "stage": NAME,
        "seed": params.run.seed,
        "corpus_sha256": read_json(TOKENS / "meta.json")["corpus_sha256"],
        "parent_weights_sha256": expert.sha256,
        "objective": params.adversarial.objective,
    }
    facts |= {
        "parameters": sum(parameter.numel() for parameter in game.generator.parameters()),
        "seconds": round(time.monotonic() - began, 1),
        "weights_sha256": save_bundle(folder, game.generator, expert.tokenizer, provenance),
    }
    write_json(folder / "summary.json", facts)
    print(f"{NAME}: kept {facts['kept']}", flush=True)
    finished(NAME)


def play(game: Game, params: Params, device: torch.device) -> dict[str, Any]:
    """Play the game, or the rest of it, with its log, progress and checkpoints; return what summary.json says of it."""
    journal = model_dir(NAME) / "metrics.jsonl"
    inputs = [*TOKEN_FILES, *(model_dir("moe") / name for name in (WEIGHTS, CONFIG))]
    key = run_key({"run": params.run, NAME: params.adversarial}, inputs)
    how = arithmetic(params.run, device)
    checkpoints = Checkpoints(folder_of(NAME, key, how), journal)
    resume = checkpoints.newest()
    done = resume.step if resume else 0
    log = MetricsLog(journal, done)
    with track(NAME, params.adversarial.steps, done) as show, signals_noted() as interrupted:

        def log_and_show(step: int, figures: Mapping[str, float]) -> None:
            log(step, figures)
            show(step, {name: figures[name] for name in SHOWN if name in figures})

        bits_per_byte = bits_per_byte_of_validation(params, device)
        outcome = refine(game, bits_per_byte, log_and_show, checkpoints.save, resume, interrupted)
    checkpoints.finish()
    real_BS = game.held_out_BT[:, params.adversarial.prompt_length :]
    facts = {
        "resumed_at_step": done,
        "device": how.device,
        "torch": how.torch,
        "real/val/distinct_2": distinct_2(real_BS),
    }
    return facts | summary(outcome, params.adversarial)


def summary(outcome: Outcome, params: AdversarialParams) -> dict[str, Any]:
    """What was played, the first and the kept look, and which generator was kept and why."""
    start, kept = outcome.start, outcome.kept
    bounds = f"val/bpb up by at most {params.max_bpb_rise:.1%}, val/distinct_2 at least {params.min_distinct:.0%}"
    why = f"stopped, for {outcome.fault}" if outcome.fault else f"every look was within bounds ({bounds} of the start)"
    return {
        "objective": params.objective,
        "steps": params.steps,
        "kept": f"step {kept.step}: {why}",
        "kept_step": kept.step,
        "collapsed": outcome.fault is not None,
        **{f"start/{name}": value for name, value in start.figures().items()},
        **{f"kept/{name}": value for name, value in kept.figures().items()},
    }


def bits_per_byte_of_validation(params: Params, device: torch.device) -> Validate:
    """The figure that pretrain and moe report too, of the same text."""
    ids, n_bytes = load_ids(TOKENS, "validation"), read_json(TOKENS / "meta.json")["bytes"]["validation"]
    precision = partial(autocast, params.run, device)

    def bits_per_byte(model: GPT) -> float:
        with evaluating(model):  # `validate` leaves a model in training mode
            return validate(model, ids, n_bytes, precision)["val/bpb"]

    return bits_per_byte


if __name__ == "__main__":
    stage_main(NAME, adversarial)
