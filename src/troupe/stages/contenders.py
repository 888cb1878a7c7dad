"""Which model the adversarial stage keeps: judges that trained on neither player hear every contender.

They learn from one half of the validation text and are heard on the other, and the other way round. A contender is as
good as the worst of them says; of equals the simpler one is kept. As the least of several noisy figures is too low, how
good it is is for the evaluate stage to say, on test text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from troupe.compute import torch_threads
from troupe.data.batches import load_ids
from troupe.data.corpus import split_beginning
from troupe.data.tokenizer import Tokenizer
from troupe.decoding import Decoding
from troupe.evaluation.families import Judge, families
from troupe.evaluation.realism import paired
from troupe.evaluation.referee import cross_hear, worst_of
from troupe.evaluation.windows import Places, Sample, continuations, find_places
from troupe.evaluation.workers import workers
from troupe.files import read_json
from troupe.layout import CORPUS, TOKENS
from troupe.models.bundle import Bundle, Resampling
from troupe.models.gpt2 import GPT
from troupe.models.reader import Discriminator
from troupe.params import AdversarialParams, Params
from troupe.resampling import write
from troupe.seeding import derive_seed

JUDGES = ("linear", "boosted")  # the quick families: they are asked at every look
KNOWN_BYTES = 2**22  # of training text: what judges take for known
ROOM = 1.2  # `windows.continuations` writes so many times the tokens that a window typically has
AT_ONCE = 256  # sequences that a worker writes together
Figures = dict[str, Any]


@dataclass(frozen=True)
class ValidationJudges:
    """They hear every writer at the same places, with random numbers of the same seed."""

    places: Places
    judges: Mapping[str, Judge]
    seed: int
    threads: int

    def hear(self, bundle: Bundle) -> Figures:
        """Of the judge that tells best its name, "accuracy", its limits, its standard error, and more."""
        with torch_threads(self.threads), workers() as pool:
            parts = [
                pool.submit(self._written, bundle, rows_n, number) for number, rows_n in enumerate(self._cut(bundle))
            ]
            texts = [text for part in parts for text in part.result()]
            windows = paired(self.places.real(), texts, self.places.starts)
            heard = {name: pool.submit(cross_hear, judge, windows, self.seed) for name, judge in self.judges.items()}
            found = worst_of({name: [opinion.result()] for name, opinion in heard.items()})
        return {"judge": found["worst"], **found["judges"][found["worst"]]}

    def _cut(self, bundle: Bundle) -> list[np.ndarray]:
        """Places that are written at together: however many workers there are, the same."""
        candidates = bundle.resampling.candidates if bundle.resampling else 1
        rows_N, at_once = np.arange(len(self.places.starts)), max(1, AT_ONCE // candidates)
        return np.split(rows_N, range(at_once, len(rows_N), at_once))

    def _written(self, bundle: Bundle, rows_n: np.ndarray, number: int) -> list[str]:
        seed, places = derive_seed(self.seed, "places", number), self.places.take(rows_n)
        return continuations(bundle.model, places, seed, as_it_writes(bundle))


def as_it_writes(bundle: Bundle) -> Sample:
    """At temperature 1; token by token or, with a sampler, among candidates."""
    return lambda _, ids_BT, n_new, seeds: write(bundle, ids_BT, n_new, Decoding(), seeds)


def validation_judges(tokenizer: Tokenizer, params: Params) -> ValidationJudges:
    """Windows are as long as what the discriminator reads at a time. Raises CorpusError for too short a text."""
    settings, meta = params.adversarial, read_json(TOKENS / "meta.json")
    token_bytes = meta["bytes"]["validation"] / meta["tokens"]["validation"]
    width = max(1, int(settings.sequence_length * token_bytes / ROOM))
    places = find_places("validation", load_ids(TOKENS, "validation"), tokenizer, width, settings.prompt_length)
    spread = np.linspace(0, len(places.starts) - 1, min(len(places.starts), 2 * settings.judge_texts)).round()
    known = families(split_beginning(CORPUS, "train", KNOWN_BYTES))
    seed = derive_seed(params.run.seed, "adversarial", "judges")
    few = {name: known[name] for name in JUDGES}
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
    span, context = params.sequence_length, params.prompt_length + params.sequence_length
    return plain | {
        f"{name}_resampled": replace(start, model=model, resampling=Resampling(knows, params.candidates, span, context))
        for name, (model, knows) in models.items()
    }


def simplest_of_the_best(heard: Mapping[str, Figures]) -> str:
    """The first whose accuracy is within a standard error of the least."""
    least = min(heard.values(), key=lambda figures: figures["accuracy"])
    limit = least["accuracy"] + least["standard_error"]
    return next(name for name, figures in heard.items() if figures["accuracy"] <= limit)
