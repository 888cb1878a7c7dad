"""The cheapest way to other text: the same model at another temperature, p(t | h) proportional to p(t | h)^(1/T).

Logits are linear in what the last norm puts out, so that its weights, divided by T, give a model that has the
temperature in it: its bits per byte are those of what it generates, and nobody needs to be told to sample otherwise.
"""

import copy

import torch

from troupe.adversarial.method import MethodResult, Task
from troupe.models.gpt2 import GPT
from troupe.params import TemperatureParams


def run(task: Task, settings: TemperatureParams) -> MethodResult:
    """A candidate for every temperature; selection decides which is best, if any."""
    models = {f"temperature_{value:g}": at_temperature(task.start.model, value) for value in settings.temperatures}
    bits = {name: task.bits_per_byte(model) for name, model in models.items()}
    best = min(bits, key=bits.__getitem__)
    reason = f"{len(models)} temperatures; {best} needs the fewest bits per byte of validation text, {bits[best]:.4f}"
    return MethodResult(models, {f"{name}/val/bpb": value for name, value in bits.items()}, reason)


@torch.no_grad()
def at_temperature(model: GPT, temperature: float) -> GPT:
    """A copy whose logits are those of `model`, divided by `temperature`. Not of a tilted model, whose tilt follows."""
    changed = copy.deepcopy(model)
    for parameter in changed.norm.parameters():
        parameter /= temperature
    return changed
