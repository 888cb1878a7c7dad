"""What every adversarial method is given and returns.

A method is one module with `run(task, settings) -> MethodResult`; METHODS of troupe/stages/adversarial.py lists them by
name. To add one: write the module, give it a section in troupe/params/adversarial.py and in params.yaml, and list it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from troupe.bundles.bundle import Bundle
from troupe.data.dataset import TokenDataset
from troupe.models.gpt2 import GPT
from troupe.params import ReferenceParams
from troupe.training.loop import RunContext

Facts = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """The model to refine, and the text to refine it with."""

    start: Bundle  # in eval mode; a method leaves it as it is
    dense: Bundle  # the dense model that it descends from, through which discriminators read
    data: TokenDataset  # trained on: train; for discriminators: critic; measured on: validation
    bits_per_byte: Callable[[GPT], float]  # of validation text; leaves the model in the mode it was in
    seed: int
    threads: int  # CPU threads of this process
    context: RunContext = field(default_factory=RunContext)  # log, checkpoints, interruption
    references: dict[ReferenceParams, GPT] = field(default_factory=dict, compare=False)  # trained by methods before

    @property
    def device(self) -> torch.device:
        return next(self.start.model.parameters()).device


@dataclass(frozen=True)
class MethodResult:
    """What came of a method."""

    candidates: Mapping[str, GPT]  # by name, from the simplest on; none if nothing came of it
    facts: Facts  # for summary.json
    reason: str  # in one line: what came of it, or why nothing did
    provenance: Facts = field(default_factory=dict)  # of its models, for their config.json
