"""One training step of attention, dense or SwitchHead: what benchmarks.switchhead measures, and its peak of memory.

`python -m benchmarks.attention_step LAYER CONTEXT PRECISION` prints the bytes by which a step of that layer raises the
resident size of a fresh process at most. Axes: B texts, T tokens, D model width.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal, get_args

import torch
from torch import nn

from studies.core.command import faults_in_one_line
from troupe.compute import compile_passes
from troupe.inspection.attention import Attention
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import Block, CausalSelfAttention
from troupe.models.switchhead import SwitchHead, SwitchHeadConfig
from troupe.params import TrainParams, load_params
from troupe.training.optim import build_optimizers

Variant = Literal["auto", "dense", "loop", "grouped"]
Precision = Literal["float32", "bfloat16"]
DENSE, SWITCHHEAD = "dense layer", "SwitchHead"
CONTESTANTS: dict[str, Variant | None] = {DENSE: None, SWITCHHEAD: "auto"}
PROCESS = Path("/proc/self")  # of Linux
FORGET_THE_PEAK = "5"  # to clear_refs: VmHWM is the resident size of now again (man proc_pid_clear_refs)


@dataclass(frozen=True)
class Arithmetic:
    precision: Precision
    compiled: bool

    def __str__(self) -> str:
        return f"{self.precision}, {'compiled' if self.compiled else 'eager'}"


@dataclass(frozen=True)
class Size:
    """A dense layer and a SwitchHead layer of about as many parameters; GPT-2's parts, biases among them."""

    n_embd: int = 768
    dense_heads: int = 12
    n_head: int = 4
    n_expert: int = 5
    top_k: int = 2
    tokens: int = 4096  # of a step
    contexts: tuple[int, ...] = (1024, 256)

    def config(self, context: int, n_layer: int = 1) -> GPTConfig:
        return GPTConfig(512, context, n_layer, self.dense_heads, self.n_embd, dropout=0.0)

    def experts(self, variant: Variant) -> SwitchHeadConfig:
        head_width = self.n_embd // self.dense_heads
        return SwitchHeadConfig(self.n_head, head_width, self.n_expert, self.top_k, "sigmoid", compute=variant)

    def attention(self, variant: Variant | None) -> Callable[[GPTConfig], Attention]:
        """What builds the layer from a config; dense where no way of computing experts is given."""
        return partial(SwitchHead, experts=self.experts(variant)) if variant else CausalSelfAttention

    def layer(self, variant: Variant | None, context: int) -> Attention:
        return self.attention(variant)(self.config(context))

    def blocks(self, variant: Variant | None, context: int, n_layer: int = 2) -> nn.Module:
        """A stack of transformer blocks, MLPs too."""
        config = self.config(context, n_layer)
        return nn.Sequential(*(Block(config, self.attention(variant)(config)) for _ in range(n_layer)))


QUICK = Size(n_embd=48, dense_heads=3, n_head=1, tokens=64, contexts=(16,))


class Step:
    """Forward, backward through an input that requires a gradient, and optimiser. Called: tokens per second."""

    def __init__(self, module: nn.Module, size: Size, context: int, arithmetic: Arithmetic, params: TrainParams | None):
        """Without `params` there is no optimiser."""
        self.module, self.tokens, self.precision = module, size.tokens, arithmetic.precision
        self.forward = compile_passes(module) if arithmetic.compiled else module
        self.optimizers = build_optimizers(module, params) if params else []
        self.x_BTD = torch.randn(size.tokens // context, context, size.n_embd, requires_grad=True)
        self.gradient_BTD = torch.randn_like(self.x_BTD) / size.tokens
        self.is_warm = False

    def __call__(self, steps: int = 5) -> float:
        for _ in range(0 if self.is_warm else 2):
            self.run()
        self.is_warm = True
        return self.tokens / median(seconds(self.run) for _ in range(steps))

    def run(self) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16"):
            y_BTD = self.forward(self.x_BTD)
        y_BTD.backward(self.gradient_BTD.to(y_BTD))
        for optimizer in self.optimizers:
            optimizer.step()
        self.module.zero_grad()
        self.x_BTD.grad = None


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def peak_bytes(layer: str, context: int, precision: Precision, *options: str) -> int | None:
    """What `main` prints, from a process of its own; None where the system does not tell."""
    if not (PROCESS / "clear_refs").exists():
        return None
    command = [sys.executable, "-m", "benchmarks.attention_step", layer, str(context), precision, *options]
    return int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def raised_bytes(work: Callable[[], object]) -> int:
    """By how much `work` raises the resident size of this process at most.

    Not by ru_maxrss: a process begins with the peak of the one that started it, which survives fork and exec.
    """
    (PROCESS / "clear_refs").write_text(FORGET_THE_PEAK)
    before = _peak()
    work()
    return _peak() - before


def _peak() -> int:
    """The largest resident size since the last reset, in bytes."""
    lines = (PROCESS / "status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kib) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention_step")
    parser.add_argument("layer", choices=CONTESTANTS)
    parser.add_argument("context", type=int)
    parser.add_argument("precision", choices=get_args(Precision))
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    size = QUICK if args.quick else Size()
    layer = size.layer(CONTESTANTS[args.layer], args.context)
    params = load_params(Path("params.yaml")).moe
    step = Step(layer, size, args.context, Arithmetic(args.precision, compiled=False), params)

    def work() -> None:
        for _ in range(2):  # the optimiser's state is there from the second on
            step.run()

    print(raised_bytes(work))


if __name__ == "__main__":
    with faults_in_one_line():
        main()
