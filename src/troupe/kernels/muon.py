"""Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"), many matrices at a time.

Axes: N matrices of one shape, R rows, C columns, M the fewer of both, L the more.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Muon


class StackedMuon(Muon):
    """torch's Muon for float32 weights, with its state, its arithmetic and Jordan's scaling of the rate (`adjust_lr_fn`
    is not heeded), but matrices of one shape are orthogonalised together.

    The layers of a model are alike, and one after another their products are too small to keep a machine busy: on
    4 threads 16 matrices of a model 256 wide took 38 ms alone and 14 ms in stacks (docs/results/2026-11-22-kernels.md).
    For that a step needs room for about twice the matrices of one shape, where torch's needs it for one matrix. It can
    go once torch stacks them itself.

    `dtype` is what they are orthogonalised in. torch's is bfloat16, which takes 2 to 21 times as long as float32 on
    CPUs that do not multiply it (docs/results/2026-11-30-muon-precision.md).
    """

    def __init__(self, params: Iterable[Tensor], dtype: torch.dtype = torch.bfloat16, **options: Any) -> None:
        super().__init__(params, **options)
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # without torch's closure, which nothing here has
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for weight_RC in group["params"]:
                if weight_RC.grad is not None:
                    alike[weight_RC.shape].append((weight_RC, weight_RC.grad))
            for pairs in alike.values():
                self._update(pairs, group)

    def _update(self, pairs: list[tuple[Tensor, Tensor]], group: dict[str, Any]) -> None:
        momentum, rate = group["momentum"], group["lr"]
        weights_N, gradients_N = map(list, zip(*pairs, strict=True))
        averages_N = [self._average(weight_RC) for weight_RC in weights_N]
        torch._foreach_lerp_(averages_N, gradients_N, 1 - momentum)
        weight = momentum if group["nesterov"] else 1.0
        ahead_N = [
            g_RC.lerp(average_RC, weight).to(self.dtype)
            for g_RC, average_RC in zip(gradients_N, averages_N, strict=True)
        ]
        updates_NRC = orthogonalise(torch.stack(ahead_N), group["ns_coefficients"], group["ns_steps"], group["eps"])
        R, C = weights_N[0].shape
        torch._foreach_mul_(weights_N, 1 - rate * group["weight_decay"])
        torch._foreach_add_(weights_N, list(updates_NRC), alpha=-rate * max(1, R / C) ** 0.5)

    def _average(self, weight_RC: Tensor) -> Tensor:
        """Of its gradients so far, which torch keeps under this name."""
        state = self.state[weight_RC]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight_RC)
        average_RC: Tensor = state["momentum_buffer"]
        return average_RC


def orthogonalise(
    matrices_NRC: Tensor, coefficients: tuple[float, float, float], iterations: int, eps: float
) -> Tensor:
    """(N, R, C), computed in their precision: each matrix with all its singular values near 1, by a quintic
    Newton-Schulz iteration."""
    a, b, c = coefficients
    tall = matrices_NRC.size(1) > matrices_NRC.size(2)
    x_NML = matrices_NRC.mT if tall else matrices_NRC
    x_NML = x_NML / torch.linalg.matrix_norm(x_NML, keepdim=True).clamp(min=eps)
    for _ in range(iterations):
        gram_NMM = x_NML @ x_NML.mT
        polynomial_NMM = torch.baddbmm(gram_NMM, gram_NMM, gram_NMM, beta=b, alpha=c)
        x_NML = torch.baddbmm(x_NML, polynomial_NMM, x_NML, beta=a)
    return x_NML.mT if tall else x_NML
