"""The cheapest way to other text: the same model at another temperature, p(t | h) proportional to p(t | h)^(1/T).

Logits are linear in what the last norm puts out, so that its weights, divided by T, give a model that has the
temperature in it: its bits per byte are those of what it generates, and nobody needs to be told to sample otherwise.
"""

import copy

import torch

from troupe.adversarial.method import Facts, MethodResult, Task
from troupe.models.gpt2 import GPT
from troupe.params import TemperatureParams


def run(task: Task, settings: TemperatureParams) -> MethodResult:
    """A candidate for every temperature; selection decides which is best, if any."""
    models = {f"temperature_{value:g}": at_temperature(task.start.model, value) for value in settings.temperatures}
    facts: Facts = {"temperatures": settings.temperatures}
    return MethodResult(models, facts, f"at {', '.join(f'{value:g}' for value in settings.temperatures)}")


@torch.no_grad()
def at_temperature(model: GPT, temperature: float) -> GPT:
    """A copy whose logits are those of `model`, divided by `temperature`. Not of a tilted model, whose tilt follows."""
    changed = copy.deepcopy(model)
    for parameter in changed.norm.parameters():
        parameter.div_(temperature)
    return changed
