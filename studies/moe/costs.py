"""What a conversion costs, in steps of training the model that it makes: by MACs, those of the optimiser included.

A backward pass counts as two forward passes, and experts as they are computed.
"""

from torch import nn
from torch.optim import Muon

from studies.core.macs import TRAINING, forward_macs
from troupe.conversion.distillation import attention_of
from troupe.errors import ParamsError
from troupe.inspection.attention import attention_costs
from troupe.models.gpt2 import GPT
from troupe.params import TrainParams
from troupe.training.optim import build_optimizers


def distilling_steps(dense: GPT, model: GPT, distil: TrainParams, continued: TrainParams) -> float:
    """All of a distillation from `dense`, in steps of training `model` as `continued` says."""
    return distil.steps * distilling_macs(dense, model, distil) / training_macs(model, continued)


def rest(continued: TrainParams, paid: float) -> TrainParams:
    """What is left of a phase of which `paid` steps are spent, rounded: its rates over so many fewer steps.

    Raises ParamsError if nothing is left.
    """
    steps = continued.steps - round(paid)
    if steps < 1:
        line = f"distil: costs as much as {paid:.1f} steps of `continued`, which has {continued.steps}"
        raise ParamsError(f"{line}; lower distil.steps or raise continued.steps")
    return continued.model_copy(update={"steps": steps})


def distilling_macs(dense: GPT, model: GPT, params: TrainParams) -> int:
    """Of one step: `dense` forward, the attention of `model` forward and backward, and its optimiser."""
    T = model.config.block_size
    attention = attention_costs(model, T)
    per_token = forward_macs(dense) + TRAINING * (attention.executed + attention.full)
    return params.batch_size * T * per_token + optimizer_macs(nn.ModuleList(attention_of(model)), params)


def training_macs(model: GPT, params: TrainParams) -> int:
    """Of one step: forward, backward and optimiser."""
    T = model.config.block_size
    return params.batch_size * T * TRAINING * forward_macs(model) + optimizer_macs(model, params)


def optimizer_macs(module: nn.Module, params: TrainParams) -> int:
    """Of one update of all that `module` holds.

    Each Newton-Schulz iteration of Muon (Jordan et al. 2024) takes X, a x b with a <= b, to (c I + d A + e A^2) X with
    A = X X^T: 2 a^2 b + a^3. AdamW multiplies no matrices.
    """
    muons = [optimizer for optimizer in build_optimizers(module, params) if isinstance(optimizer, Muon)]
    groups = [group for muon in muons for group in muon.param_groups]
    return sum(group["ns_steps"] * _newton_schulz(*sorted(x.shape)) for group in groups for x in group["params"])


def _newton_schulz(a: int, b: int) -> int:
    return 2 * a**2 * b + a**3
