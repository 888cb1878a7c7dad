"""Which model the adversarial stage keeps: judges that trained on neither player hear every contender.

They learn from one half of the validation text and are heard on the other, and the other way round, in several
repetitions, each with fresh texts and fresh judges. A contender is as good as the worst of them says. All write at the
same places beside the same real texts, so that two of them are compared window by window: what makes a place easy or
hard to tell cancels, and the difference is known better than either accuracy. The more complex one takes the place of
the simpler only if it is told less by more than two standard errors of that difference; of equals the simpler is kept.
How good it is, is for the evaluate stage to say, on test text: whoever was picked by a noisy figure looks too good.

Two, because one is passed by chance in one case of six: then a stage that never improved anything would still replace
the model time and again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from troupe.compute import torch_threads
from troupe.data.batches import load_ids
from troupe.data.corpus import split_beginning
from troupe.data.tokenizer import Tokenizer
from troupe.evaluation.families import QUICK, Judge, families
from troupe.evaluation.realism import Ruling, Windows, clustered, paired
from troupe.evaluation.referee import cross_hear, worst_of
from troupe.evaluation.windows import Places, as_it_writes, candidates, continuations, find_places
from troupe.evaluation.workers import workers
from troupe.files import read_json
from troupe.layout import CORPUS, TOKENS
from troupe.models.bundle import Bundle, Resampling
from troupe.models.gpt2 import GPT
from troupe.models.reader import Discriminator
from troupe.params import AdversarialParams, Params
from troupe.seeding import derive_seed

ERRORS = 2  # standard errors of the difference by which a more complex contender must lead
KNOWN_BYTES = 2**22  # of training text: what judges take for known
ROOM = 1.2  # `windows.continuations` writes so many times the tokens that a window typically has
Figures = dict[str, Any]


@dataclass(frozen=True)
class Hearing:
    """Of one writer and the judge that tells it best: its name, "accuracy", limits and more; a ruling a repetition."""

    figures: Figures
    rulings: Sequence[Ruling]

    @property
    def accuracy(self) -> float:
        return float(self.figures["accuracy"])


@dataclass(frozen=True)
class Duel:
    """By how much less a contender is told than the simpler one that it challenges; both in shares of windows."""

    contender: str
    against: str
    lead: float
    standard_error: float

    @property
    def won(self) -> bool:
        return self.lead > ERRORS * self.standard_error

    def __str__(self) -> str:
        found = f"{self.contender} is told less than {self.against} by {self.lead:.3f} ± {self.standard_error:.3f}"
        return f"{found}: {'it is better' if self.won else 'not enough'}"

    def facts(self) -> Figures:
        """As they are stored."""
        return {**asdict(self), "won": self.won}


@dataclass(frozen=True)
class ValidationJudges:
    """They hear every writer at the same places, with random numbers of the same seeds."""

    places: Places
    judges: Mapping[str, Judge]
    seed: int
    threads: int

    def hear(self, bundle: Bundle, repetitions: int = 1) -> Hearing:
        """What the judge says that tells best."""
        seeds = [derive_seed(self.seed, "repetition", number) for number in range(repetitions)]
        with torch_threads(self.threads), workers() as pool:
            texts = [
                [
                    pool.submit(_texts, bundle, part, derive_seed(seed, "places", number))
                    for number, part in enumerate(self.places.parts(candidates(bundle)))
                ]
                for seed in seeds
            ]
            windows = [self._windows([text for part in parts for text in part.result()]) for parts in texts]
            asked = {
                name: [pool.submit(cross_hear, judge, *own) for own in zip(windows, seeds, strict=True)]
                for name, judge in self.judges.items()
            }
            opinions = {name: [opinion.result() for opinion in several] for name, several in asked.items()}
        found = worst_of(opinions)
        worst = found["worst"]
        figures = {"judge": worst, **found["judges"][worst]}
        return Hearing(figures, [opinion.ruling() for opinion in opinions[worst]])

    def _windows(self, texts: list[str]) -> Windows:
        return paired(self.places.real(), texts, self.places.starts)


def _texts(bundle: Bundle, places: Places, seed: int) -> list[str]:
    return continuations(bundle.model, places, seed, as_it_writes(bundle))


def validation_judges(tokenizer: Tokenizer, params: Params) -> ValidationJudges:
    """Windows are as long as what the discriminator reads at a time. Raises CorpusError for too short a text."""
    settings, meta = params.adversarial, read_json(TOKENS / "meta.json")
    token_bytes = meta["bytes"]["validation"] / meta["tokens"]["validation"]
    width = max(1, int(settings.sequence_length * token_bytes / ROOM))
    places = find_places("validation", load_ids(TOKENS, "validation"), tokenizer, width, settings.prompt_length)
    spread = np.linspace(0, len(places.starts) - 1, min(len(places.starts), 2 * settings.judge_texts)).round()
    known = families(split_beginning(CORPUS, "train", KNOWN_BYTES))
    seed = derive_seed(params.run.seed, "adversarial", "judges")
    few = {name: known[name] for name in QUICK}
    return ValidationJudges(places.take(spread.astype(int)), few, seed, params.run.threads)


def contenders(
    start: Bundle, refined: GPT | None, first: Discriminator, last: Discriminator, params: AdversarialParams
) -> dict[str, Bundle]:
    """The start and, if there is one, the refined generator; then each drawing among candidates by the discriminator
    that knows it, `first` or `last`. From the simplest on."""
    models = {"start": (start.model, first)} | ({"refined": (refined, last)} if refined is not None else {})
    plain = {name: replace(start, model=model) for name, (model, _) in models.items()}
    if params.candidates == 1:
        return plain
    context = params.prompt_length + params.sequence_length
    return plain | {
        f"{name}_resampled": replace(
            start, model=model, resampling=Resampling(knows, params.candidates, params.span, context)
        )
        for name, (model, knows) in models.items()
    }


def duels(heard: Mapping[str, Hearing]) -> list[Duel]:
    """From the simplest on, each against the one that is kept so far: one fewer than there are contenders."""
    fought: list[Duel] = []
    for name in list(heard)[1:]:
        fought.append(duel(kept(heard, fought), name, heard))
    return fought


def kept(heard: Mapping[str, Hearing], fought: Sequence[Duel]) -> str:
    """Whoever won last; else the simplest."""
    return next((one.contender for one in reversed(fought) if one.won), next(iter(heard)))


def duel(simpler: str, other: str, heard: Mapping[str, Hearing]) -> Duel:
    """The paired difference of two contenders' accuracies, each by the judge that tells it best.

    Window by window and repetition by repetition; the error is that of `realism.clustered`, at least what independent
    differences would have.
    """
    both = list(zip(heard[simpler].rulings, heard[other].rulings, strict=True))
    lead_M = [one.correct.astype(float) - two.correct for one, two in both]
    every_M = np.concatenate(lead_M)
    found = clustered(lead_M, [one.place for one, _ in both], float(every_M.var() / len(every_M)))
    return Duel(other, simpler, found.mean, found.standard_error)
