"""The one set-up for judging: which text is judged, by which classifiers, how often, with which random numbers.

Candidates are selected by it on validation text (`on_validation`), and stage evaluate reports by it on test text. All
generators continue the same real text with the same random numbers, so that two of them can be compared window by
window, and two that are equal get equal figures. Real held-out text is what there is least of, so that windows are used
in cross-validation: a classifier is tested on one stretch of a split and trained on the others, and for test text on
all of validation text too.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from troupe.compute import workers
from troupe.data.corpus import Split, split_beginning
from troupe.data.dataset import Ids, TokenDataset
from troupe.data.room import prompt_length
from troupe.decoding import Decoding
from troupe.judging.classifiers import Judge, families
from troupe.judging.controls import CORRUPTED, copied, corrupted, markov, shuffled
from troupe.judging.references import LEARNED_TEXT
from troupe.judging.two_sample import Judged, Predictions, Windows, cross_predict, paired, real_against_real
from troupe.judging.windows import Places, continuations, find_places, sampler
from troupe.judging.words import whole_words
from troupe.layout import CORPUS
from troupe.models.gpt2 import GPT
from troupe.params import JudgingParams, Params
from troupe.seeding import derive_seed, generator

KNOWN_BAD, REAL = CONTROLS = "known_bad", "real_against_real"
SHUFFLED, COPIED = "shuffled_words", "copied"
SHARES = {f"corrupted_{share:g}": share for share in CORRUPTED}
CHECKS = (SHUFFLED, COPIED, *SHARES)  # controls that are judged once, not in every repetition
Written = Callable[[Places, int], list[str]]  # places, seed -> a text for each
Tick = Callable[[Mapping[str, float]], None]  # called with the figures of each part when it is done


@dataclass(frozen=True)
class HeldOut:
    """The beginning of a split, and where generators continue it."""

    content: bytes
    ids: Ids
    places: Places


class TextSet(NamedTuple):
    """One set of texts; `writer` names a model or a control."""

    writer: str
    split: str
    repetition: int
    temperature: float = 1.0


@dataclass(frozen=True)
class Setup:
    """Classifiers, the text that they know, and the held-out text."""

    train: str
    held_out: Mapping[str, HeldOut]  # by split
    judges: Mapping[str, Judge]  # by family
    settings: JudgingParams
    seed: int

    @property
    def repetitions(self) -> range:
        return range(self.settings.seeds)

    def places(self, split: str, repetition: int) -> Places:
        """At most `texts` places of a split, drawn anew in every repetition."""
        places = self.held_out[split].places
        rng = generator(self.seed, "judging", "places", split, repetition)
        drawn = torch.randperm(len(places.starts), generator=rng)[: self.settings.texts]
        return places.take(drawn.sort().values.numpy())

    def written(
        self, pool: Executor, task: TextSet, model: GPT | None = None, drawn: Sequence[str] = ()
    ) -> Callable[[], Windows]:
        """Have a model, or a control, continue the places of a task in `pool`; the result waits for the windows.

        `drawn` are texts of a model at these places, whose words corrupt real text.
        """
        places = self.places(task.split, task.repetition)
        if task.writer == REAL:
            rng = generator(self.seed, "judging", *task[:3])
            return partial(real_against_real, places.real(), places.starts, rng)
        draw = sampler(Decoding(temperature=task.temperature))
        write = partial(continuations, model, sample=draw) if model else self._control(task.writer, drawn)
        seed = partial(derive_seed, self.seed, "judging", task.split, task.repetition)
        pending = [pool.submit(write, part, seed(number)) for number, part in enumerate(places.parts())]
        return lambda: paired(places.real(), [text for part in pending for text in part.result()], places.starts)

    def _control(self, name: str, drawn: Sequence[str]) -> Written:
        if name in SHARES:
            return partial(corrupted, share=SHARES[name], drawn=whole_words(drawn))
        by_name: dict[str, Written] = {
            KNOWN_BAD: partial(markov, self.train.encode()),
            SHUFFLED: shuffled,
            COPIED: partial(copied, self.train.encode()[:LEARNED_TEXT]),
        }
        return by_name[name]

    def predictions(self, windows: Mapping[TextSet, Windows], task: TextSet) -> dict[str, Predictions]:
        """Of every family, in one repetition; those of test text need the validation windows of the same writer."""
        beside = windows[task._replace(split="validation")] if task.split == "test" else None
        seed = self.classifier_seed(task.repetition)
        return {family: cross_predict(judge, windows[task], seed, beside) for family, judge in self.judges.items()}

    def classifier_seed(self, repetition: int) -> int:
        return derive_seed(self.seed, "judging", "classifier", repetition)

    def on_validation(self, models: Mapping[str, GPT], tick: Tick) -> dict[str, Judged]:
        """What classifiers say of every model on validation text: the figures that stage evaluate finds there too."""
        tasks = {name: [TextSet(name, "validation", repetition) for repetition in self.repetitions] for name in models}
        with workers() as pool:
            pending = {task: self.written(pool, task, models[name]) for name in models for task in tasks[name]}
            windows = {}
            for task, texts in pending.items():
                windows[task] = texts()
                tick({})
            asked = {name: [pool.submit(self.predictions, windows, task) for task in tasks[name]] for name in models}
            found = {}
            for name, repetitions in asked.items():
                found[name] = joined(repetitions)
                tick({name: found[name].detection.accuracy})
        return found

    def steps(self, n_models: int) -> int:
        """How often `on_validation` calls `tick`."""
        return n_models * (len(self.repetitions) + 1)


def joined(repetitions: list[Future[dict[str, Predictions]]], picked: str | None = None) -> Judged:
    """Of all repetitions, when they are done; `picked` as in Judged."""
    results = [one.result() for one in repetitions]
    return Judged({family: [one[family] for one in results] for family in results[0]}, picked)


def make_setup(data: TokenDataset, params: Params, block_size: int, *splits: Split) -> Setup:
    """For models with a context of `block_size` tokens. Raises CorpusError for a split that is too short."""
    train = split_beginning(CORPUS, "train", params.judging.train_bytes)
    held: dict[str, HeldOut] = {split: held_out(data, params.judging, block_size, split) for split in splits}
    judges = families(train, params.run.seed, params.judging.transformer_steps)
    return Setup(train, held, judges, params.judging, params.run.seed)


def held_out(data: TokenDataset, settings: JudgingParams, block_size: int, split: Split) -> HeldOut:
    """At most `held_out_bytes` in whole characters: the same text whatever the tokens, so that figures can be compared.

    Prompts are about as long in bytes whatever the tokens, and no longer than half of `block_size` tokens.
    """
    blocks = split_beginning(CORPUS, split, settings.held_out_bytes).encode()
    text = blocks[: settings.held_out_bytes].decode(errors="ignore")  # all but the last character is whole
    ids = data.tokenizer.encode_array(text)
    prompt = prompt_length(data.bytes_per_token("train"), block_size)
    return HeldOut(text.encode(), ids, find_places(split, ids, data.tokenizer, settings.window, prompt))
