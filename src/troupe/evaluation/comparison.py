"""How well every model, and models that only count, predict the same held-out text."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from troupe.data.ids import Ids
from troupe.errors import ArtifactError
from troupe.evaluation.likelihood import bits_per_byte, nats
from troupe.evaluation.windows import Places
from troupe.evaluation.workers import workers
from troupe.models.gpt2 import GPT
from troupe.models.kneser_ney import kneser_ney
from troupe.params import EvaluateParams

Figures = dict[str, Any]


@dataclass(frozen=True)
class HeldOut:
    """A split as every competitor meets it."""

    content: bytes
    ids: Ids
    places: Places


@dataclass(frozen=True)
class Comparison:
    """One evaluation: on which text, how, and whom to tell of each part's figures when it is done."""

    train: str
    held_out: Mapping[str, HeldOut]  # validation and test
    params: EvaluateParams
    tick: Callable[[Figures], None]

    def likelihoods(self, models: Mapping[str, GPT]) -> dict[str, dict[str, float]]:
        """{model: {split: bits per byte}}. Raises ArtifactError, naming the model, if one is not finite."""
        with workers() as pool:
            pending = {
                (name, split): pool.submit(self._bits_per_byte, name, model, split)
                for name, model in models.items()
                for split in self.held_out
            }
            for future in pending.values():
                self.tick({"bpb": future.result()})
        return {name: {split: pending[name, split].result() for split in self.held_out} for name in models}

    def _bits_per_byte(self, name: str, model: GPT, split: str) -> float:
        text = self.held_out[split]
        total = nats(model, text.ids, self.params.stride)
        if not math.isfinite(total):
            raise ArtifactError(f"{name}: its model gives the {split} text {total} nats; its training diverged")
        return bits_per_byte(total, len(text.content))

    def ngram(self) -> Figures:
        """Kneser-Ney models of bytes: {"order_chosen_on_validation", split: {order: bits per byte}}."""
        smoothed = kneser_ney(self.train.encode(), self.params.ngram_max_order)
        bpb = {split: smoothed.bits_per_byte(text.content) for split, text in self.held_out.items()}
        by_order = {split: {str(n): value for n, value in enumerate(values, 1)} for split, values in bpb.items()}
        chosen = min(range(len(bpb["validation"])), key=bpb["validation"].__getitem__) + 1
        return {"order_chosen_on_validation": chosen, **by_order}
