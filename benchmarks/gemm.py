"""The matrix products of a training step, alone: the speed that a machine shows for these shapes, and no other cost.

N tokens of a step, I and J the width that goes into and comes out of a linear layer.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from troupe.inspection.attention import attention_costs
from troupe.inspection.structure import parts, without_weights
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT


@dataclass(frozen=True)
class BenchShape:
    """A GPT-2's, and the batch it is trained on."""

    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    batch_size: int
    dropout: float
    vocab_size: int = 65

    @property
    def tokens(self) -> int:
        return self.batch_size * self.block_size

    def linear_layers(self) -> Iterator[tuple[int, int, int]]:
        """(how many, width in, width out): query-key-value, attention's output, both of the MLP, the head."""
        D = self.n_embd
        yield from ((self.n_layer, n_in, n_out) for n_in, n_out in ((D, 3 * D), (D, D), (D, 4 * D), (4 * D, D)))
        yield 1, D, self.vocab_size

    def flops_per_token(self) -> int:
        """Useful operations: 2 for each MAC of matrices and causal attention, and backward twice."""
        config = GPTConfig(self.vocab_size, self.block_size, self.n_layer, self.n_head, self.n_embd, self.dropout)
        model = without_weights(partial(GPT, config))
        matrices = sum(part.useful for part in parts(model))
        return 3 * 2 * (matrices + attention_costs(model, self.block_size).causal)


def peak_flops(shape: BenchShape, dtype: torch.dtype, repeats: int) -> float:
    """FLOP/s of all forward, input-gradient and weight-gradient products of the linear layers of one step."""
    seconds, flops = 0.0, 0
    for count, n_in, n_out in shape.linear_layers():
        seconds += count * _fastest_of(repeats, (shape.tokens, n_in, n_out), dtype)
        flops += count * 3 * 2 * shape.tokens * n_in * n_out
    return flops / seconds


def _fastest_of(repeats: int, sizes: tuple[int, int, int], dtype: torch.dtype) -> float:
    N, I, J = sizes  # noqa: E741
    x_NI, w_JI, dy_NJ = (torch.randn(size).to(dtype) for size in ((N, I), (J, I), (N, J)))
    y_NJ, dx_NI, dw_JI = torch.empty_like(dy_NJ), torch.empty_like(x_NI), torch.empty_like(w_JI)
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        torch.mm(x_NI, w_JI.T, out=y_NJ)
        torch.mm(dy_NJ, w_JI, out=dx_NI)
        torch.mm(dy_NJ.T, x_NI, out=dw_JI)
        times.append(time.perf_counter() - began)
    return min(times)
