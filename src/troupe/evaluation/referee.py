"""The referee: every family of judges (families.py) about one writer, and the worst of them counts.

Every judge learns from real and generated windows of held-out text and is heard on more, afresh for every seed. Beside
a writer's figures belong those of the floor (`floor_trials`: real against real) and of a known-bad writer
(`windows.markov`). The text that judges learn from and the text that they are heard on must be disjoint from each other
and from all text that generators and discriminators learned from.

The Jensen-Shannon divergence of real and generated text is what a text tells of its label: one bit, less the
cross-entropy of the ideal judge (Lin 1991, "Divergence Measures Based on the Shannon Entropy"; Goodfellow et al. 2014,
"Generative Adversarial Nets", section 4). Every other judge pays more, so what it pays bounds the divergence below:

    JSD >= 1 - mean log2(1 + exp(-y logit)) bits        y = 1 for a generated window, -1 for a real one

Shapes: M windows that are judged, half of them generated.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from troupe.data.room import PROMPT_BYTES
from troupe.evaluation import families, realism
from troupe.evaluation.families import FAMILIES, Floats, Judge
from troupe.evaluation.realism import Ruling, Windows, clustered, paired, real_against_real, verdict
from troupe.evaluation.windows import Places
from troupe.params import EvaluateParams
from troupe.seeding import derive_seed, generator

NAME = "the worst of " + ", ".join(FAMILIES)
VERSION = 4  # raise it with any change that can change a figure: the gate compares only figures of one referee
Write = Callable[[Places, int], list[str]]  # places, seed -> a text for every place, as `windows.continuations` does


@dataclass(frozen=True)
class Trial:
    """What the judges of one seed learn from and what they are heard on."""

    learn: Windows
    hear: Windows
    seed: int


@dataclass(frozen=True)
class Opinion:
    """What one judge said in one trial."""

    windows: Windows
    logit: Floats  # (M,) > 0 says generated

    def ruling(self) -> Ruling:
        generated_M = self.windows.generated
        auc = float(roc_auc_score(generated_M, self.logit))
        return Ruling((self.logit > 0) == generated_M, self.windows.place, auc)

    def bits(self) -> Floats:
        """(M,) one bit less what the judge pays for each window."""
        sign_M = np.where(self.windows.generated, 1, -1)
        return np.asarray(1 - np.logaddexp(0, -sign_M * self.logit) / np.log(2))


def writer_trials(write: Write, learn: Places, hear: Places, seeds: Sequence[int]) -> list[Trial]:
    """A writer at the same places in every trial, with other random numbers."""

    def windows(places: Places, seed: int, part: str) -> Windows:
        return paired(places.real(), write(places, derive_seed(seed, "referee", part)), places.starts)

    return [Trial(windows(learn, seed, "learn"), windows(hear, seed, "hear"), seed) for seed in seeds]


def floor_trials(learn: Places, hear: Places, seeds: Sequence[int]) -> list[Trial]:
    """Real against real, where there is nothing to tell; from half as many texts of either kind."""

    def windows(places: Places, seed: int, part: str) -> Windows:
        return real_against_real(places.real(), places.starts, generator(seed, "referee", "floor", part))

    return [Trial(windows(learn, seed, "learn"), windows(hear, seed, "hear"), seed) for seed in seeds]


def referee(judges: Mapping[str, Judge], trials: Sequence[Trial]) -> dict[str, Any]:
    """{"judges": {name: figures of `summed_up`}, "worst": the name of the judge that tells best}.

    The worst is picked by accuracy on the windows that are reported, which raises it a little: the same pick from the
    floor says by how much. Costs seconds for each judge, trial and thousand windows; torch's threads are the caller's.
    """
    return worst_of({name: [hear(judge, trial) for trial in trials] for name, judge in judges.items()})


def worst_of(opinions: Mapping[str, Sequence[Opinion]]) -> dict[str, Any]:
    """What `referee` returns, from the opinions of every judge in all trials."""
    found = {name: summed_up(of_one) for name, of_one in opinions.items()}
    return {"judges": found, "worst": max(found, key=lambda name: found[name]["accuracy"])}


def hear(judge: Judge, trial: Trial) -> Opinion:
    """Let a fresh classifier learn, and hear it."""
    generated_M = trial.learn.generated
    real, fake = trial.learn.where(~generated_M).texts, trial.learn.where(generated_M).texts
    return Opinion(trial.hear, judge.fit(real, fake, trial.seed)(trial.hear.texts))


def cross_hear(judge: Judge, windows: Windows, seed: int) -> Opinion:
    """Learn from the first half of the text and be heard on the second, then the other way round: no place is in both.

    A judge has half the windows to learn from, so these opinions compare with each other only.
    """
    first_M = windows.place < np.median(windows.place)
    one, other = windows.where(first_M), windows.where(~first_M)
    halves = [hear(judge, Trial(learn, heard, seed)) for learn, heard in ((one, other), (other, one))]
    heard = Windows(
        [*other.texts, *one.texts],
        np.concatenate([other.generated, one.generated]),
        np.concatenate([other.place, one.place]),
    )
    return Opinion(heard, np.concatenate([half.logit for half in halves]))


def summed_up(opinions: Sequence[Opinion]) -> dict[str, float]:
    """`realism.verdict`, and "jsd", "jsd_low", "jsd_high": the bound in bits, 0 to 1, and its 95 % interval.

    "jsd_low" is the bound that holds for other text too. Below 0 bits, which a judge that errs with confidence
    reaches, nothing is known but that divergence is not negative: hence 0.
    """
    bits = [opinion.bits() for opinion in opinions]
    value_M = np.concatenate(bits)
    found = clustered(bits, [opinion.windows.place for opinion in opinions], float(value_M.var() / len(value_M)))
    bounds = {"jsd": 0.0, "jsd_low": -found.reach, "jsd_high": found.reach}
    jsd = {name: min(1.0, max(0.0, found.mean + side)) for name, side in bounds.items()}
    return verdict([opinion.ruling() for opinion in opinions]) | jsd


def description(params: EvaluateParams, learnt_from: Mapping[str, str]) -> dict[str, Any]:
    """Who judges, with a digest: figures under different digests cannot be compared.

    The digest covers `stride` too, which changes bits per byte. The text that is measured has a digest of its own in
    metrics.json, and how far a window reaches back is the model's. `learnt_from` are the digests of the real text that
    judges learn from or take for known.
    """
    setting = {"seeds": params.judge_seeds, "window_bytes": params.judge_window, "texts": params.judge_texts}
    whole = {
        "version": VERSION,
        "families": FAMILIES,
        "linear": [realism.FEATURES, realism.ORDERS, realism.KNOWN_TEXT, realism.INVERSE_PENALTY],
        "boosted": [families.TREES, families.COUNTED_TEXT, families.MAX_ORDER],
        "prompt": PROMPT_BYTES,
        "stride": params.stride,
        "learnt_from": dict(learnt_from),
        **setting,
    }
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    return {"name": NAME, "families": FAMILIES, **setting, "digest": digest}
