"""Every model and every competitor on the same held-out text: the figures of reports/metrics.json."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch

from troupe.data.batches import Ids
from troupe.errors import ArtifactError
from troupe.evaluation import diversity
from troupe.evaluation.likelihood import bits_per_byte, nats
from troupe.evaluation.ngram import kneser_ney
from troupe.evaluation.realism import Known, Ruling, Windows, known_ngrams, paired, real_against_real, trial, verdict
from troupe.evaluation.windows import Places, continuations, markov
from troupe.evaluation.workers import workers
from troupe.models.gpt2 import GPT
from troupe.params import EvaluateParams
from troupe.seeding import derive_seed, generator

Figures = dict[str, Any]
Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")
MakeWindows = Callable[[str, int], Windows]  # split, repetition -> fresh windows to judge
Heard = tuple[dict[str, Ruling], list[str]]  # of one repetition: the ruling by split, and the texts written for test


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
    seed: int
    tick: Callable[[Figures], None]

    def likelihoods(self, models: Mapping[str, GPT]) -> dict[str, dict[str, float]]:
        """{model: {split: bits per byte}}. Raises ArtifactError, naming the model, if one is not finite."""
        with workers() as pool:
            pending = {
                (name, split): pool.submit(self._bits_per_byte, name, model, split)
                for name, model in models.items()
                for split in self.held_out
            }
            bpb = self._collect(pending, lambda found: {"bpb": found})
        return {name: {split: bpb[name, split] for split in self.held_out} for name in models}

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

    def judge(self, models: Mapping[str, GPT]) -> dict[str, Figures]:
        """{writer: {"judge": {split: verdict}, "diversity"}} of models, "known_bad" and "real_against_real"."""
        train, repetitions = self.train.encode(), range(self.params.judge_seeds)
        makers: dict[str, MakeWindows] = {
            name: partial(self._written, name, partial(continuations, model)) for name, model in models.items()
        }
        makers["known_bad"] = partial(self._written, "known_bad", partial(markov, train))
        makers["real_against_real"] = self._real
        hear = partial(_hear, known_ngrams(self.train))
        with workers() as pool:
            pending = {(name, r): pool.submit(hear, make, r) for name, make in makers.items() for r in repetitions}
            heard = self._collect(pending, lambda found: {"judge": float(found[0]["test"].correct.mean())})
        return {name: self._summed_up([heard[name, r] for r in repetitions], train) for name in makers}

    def _collect(self, pending: Mapping[Key, Future[Found]], figures: Callable[[Found], Figures]) -> dict[Key, Found]:
        collected = {}
        for key, future in pending.items():
            collected[key] = future.result()
            self.tick(figures(collected[key]))
        return collected

    def _summed_up(self, trials: Sequence[Heard], train: bytes) -> Figures:
        return {
            "judge": {split: verdict([rulings[split] for rulings, _ in trials]) for split in self.held_out},
            "diversity": diversity.summary([texts for _, texts in trials], train),
        }

    def real_diversity(self) -> dict[str, float]:
        """The diversity of the real text at the test places: what every writer's is held against."""
        samples = [self._places("test", repetition).real() for repetition in range(self.params.judge_seeds)]
        return diversity.summary(samples, self.train.encode())

    def _places(self, split: str, repetition: int) -> Places:
        """At most `judge_texts` places of a split, drawn anew in every repetition, the same for every writer."""
        places = self.held_out[split].places
        rng = generator(self.seed, "evaluate", "places", split, repetition)
        drawn = torch.randperm(len(places.starts), generator=rng)[: self.params.judge_texts]
        return places.take(drawn.sort().values.numpy())

    def _written(self, name: str, write: Callable[[Places, int], list[str]], split: str, repetition: int) -> Windows:
        places = self._places(split, repetition)
        seed = derive_seed(self.seed, "evaluate", name, split, repetition)
        return paired(places.real(), write(places, seed), places.starts)

    def _real(self, split: str, repetition: int) -> Windows:
        places = self._places(split, repetition)
        rng = generator(self.seed, "evaluate", "real_against_real", split, repetition)
        return real_against_real(places.real(), places.starts, rng)


def _hear(known: Known, make: MakeWindows, repetition: int) -> Heard:
    validation, test = make("validation", repetition), make("test", repetition)
    written = [text for text, generated in zip(test.texts, test.generated, strict=True) if generated]
    return trial(validation, test, known), written
