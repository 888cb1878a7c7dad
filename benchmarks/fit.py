"""Train one configuration on tiny Shakespeare with troupe's own parts, as nanoGPT's train.py does with its: a process.

    python -m benchmarks.fit benchmarks/configs/nanogpt-cpu.yaml "run.seed=1 run.threads=4"

A configuration holds what differs from params.yaml in the sections run, model and pretrain, and under `about` what its
benchmark wants to know. The text is cut as nanoGPT cuts it: 65 characters, the first 90 % to train on, the last 10 % to
validate on. The last line printed is JSON, a Result. Losses are nats per predicted character, over the whole validation
split in windows side by side, in float32 at the end and in the precision of training on the way there.
"""

import argparse
import json
import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from studies.core.command import faults_in_one_line
from troupe.compute import set_up
from troupe.data.batches import Batches
from troupe.data.dataset import Ids
from troupe.data.source import TINY_SHAKESPEARE, read_text
from troupe.layout import PARAMS
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.overlay import ParameterLayers, split_overrides
from troupe.params import ModelParams, Params, PretrainParams, RunParams
from troupe.seeding import derive_seed, generator
from troupe.training.loop import RunContext, train, validate
from troupe.training.probe import choose


@dataclass(frozen=True)
class Result:
    loss: float  # of the weights that were best on the way, in float32
    looks: list[tuple[int, float]]  # step and loss, at every pretrain.eval_interval
    tokens_per_second: list[float]  # of every step, evaluation left out
    tokens_per_step: int
    parameters: int
    where: str  # device, precision, compiled or not, threads
    model: dict[str, Any]  # the values that were in force
    pretrain: dict[str, Any]


def nanogpt_split(text: str) -> tuple[Ids, Ids, int]:
    """Ids of the training and the validation split, and the size of the vocabulary."""
    characters, ids = np.unique(np.array(list(text)), return_inverse=True)
    cut = int(0.9 * len(ids))
    return ids[:cut].astype(np.uint16), ids[cut:].astype(np.uint16), len(characters)


def fit(config: Path, overrides: list[str], n_validation: int | None = None) -> Result:
    """Train, and evaluate on the first `n_validation` tokens of the split; the rest the configuration says."""
    run, shape, params = _parameters(config, overrides)
    train_ids, validation_ids, vocab_size = nanogpt_split(read_text(TINY_SHAKESPEARE))
    validation_ids = validation_ids[:n_validation]
    device = set_up(run)
    model = GPT(GPTConfig(vocab_size, **shape.model_dump()))
    init_gpt2(model, generator(run.seed, "pretrain", "init"))
    model.to(device)
    batches = Batches(train_ids, shape.block_size, params.batch_size, derive_seed(run.seed, "pretrain", "batches"))
    torch.manual_seed(derive_seed(run.seed, "pretrain", "dropout"))
    how, log = choose(run, model, params).how, Log(len(validation_ids), vocab_size, time.monotonic())
    look = partial(validate, model, validation_ids, len(validation_ids), how.autocast)
    train(model, batches, look, params, RunContext(how.autocast, how.compiled, log=log))
    final = validate(model, validation_ids, len(validation_ids), nullcontext)
    return Result(
        loss=log.per_prediction(final["val/loss"]),
        looks=log.looks,
        tokens_per_second=log.tokens_per_second,
        tokens_per_step=params.batch_size * shape.block_size,
        parameters=sum(weight.numel() for weight in model.parameters()),
        where=f"{how.device}, {how.precision}, {'compiled' if how.compiled else 'eager'}, {how.threads} threads",
        model=shape.model_dump(),
        pretrain=params.model_dump(),
    )


class Log:
    """Keeps what training tells, and prints a line at each look at validation."""

    def __init__(self, n_validation: int, vocab_size: int, began: float) -> None:
        self.n_validation, self.vocab_size, self.began = n_validation, vocab_size, began
        self.looks: list[tuple[int, float]] = []
        self.tokens_per_second: list[float] = []

    def __call__(self, step: int, figures: Mapping[str, float]) -> None:
        self.tokens_per_second.append(figures["train/tokens_per_second"])
        if "val/loss" in figures:
            loss = self.per_prediction(figures["val/loss"])
            self.looks.append((step, loss))
            print(f"step {step}  validation {loss:.4f}  {time.monotonic() - self.began:.0f} s", flush=True)

    def per_prediction(self, loss: float) -> float:
        """Nats per predicted token, as nanoGPT counts: without the first, which nothing precedes (ln V)."""
        return (loss * self.n_validation - math.log(self.vocab_size)) / (self.n_validation - 1)


def _parameters(config: Path, overrides: list[str]) -> tuple[RunParams, ModelParams, PretrainParams]:
    layers = ParameterLayers(PARAMS, Params)
    layers.add_profile(config)
    for override in overrides:
        layers.add_override(override)
    values = layers.values
    return (
        RunParams.model_validate(values["run"]),
        ModelParams.model_validate(values["model"]),
        PretrainParams.model_validate(values["pretrain"]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit", description="Train on tiny Shakespeare.")
    parser.add_argument("config", type=Path, help="e.g. benchmarks/configs/nanogpt-cpu.yaml")
    parser.add_argument("overrides", nargs="?", default="", help='e.g. "run.seed=1 run.threads=4"')
    parser.add_argument("--validate", type=int, metavar="TOKENS", help="of the validation split (default: all)")
    args = parser.parse_args()
    print(json.dumps(asdict(fit(args.config, split_overrides(args.overrides), args.validate))))


if __name__ == "__main__":
    with faults_in_one_line():
        main()
