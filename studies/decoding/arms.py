"""One job of the decoding study: one strategy with one seed continues held-out text, and what comes of it is measured.

The places of validation text are dealt out in turn: even ones are continued, and their real texts are what generated
ones are compared with; odd ones are the references, and the text that the independent model counts.
"""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from studies.core.jobs import Figures, Job
from studies.decoding.frontier import similarity
from troupe.bundles.architectures import load_bundle
from troupe.bundles.bundle import Bundle, found_identity
from troupe.data.corpus import split_beginning
from troupe.data.room import prompt_length
from troupe.decoding import Decoding, generate
from troupe.errors import ArtifactError
from troupe.evaluation.diversity import repetition
from troupe.evaluation.quality import Yardstick, make_yardstick, measure
from troupe.judging.classifiers import families
from troupe.judging.two_sample import Judged, cross_predict, paired, real_against_real
from troupe.judging.windows import Places, continuations, find_places, sampler
from troupe.seeding import derive_seed, generator

REAL = "real text"  # the arm that no model writes
COUNTED = 2**20  # bytes of training text that judges and the copy measure know
HELD_OUT = 2**18  # bytes of validation text that places are looked for in


class Material(NamedTuple):
    """What strategies are held against."""

    train: str
    places: Places  # that are continued
    others: list[str]  # real texts of the places between
    yardstick: Yardstick


def run_strategy(job: Job, folder: Path, needed: Path | None) -> Figures:
    """The body of a job. Raises ArtifactError if the model is not the one that the study began with."""
    model = Path(job.settings["model"])
    if found_identity(model) != job.settings["identity"]:
        raise ArtifactError(f"{model}: another model than at the study's beginning; start the study again")
    bundle = load_bundle(model)
    material = prepare(bundle, job)
    real = material.places.real()
    if job.arm == REAL:
        written, speed, shown = material.others[: len(real)], None, ""  # compared with `real` here alone
        windows = real_against_real(real, material.places.starts, generator(job.seed, "study", "real"))
    else:
        written, speed, shown = write(bundle, material.places, job)
        windows = paired(real, written, material.places.starts)
    judges = families(material.train, job.seed)
    measured = real if job.arm == REAL else written  # the others are what the yardstick has counted
    judged = Judged({name: [cross_predict(judge, windows, job.seed)] for name, judge in judges.items()})
    return {
        "judge": judged.worst,
        "detection": judged.detection.accuracy,
        "similarity": similarity(real, written, job.seed),
        "repetition_4": repetition(measured, 4),
        **measure(measured, material.yardstick),
        "tokens_per_second": speed,
        "shown": shown,
    }


def prepare(bundle: Bundle, job: Job) -> Material:
    """Raises CorpusError for a validation text that is too short, ArtifactError for one that is not there."""
    corpus, width = Path(job.settings["corpus"]), job.settings["width"]
    train = split_beginning(corpus, "train", COUNTED)
    text = split_beginning(corpus, "validation", HELD_OUT).encode()[:HELD_OUT].decode(errors="ignore")
    ids = bundle.tokenizer.encode_array(text)
    prompt = prompt_length(len(text.encode()) / len(ids), bundle.model.config.block_size)
    places = find_places("validation", ids, bundle.tokenizer, width, prompt)
    even, odd = (places.take(np.arange(first, len(places.starts), 2)) for first in (0, 1))
    even = even.take(np.arange(min(len(even.starts), job.settings["texts"])))
    others = odd.real()
    return Material(train, even, others, make_yardstick(train, others[::2], "\n".join(others[1::2])))


def write(bundle: Bundle, places: Places, job: Job) -> tuple[list[str], float, str]:
    """The texts, how many tokens of theirs came in a second on one thread, and what the strategy makes of the shown
    prompt."""
    decoding = Decoding(**job.settings["strategy"])
    began = time.perf_counter()
    written = continuations(bundle.model, places, derive_seed(job.seed, "study", "texts"), sampler(decoding))
    seconds = time.perf_counter() - began
    speed = sum(len(bundle.tokenizer.encode(text)) for text in written) / seconds
    prompt_1T = torch.tensor([bundle.tokenizer.encode(job.settings["prompt"])])
    seeds = [derive_seed(job.seed, "study", "shown")]
    ids_1T = generate(bundle.model, prompt_1T, job.settings["shown_tokens"], decoding, seeds)
    return written, speed, bundle.tokenizer.decode(ids_1T[0, prompt_1T.size(1) :].tolist())
