"""How a writer of the study is judged: beside real text, over temperatures.

Classifiers are trained on validation text and tested on test text; arms and temperatures are chosen on the other half
of validation text. B sequences, T tokens, N places.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from studies.adversarial.frechet import frechet_distance, text_features
from studies.adversarial.resampling import Resampling, effective_candidates, write
from studies.adversarial.settings import Common, Judging
from studies.adversarial.text import Role
from studies.adversarial.world import World, bits
from studies.core.jobs import Figures
from troupe.adversarial.discrimination import auc_interval
from troupe.adversarial.reinforce import continuation_log_probs, kl_per_token
from troupe.decoding import Decoding, generate
from troupe.evaluation.quality import Yardstick, make_yardstick, measure
from troupe.judging.classifiers import Judge, families
from troupe.judging.controls import markov
from troupe.judging.selection import Candidate, select
from troupe.judging.two_sample import Judged, Windows, paired, predict, real_against_real
from troupe.judging.windows import Places, Sample, continuations, find_places, sampler
from troupe.models.gpt2 import GPT
from troupe.models.reader import Discriminator
from troupe.seeding import derive_seed, generator

START = "start"  # of a selection: the model to which nothing was done
Write = Callable[[Places, int], list[str]]  # places, seed -> a text for every place, as `windows.continuations` does


@dataclass(frozen=True)
class Trial:
    train: Windows
    test: Windows
    seed: int


@dataclass(frozen=True)
class Writer:
    """A generator and how it writes: of `candidates` continuations of `span` tokens the discriminator's score draws
    one; with one candidate it is not used."""

    model: GPT
    discriminator: Discriminator
    candidates: int
    temperature: float
    span: int

    def at(self, temperature: float) -> "Writer":
        return replace(self, temperature=temperature)

    def sample(self) -> Sample:
        """Token by token or, with several candidates, span by span."""
        decoding = Decoding(temperature=self.temperature)
        if self.candidates == 1:
            return sampler(decoding)
        how = Resampling(self.discriminator, self.candidates, self.span, self.discriminator.features.context)
        return lambda model, ids_BT, n_new, seeds: write(model, how, ids_BT, n_new, decoding, seeds)

    def write(self, places: Places, seed: int) -> list[str]:
        return continuations(self.model, places, seed, self.sample())


class Bench:
    """Judges, places and yardsticks of one seed, prepared once."""

    def __init__(self, world: World, settings: Common) -> None:
        self.world, self.settings, self.judging = world, settings, settings.judging
        self.judges = families(world.text.part["generator"], world.seed, self.judging.transformer_steps)
        validation, test = (self._places(role) for role in ("validation", "test"))
        self.train, self.test = _some(validation, self.judging), _some(_every_other(test, 0), self.judging)
        self.select_train, self.select_test = (_some(_every_other(validation, at), self.judging) for at in (0, 1))
        self.references = _every_other(test, 1).real()[: len(self.test.starts)]
        self.yardstick: Yardstick = make_yardstick(
            world.text.part["generator"], self.references, world.text.part["validation"]
        )

    def selection(self, writer: Writer) -> Figures:
        """By which arms are selected, on validation text with one seed: the accuracy of the worst of the few
        classifiers, and where its windows begin, the real ones and the generated ones, whether it is right ("1")."""
        found = self._judged_for_selection(writer)
        [predictions] = found.predictions[found.worst]
        correct = "".join(map(str, predictions.correct.astype(int)))
        return {"accuracy": found.detection.accuracy, "places": self.select_test.starts.tolist(), "correct": correct}

    def select(self, models: Mapping[str, GPT]) -> tuple[GPT, Figures]:
        """By the pipeline's rule, from START and the simplest on: the selected one, its name, and the comparisons."""
        writers = {name: Writer(model, self.world.discriminator, 1, 1.0, 1) for name, model in models.items()}
        found = select(
            {
                name: Candidate(bits(writer.model, self.world.text, "validation"), self._judged_for_selection(writer))
                for name, writer in writers.items()
            },
            self.judging.bits_margin,
        )
        facts = {"selected": found.selected, "comparisons": [one.facts() for one in found.comparisons]}
        return models[found.selected], facts

    def _judged_for_selection(self, writer: Writer) -> Judged:
        seed = derive_seed(self.world.seed, "study", "selection")
        return judged(self._few(), writer_trials(writer.write, self.select_train, self.select_test, [seed]))

    def judged(self, write: Write, n_seeds: int) -> tuple[Figures, list[str]]:
        """The figures of all classifiers on test text, and the texts of the first seed."""
        trials = writer_trials(write, self.train, self.test, self._seeds(n_seeds))
        return detections(self.judges, trials), written(trials[0])

    def quality(self, texts: Sequence[str]) -> Figures:
        features = partial(text_features, self.world.independent, self.world.text.tokenizer)
        distance = frechet_distance(features(texts), features(self.references))
        return measure(texts, self.yardstick) | {"frechet": distance}

    def curve(self, writer: Writer, temperatures: Sequence[float]) -> list[Figures]:
        return [self.point(writer.at(temperature)) for temperature in temperatures]

    def point(self, writer: Writer) -> Figures:
        trials = writer_trials(writer.write, self.train, self.test, self._seeds(self.judging.curve_seeds))
        accuracy = judged(self._few(), trials).detection.accuracy
        return {"temperature": writer.temperature, "accuracy": accuracy, **self.quality(written(trials[0]))}

    def controls(self) -> Figures:
        """Real text against real text, a writer that must be caught, and the figures of real text."""
        seeds = self._seeds(self.judging.seeds)
        train = self.world.text.part["generator"].encode()
        bad, texts = self.judged(partial(markov, train), self.judging.seeds)
        floor = detections(self.judges, floor_trials(self.train, self.test, seeds))
        return {"floor": floor, "bad": bad, "bad_quality": self.quality(texts), "real": self.quality(self.test.real())}

    def _few(self) -> dict[str, Judge]:
        """The quick classifiers, so that they can be trained often."""
        return {name: self.judges[name] for name in self.judging.few}

    def _places(self, role: Role) -> Places:
        text, prompt = self.world.text, self.settings.game.prompt_length
        return find_places(role, text.ids[role], text.tokenizer, self.judging.window, prompt)

    def _seeds(self, n: int) -> list[int]:
        return [derive_seed(self.world.seed, "study", "judge", number) for number in range(n)]


def written(trial: Trial) -> list[str]:
    """The generated texts on which the classifiers of a trial are tested."""
    return trial.test.where(trial.test.generated).texts


@torch.no_grad()
def distance_from(start: GPT, writer: Writer, world: World, n: int) -> dict[str, float]:
    """{"kl": KL(generator || start) in nats per token, at what the generator writes at temperature 1; "auc": of the
    first discriminator on what the writer writes}."""
    game = world.settings.game
    real_NT = world.sequences("validation", n, "distance")
    prompts_NP = real_NT[:, : game.prompt_length]
    seeds = [derive_seed(world.seed, "study", "distance", row) for row in range(n)]
    plain_NT = generate(writer.model, prompts_NP, game.sequence_length, Decoding(), seeds)
    logps = (continuation_log_probs(model, plain_NT, game.prompt_length) for model in (writer.model, start))
    written_NT = writer.sample()(writer.model, prompts_NP, game.sequence_length, seeds)
    real_N, shown_N = (world.discriminator.scores(ids_NT) for ids_NT in (real_NT, written_NT))
    return {"kl": kl_per_token(*logps).item(), "auc": auc_interval(real_N, shown_N, 0.95).auc}


def effective(writer: Writer, world: World, n: int) -> float:
    """How many of the candidates share the weight, mean over `n` prompts of validation text."""
    game = world.settings.game
    prompts_NP = world.sequences("validation", n, "effective")[:, : game.prompt_length]
    several_BP = prompts_NP.repeat_interleave(writer.candidates, 0)
    seeds = [derive_seed(world.seed, "study", "effective", row) for row in range(len(several_BP))]
    ids_BT = generate(writer.model, several_BP, game.sequence_length, Decoding(), seeds)
    return effective_candidates(torch.unflatten(writer.discriminator.scores(ids_BT), 0, (-1, writer.candidates)))


def _every_other(places: Places, first: int) -> Places:
    return places.take(np.arange(first, len(places.starts), 2))


def _some(places: Places, judging: Judging) -> Places:
    """As many as there may be, spread over the text."""
    n = min(len(places.starts), judging.windows)
    return places.take(np.linspace(0, len(places.starts) - 1, n).round().astype(int))


def writer_trials(write: Write, train: Places, test: Places, seeds: Sequence[int]) -> list[Trial]:
    """A writer at the same places in every trial, with other random numbers."""

    def windows(places: Places, seed: int, part: str) -> Windows:
        return paired(places.real(), write(places, derive_seed(seed, "judge", part)), places.starts)

    return [Trial(windows(train, seed, "train"), windows(test, seed, "test"), seed) for seed in seeds]


def floor_trials(train: Places, test: Places, seeds: Sequence[int]) -> list[Trial]:
    """Real against real, where nothing can be detected; from half as many texts of either kind."""

    def windows(places: Places, seed: int, part: str) -> Windows:
        return real_against_real(places.real(), places.starts, generator(seed, "judge", "floor", part))

    return [Trial(windows(train, seed, "train"), windows(test, seed, "test"), seed) for seed in seeds]


def judged(judges: Mapping[str, Judge], trials: Sequence[Trial]) -> Judged:
    """What classifiers of every family say in all trials."""
    return Judged(
        {
            family: [predict(judge, trial.train, trial.test, trial.seed) for trial in trials]
            for family, judge in judges.items()
        }
    )


def detections(judges: Mapping[str, Judge], trials: Sequence[Trial]) -> Figures:
    """{"judges": {family: figures}, "worst": the family with the highest accuracy}."""
    found = judged(judges, trials)
    figures = {family: detection.model_dump() for family, detection in found.detections.items()}
    return {"judges": figures, "worst": found.worst}
