"""How well every model, and models that only count, predict the same held-out text."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from troupe.errors import ArtifactError
from troupe.evaluation.likelihood import bits_per_byte, nats
from troupe.evaluation.result import Counted
from troupe.judging.protocol import HeldOut, Tick
from troupe.models import kneser_ney
from troupe.models.gpt2 import GPT
from troupe.params import EvaluateParams
from troupe.workers import workers


@dataclass(frozen=True)
class Comparison:
    """One evaluation: on which text, how, and a call for each part's figures when it is done."""

    train: str
    held_out: Mapping[str, HeldOut]  # validation and test
    params: EvaluateParams
    tick: Tick

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

    def ngram(self) -> Counted:
        """Kneser-Ney models of bytes."""
        contents = [text.content for text in self.held_out.values()]
        found = kneser_ney.bits_per_byte(self.train.encode(), self.params.ngram_max_order, contents)
        bpb = dict(zip(self.held_out, found, strict=True))
        by_order = {split: {str(n): value for n, value in enumerate(values, 1)} for split, values in bpb.items()}
        chosen = min(range(len(bpb["validation"])), key=bpb["validation"].__getitem__) + 1
        return Counted(order_chosen_on_validation=chosen, **by_order)
