"""The optimisers and their rate: Muon for the matrices of the blocks, AdamW for everything else; or AdamW for all.

Muon (kernels/muon.py) takes 2-D parameters only, which every matrix of our blocks is, the experts' of SwitchHead
included (all experts of a projection are one matrix). AdamW: Loshchilov & Hutter 2019 (arXiv 1711.05101).
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from troupe.compute import Autocast
from troupe.kernels.muon import StackedMuon
from troupe.params import TrainParams

ADAM_BETAS = (0.9, 0.95)  # GPT-3's (Brown et al. 2020, appendix B): a shorter memory than 0.999 suits short runs
HEAD = "head.weight"  # of a model whose head is not tied to its embedding
ROUTER = "router"  # part of the name of every linear layer that chooses experts


def build_optimizers(model: nn.Module, params: TrainParams, muon_in: torch.dtype = torch.bfloat16) -> list[Optimizer]:
    """One or two optimisers that together hold every parameter of `model` once.

    Weight decay falls on the blocks' matrices alone: not on embeddings, the head (tied or not), norms, biases, or
    routers, whose scores it would pull towards indifference. `initial_lr` of each group is the rate at factor 1.
    Muon orthogonalises in `muon_in`.
    """
    matrices, others = _matrices_and_others(model)
    if params.optimizer == "adamw":
        groups = [{"params": matrices, "weight_decay": params.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizers: list[Optimizer] = [AdamW(groups, lr=params.learning_rate, betas=ADAM_BETAS, fused=True)]
    else:
        optimizers = [
            StackedMuon(matrices, muon_in, lr=params.learning_rate, weight_decay=params.weight_decay),
            AdamW(others, lr=params.adamw_learning_rate, betas=ADAM_BETAS, weight_decay=0.0, fused=True),
        ]
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["initial_lr"] = group["lr"]
    return optimizers


def set_rate(optimizers: Sequence[Optimizer], factor: float) -> None:
    """Set every group's learning rate to `factor` times its rate in params.yaml."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = factor * group["initial_lr"]


def update(optimizers: Sequence[Optimizer]) -> None:
    """Have every optimiser act on its gradients, and forget them."""
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def _matrices_and_others(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    linear.discard(HEAD)
    matrices = {name: weight for name, weight in model.named_parameters() if name in linear and ROUTER not in name}
    return list(matrices.values()), [weight for name, weight in model.named_parameters() if name not in matrices]


def learning_rate_factor(step: int, params: TrainParams) -> float:
    """The factor in (0, 1] for update `step`, counted from 0: the first `warmup_steps` rise to 1, the last
    `decay_fraction` of all steps fall linearly, so that the update after the last would have rate 0.

    A constant stretch and a linear decay to zero match a cosine at its best length, and the stretch can be extended
    without knowing the length beforehand: Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed
    Training Durations" (arXiv 2405.18392), section 3.
    """
    rise = (step + 1) / max(1, params.warmup_steps)
    fall = (params.steps - step) / max(1.0, params.decay_fraction * params.steps)
    return min(1.0, rise, fall)


def precision_of_muon(autocast: Autocast, device: torch.device) -> torch.dtype:
    """bfloat16, but float32 on a CPU that trains without autocast: such a one multiplies float32 faster."""
    with autocast():
        return torch.bfloat16 if device.type != "cpu" or torch.is_autocast_enabled("cpu") else torch.float32
