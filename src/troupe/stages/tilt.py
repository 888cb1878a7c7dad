"""The tilt of the adversarial stage: the expert model's words weighed anew, in rounds against what it then writes.

Real text is the critic's split, which no model has seen, and the n-grams are those of the training tokens. Whether a
round had anything to follow is found on validation text; from the first that had not, the tilt stays as it was.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from troupe.adversarial.game import HELD_OUT
from troupe.adversarial.teaching import continued
from troupe.adversarial.tilting import Round, Texts, ddo_round
from troupe.data.corpus import Split
from troupe.data.dataset import TokenDataset
from troupe.models.bundle import Bundle
from troupe.models.gpt2 import GPT
from troupe.models.ngrams import NGrams
from troupe.models.tilted import Tilted, tilted
from troupe.params import Params
from troupe.stages.log import MetricsLog
from troupe.stages.texts import each_once, side_by_side

SHOWN = "adversarial: tilt"  # in progress lines


@dataclass(frozen=True)
class Tilting:
    """Every round, and the model as each that had a signal left it."""

    rounds: Sequence[Round]
    models: Sequence[Tilted]

    def rounds_of(self, model: GPT) -> int:
        """How many rounds have led to a model; 0 for one that is not tilted."""
        return next((number for number, one in enumerate(self.models, 1) if one is model), 0)

    def __str__(self) -> str:
        return f"{len(self.models)} of {len(self.rounds)} rounds followed; {said(self.rounds[-1])}"

    def facts(self) -> dict[str, str | int | float]:
        """As they are stored."""
        return {"tilt": str(self), "tilt/rounds": len(self.models), **figures(self.rounds[-1])}


def tilt(
    start: Bundle,
    data: TokenDataset,
    bits_per_byte: Callable[[GPT], float],
    log: MetricsLog,
    first_step: int,
    params: Params,
) -> Tilting:
    """At most `tilt_rounds`; each is logged, as the step after `first_step` and so on. Equal arguments give equal
    weights, to the byte. `bits_per_byte` is asked of models that are not changed afterwards.

    Raises CorpusError for a split that is shorter than the model's context.
    """
    settings = params.adversarial
    counted = NGrams.counted(data.ids("train"), settings.tilt_order, start.tokenizer.vocab_size)
    model, rounds, models = tilted(start.model, counted), list[Round](), list[Tilted]()
    if not first_step:
        log(first_step, {"tilt/val_bpb": bits_per_byte(start.model)})  # a tilt of 0 says what the start says
    real = {split: real_text(data, split, n, model, params) for split, n in texts(params).items()}
    for number in range(1, settings.tilt_rounds + 1):
        train, held_out = (beside_written(model, real_NT, split, number, params) for split, real_NT in real.items())
        rounds.append(ddo_round(model, train, held_out, settings.prompt_length))
        if rounds[-1].signal:
            models.append(copy.deepcopy(model))
        bits = bits_per_byte(models[-1] if models else start.model)
        log(first_step + number, {**figures(rounds[-1]), "tilt/val_bpb": bits})
        print(f"{SHOWN} {number}/{settings.tilt_rounds}: {said(rounds[-1])}, {bits:.3f} bits per byte", flush=True)
        if not rounds[-1].signal:
            break
    return Tilting(rounds, models)


def texts(params: Params) -> dict[Split, int]:
    """How many to learn from, and to be heard on; less if a split does not hold as many."""
    return {"critic": params.adversarial.tilt_texts, "validation": HELD_OUT}


def real_text(data: TokenDataset, split: Split, most: int, model: GPT, params: Params) -> Tensor:
    """Sequences as long as the model's context, each once: real_NT."""
    real_NT = each_once(data, split, model.config.block_size, most, params, ("adversarial", "tilt", split))
    return real_NT.to(next(model.parameters()).device)


def beside_written(model: Tilted, real_NT: Tensor, split: Split, number: int, params: Params) -> Texts:
    """Real sequences, and what the model writes now after the same prompts."""

    def write(real_BT: Tensor, seeds: Sequence[int]) -> Tensor:
        return continued(model, real_BT, params.adversarial.prompt_length, seeds)

    shown, purpose = f"{SHOWN} {number}/{params.adversarial.tilt_rounds}", ("adversarial", "tilt", split, number)
    return Texts(real_NT, torch.cat(side_by_side(write, model, real_NT, f"{shown}, {split} texts", params, purpose)))


def figures(found: Round) -> dict[str, float]:
    """As they are logged."""
    return {
        "tilt/auc": found.interval.auc,
        "tilt/auc_low": found.interval.low,
        "tilt/cross_entropy": found.cross_entropy,
    }


def said(found: Round) -> str:
    seen = found.interval
    return f"{'signal' if found.signal else 'no signal'}: AUC {seen.auc:.3f} ({seen.low:.3f} to {seen.high:.3f})"
