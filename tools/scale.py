"""The figures of docs/scale.md: memory, exchange and time of training GPT-2's sizes on 1 GPU, 8 GPUs and 8 nodes of 8.

`python -m tools.scale` writes its tables anew. They are calculated, not measured: the memory by a step without content
(troupe.inspection.memory), the work from shapes, the rest from what HARDWARE assumes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from troupe.inspection.attention import attention_costs
from troupe.inspection.memory import TrainingMemory, training_memory
from troupe.inspection.shapes import Shape, shapes_wanted
from troupe.inspection.structure import parts, without_weights
from troupe.params import Params, load_params

PAGE = Path("docs/scale.md")
MARKED = re.compile(r"(<!-- calculated -->\n).*?(<!-- end -->)", re.DOTALL)
PER_NODE = 8
CONTEXT = 1024
FLOAT32 = 4  # bytes of a gradient, which is what is exchanged
PER_PARAMETER = 20  # tokens: about what a model of a size is best trained on (Hoffmann et al. 2022, arXiv 2203.15556)
MODELS = {
    "124M": "",
    "1.5B": "model.n_layer=48 model.n_head=25 model.n_embd=1600 pretrain.learning_rate=2e-4",
}
SEQUENCES = {("124M", 1): 32, ("124M", 8): 32, ("124M", 64): 8, ("1.5B", 1): 8, ("1.5B", 8): 8, ("1.5B", 64): 8}


@dataclass(frozen=True)
class Hardware:
    """Peak bfloat16 FLOP/s of a GPU; bytes per second, one way, of a GPU's links in a node and of a node's network;
    the shares of them that a step gets."""

    flops: float
    links: float
    network: float
    computing: float
    exchanging: float


HARDWARE = Hardware(flops=989e12, links=450e9, network=400e9, computing=0.4, exchanging=0.7)
SLOW_NETWORK = 12.5e9  # 100 Gbit/s Ethernet


@dataclass(frozen=True)
class Plan:
    """A model on some GPUs, each with the whole model and `sequences` of every batch."""

    model: str
    gpus: int
    sequences: int

    @property
    def nodes(self) -> int:
        return max(1, self.gpus // PER_NODE)

    @property
    def place(self) -> str:
        return {1: "1 GPU", PER_NODE: "8 GPUs"}.get(self.gpus, f"{self.nodes} nodes")

    def overrides(self) -> list[str]:
        """What to change of profile gpu2-124m."""
        batch = f"pretrain.batch_size={self.gpus * self.sequences}"
        processes = [f"run.processes={self.gpus}"] if self.gpus > 1 else []
        nodes = [f"run.nodes={self.nodes}", "run.launcher=torchrun"] if self.nodes > 1 else []
        experts = [f"moe.batch_size={self.gpus}"] if self.gpus > PER_NODE else []  # an equal share for each
        return [*processes, *nodes, batch, *experts, *MODELS[self.model].split()]

    def params(self) -> Params:
        return load_params(Path("params.yaml"), self.overrides(), "gpu2-124m")


@dataclass(frozen=True)
class Figures:
    """Bytes of a GPU, bytes that it sends in a step, seconds of a step and what they leave in tokens per second."""

    weights: int
    optimizer: int
    activations: int
    memory: int
    sent: float
    computing: float
    exchanging: float
    tokens_per_second: float
    tokens: float  # to train it on

    @property
    def seconds(self) -> float:
        return self.tokens / self.tokens_per_second


def sent(parameters: int, gpus: int) -> float:
    """Bytes that each of `gpus` sends, and receives, in a ring's exchange of the gradients: 2 (N - 1) / N of them."""
    return 2 * (gpus - 1) / gpus * parameters * FLOAT32


def flops_per_token(shape: Shape) -> float:
    """Of the forward and the backward pass: 6 for each multiplication with its addition in the forward pass."""
    model = without_weights(shape.build)
    return 6 * (sum(part.useful for part in parts(model)) + attention_costs(model, CONTEXT).causal)


@cache
def memory(model: str, sequences: int) -> TrainingMemory:
    """Of a GPU with so many sequences of a batch, that of rank 0: it alone keeps a copy of the best weights."""
    params = Plan(model, 1, sequences).params()
    build = shapes_wanted(params)["pretrain"].build
    return training_memory(build, params.pretrain, sequences, CONTEXT, torch.bfloat16, "cuda")


def figures(plan: Plan, hardware: Hardware = HARDWARE) -> Figures:
    """What a step of a plan holds, sends and takes; computing and exchanging do not overlap (training/parallel.py)."""
    shape = shapes_wanted(plan.params())["pretrain"]
    held = memory(plan.model, plan.sequences)
    parameters = held.weights // FLOAT32
    tokens = plan.sequences * CONTEXT
    computing = tokens * flops_per_token(shape) / (hardware.flops * hardware.computing)
    link = hardware.links if plan.nodes == 1 else min(hardware.links, hardware.network)
    exchanging = sent(parameters, plan.gpus) / (link * hardware.exchanging)
    return Figures(
        weights=held.weights,
        optimizer=held.optimizer,
        activations=held.activations,
        memory=held.total,
        sent=sent(parameters, plan.gpus),
        computing=computing,
        exchanging=exchanging,
        tokens_per_second=plan.gpus * tokens / (computing + exchanging),
        tokens=PER_PARAMETER * parameters,
    )


def tables() -> str:
    """The tables of the page, in Markdown."""
    plans = [Plan(model, gpus, sequences) for (model, gpus), sequences in SEQUENCES.items()]
    return "\n".join([*_settings(plans), "", *_memory(plans), "", *_time(plans)])


def _settings(plans: list[Plan]) -> Iterator[str]:
    yield '| model | on | `make pipeline PROFILE=gpu2-124m SET="..."` | tokens a step |'
    yield "|---|---|---|---:|"
    for plan in plans:
        tokens = plan.gpus * plan.sequences * CONTEXT
        yield f"| {plan.model} | {plan.place} | `{' '.join(plan.overrides())}` | {tokens:,} |"


def _memory(plans: list[Plan]) -> Iterator[str]:
    yield "| model | on | sequences per GPU | weights | gradients | AdamW | best weights | activations | together |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|"
    for plan in plans:
        of = figures(plan)
        cells = (of.weights, of.weights, of.optimizer, of.weights, of.activations, of.memory)
        yield f"| {plan.model} | {plan.place} | {plan.sequences} | {' | '.join(f'{_gb(cell)} GB' for cell in cells)} |"


def _time(plans: list[Plan]) -> Iterator[str]:
    yield "| model | on | sent per GPU and step | computing | exchanging | tokens/s | its tokens in | on 100 Gbit/s |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    for plan in plans:
        of = figures(plan)
        slow = Hardware(**{**vars(HARDWARE), "network": SLOW_NETWORK})
        slowly = _duration(figures(plan, slow).seconds) if plan.nodes > 1 else ""
        yield (
            f"| {plan.model} | {plan.place} | {_gb(of.sent)} GB | {1000 * of.computing:.0f} ms | "
            f"{1000 * of.exchanging:.0f} ms | {_rounded(of.tokens_per_second)} | {_duration(of.seconds)} | {slowly} |"
        )


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f}"


def _rounded(value: float) -> str:
    return f"{int(float(f'{value:.2g}')):,}"


def _duration(seconds: float) -> str:
    hours = seconds / 3600
    if hours < 2:
        return f"{60 * hours:.0f} minutes"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"


def main() -> None:
    """Write the tables into the page."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(MARKED.sub(lambda found: found[1] + tables() + "\n" + found[2], page), encoding="utf-8")


if __name__ == "__main__":
    main()
