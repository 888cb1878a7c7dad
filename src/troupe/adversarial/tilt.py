"""The expert model's next-token probabilities, reweighted in rounds against what it then generates.

Nine numbers combine the model with an n-gram model of the training tokens (models/tilted.py). Each round fits them by
direct discriminative optimization: the model is its own discriminator of real text, the critic's split, which no model
was trained on, against what it generates now (tilt_fit.py). Whether a round had a signal is measured on validation
text; the first that had none is the last.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from troupe.adversarial.method import Facts, MethodResult, Task
from troupe.adversarial.texts import HELD_OUT, continued, each_once, side_by_side
from troupe.adversarial.tilt_fit import Round, Texts, ddo_round
from troupe.data.corpus import Split
from troupe.models.ngrams import NGrams
from troupe.models.tilted import Tilted, tilted
from troupe.params import TiltParams
from troupe.training.interruption import signals_noted

SHOWN = "adversarial: tilt"  # in progress lines
PURPOSE = ("adversarial", "tilt")  # of random numbers


def run(task: Task, settings: TiltParams) -> MethodResult:
    """A candidate of every round with a signal. Equal arguments give equal weights, to the byte.

    Raises CorpusError for a split that is shorter than the model's context, and Interrupted: nothing is saved before
    the end.
    """
    with signals_noted("while the model was tilted"):
        rounds, models = all_rounds(task, settings)
    reason = f"{len(models)} of {len(rounds)} rounds with a signal; the last: {description(rounds[-1])}"
    facts: Facts = {"rounds": len(rounds), "rounds_with_signal": len(models), **figures(rounds[-1])}
    return MethodResult({f"tilt_{n}": model for n, model in enumerate(models, 1)}, facts, reason)


def all_rounds(task: Task, settings: TiltParams) -> tuple[list[Round], list[Tilted]]:
    """Every round, and the model as each that had a signal left it; each is logged."""
    data, start = task.data, task.start.model
    counted = NGrams.counted(data.ids("train"), settings.order, task.start.tokenizer.vocab_size)
    model, rounds, models = tilted(start, counted), list[Round](), list[Tilted]()
    task.context.log(0, {"val/bpb": task.bits_per_byte(start)})  # tilted by zeros it predicts what the start predicts
    splits: dict[Split, int] = {"critic": settings.texts, "validation": HELD_OUT}  # at most
    length = model.config.block_size
    real = {split: each_once(task, split, length, n, *PURPOSE, split) for split, n in splits.items()}
    for number in range(1, settings.rounds + 1):
        train, held_out = (
            with_generated(model, real_NT, task, settings, split, number) for split, real_NT in real.items()
        )
        rounds.append(ddo_round(model, train, held_out, settings.prompt_length))
        if rounds[-1].signal:
            models.append(copy.deepcopy(model))
        bits = task.bits_per_byte(models[-1] if models else start)
        task.context.log(number, {**figures(rounds[-1]), "val/bpb": bits})
        print(f"{SHOWN} {number}/{settings.rounds}: {description(rounds[-1])}, {bits:.3f} bits per byte", flush=True)
        if not rounds[-1].signal:
            break
    return rounds, models


def with_generated(
    model: Tilted, real_NT: Tensor, task: Task, settings: TiltParams, split: Split, number: int
) -> Texts:
    """Real sequences, and what the model generates now after the same prompts."""

    def generate(real_BT: Tensor, seeds: Sequence[int]) -> Tensor:
        return continued(model, real_BT, settings.prompt_length, seeds)

    shown = f"{SHOWN} {number}/{settings.rounds}, {split} texts"
    parts = side_by_side(generate, model, real_NT, task, shown, *PURPOSE, split, number)
    return Texts(real_NT, torch.cat(parts))


def figures(found: Round) -> dict[str, float]:
    """As they are logged."""
    return {"auc": found.interval.auc, "auc_low": found.interval.low, "cross_entropy": found.cross_entropy}


def description(found: Round) -> str:
    seen = found.interval
    return f"{'signal' if found.signal else 'no signal'}: AUC {seen.auc:.3f} ({seen.low:.3f} to {seen.high:.3f})"
