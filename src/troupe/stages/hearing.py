"""How well judges tell what a contender of the adversarial stage writes: judges that trained on neither player.

They learn from one half of the validation text and are heard on the other, and the other way round, in several
repetitions, each with fresh texts and fresh judges. A contender is as good as the worst of them says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from troupe.compute import threads_of, torch_threads
from troupe.data.corpus import split_beginning
from troupe.data.dataset import TokenDataset
from troupe.data.room import ROOM_TO_WRITE
from troupe.evaluation.families import QUICK, Judge, families
from troupe.evaluation.realism import Ruling, Windows, paired
from troupe.evaluation.referee import cross_hear, worst_of
from troupe.evaluation.windows import Places, continuations, find_places
from troupe.layout import CORPUS
from troupe.models.bundle import Bundle
from troupe.params import Params
from troupe.seeding import derive_seed
from troupe.stages.texts import writing

KNOWN_BYTES = 2**22  # of training text: what judges take for known
Figures = dict[str, Any]


@dataclass(frozen=True)
class Hearing:
    """Of one writer and the judge that tells it best: its name, "accuracy", limits and more; a ruling a repetition."""

    figures: Figures
    rulings: Sequence[Ruling]
    bpb: float | None = None  # bits per byte of validation text

    @property
    def accuracy(self) -> float:
        return float(self.figures["accuracy"])

    def logged(self, name: str) -> dict[str, float]:
        cost = {} if self.bpb is None else {f"contender_bpb/{name}": self.bpb}
        return {f"contender/{name}": self.accuracy, **cost}

    def facts(self) -> Figures:
        """As they are stored."""
        return self.figures if self.bpb is None else {**self.figures, "bpb": self.bpb}


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
        with torch_threads(self.threads), writing(bundle.model) as pool:
            texts = [
                [
                    pool.submit(continuations, bundle.model, part, derive_seed(seed, "places", number))
                    for number, part in enumerate(self.places.parts())
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


def validation_judges(data: TokenDataset, params: Params) -> ValidationJudges:
    """Windows are as long as what the discriminator reads at a time. Raises CorpusError for too short a text."""
    settings = params.adversarial
    width = max(1, int(settings.sequence_length * data.bytes_per_token("validation") / ROOM_TO_WRITE))
    places = find_places("validation", data.ids("validation"), data.tokenizer, width, settings.prompt_length)
    spread = np.linspace(0, len(places.starts) - 1, min(len(places.starts), 2 * settings.judge_texts)).round()
    known = families(split_beginning(CORPUS, "train", KNOWN_BYTES))
    seed = derive_seed(params.run.seed, "adversarial", "judges")
    few = {name: known[name] for name in QUICK}
    return ValidationJudges(places.take(spread.astype(int)), few, seed, threads_of(params.run))
