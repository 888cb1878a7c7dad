"""What every writer writes at the places of held-out text: the windows that judges learn from and are heard on.

Writers are the models, each drawing token by token; a Markov chain that every judge must catch; and real text, half
of it called generated. All of them write at the same places.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from troupe.decoding import Decoding
from troupe.evaluation.comparison import HeldOut
from troupe.evaluation.realism import Windows, paired, real_against_real
from troupe.evaluation.windows import Places, continuations, markov, sampler
from troupe.models.bundle import Bundle
from troupe.params import EvaluateParams
from troupe.seeding import derive_seed, generator

KNOWN_BAD, REAL = CONTROLS = "known_bad", "real_against_real"
SPLITS = ("validation", "test")
Write = Callable[[Places, int], list[str]]  # places, seed -> a text for every place


class Task(NamedTuple):
    """One set of texts. At another temperature the random numbers are the same."""

    writer: str
    split: str
    repetition: int
    temperature: float = 1.0


@dataclass(frozen=True)
class Writing:
    """Who writes what, where, and with which random numbers."""

    train: str
    held_out: Mapping[str, HeldOut]
    bundles: Mapping[str, Bundle]
    params: EvaluateParams
    seed: int

    @property
    def repetitions(self) -> range:
        return range(self.params.judge_seeds)

    def tasks(self) -> list[Task]:
        """Those that take longest first. Only models, on test text and once, write at other temperatures."""
        repeated = [
            Task(name, split, repetition)
            for name in (*self.bundles, *CONTROLS)
            for repetition in self.repetitions
            for split in SPLITS
        ]
        return [Task(name, "test", 0, t) for name in self.bundles for t in self.params.temperatures] + repeated

    def places(self, split: str, repetition: int) -> Places:
        """At most `judge_texts` places of a split, drawn anew in every repetition, the same for every writer."""
        places = self.held_out[split].places
        rng = generator(self.seed, "evaluate", "places", split, repetition)
        drawn = torch.randperm(len(places.starts), generator=rng)[: self.params.judge_texts]
        return places.take(drawn.sort().values.numpy())

    def windows(self, pool: Executor, tick: Callable[[], None]) -> dict[Task, Windows]:
        """Everything written, beside the real text of the same places; `tick` follows every set of texts."""
        pending = {
            task: [pool.submit(self._writer(task), *part) for part in self._parts(task)]
            for task in self.tasks()
            if task.writer != REAL
        }
        found = {}
        for task in self.tasks():
            texts = [text for part in pending.get(task, []) for text in part.result()]
            found[task] = self._real(task) if task.writer == REAL else self._beside_real(task, texts)
            tick()
        return found

    def _parts(self, task: Task) -> list[tuple[Places, int]]:
        """Places that are written at together, and their seed."""
        parts = self.places(task.split, task.repetition).parts()
        return [(part, derive_seed(self.seed, "evaluate", *task[:3], number)) for number, part in enumerate(parts)]

    def _writer(self, task: Task) -> Write:
        if task.writer == KNOWN_BAD:
            return partial(markov, self.train.encode())
        decoding = Decoding(temperature=task.temperature)
        return partial(continuations, self.bundles[task.writer].model, sample=sampler(decoding))

    def _beside_real(self, task: Task, texts: list[str]) -> Windows:
        places = self.places(task.split, task.repetition)
        return paired(places.real(), texts, places.starts)

    def _real(self, task: Task) -> Windows:
        places = self.places(task.split, task.repetition)
        rng = generator(self.seed, "evaluate", *task[:3])
        return real_against_real(places.real(), places.starts, rng)


def written(windows: Windows) -> Sequence[str]:
    """The generated ones."""
    return windows.where(windows.generated).texts
