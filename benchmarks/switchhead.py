"""SwitchHead beside dense attention of equal parameters, 768 wide: training, memory and generation, and what holds.

The experts' projections are computed in three ways (models/experts.py); the sweep at the end is the ground on which
`compute: auto` chooses among them.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import truediv
from pathlib import Path
from statistics import median

import torch
from torch import nn

from benchmarks.attention_step import (
    CONTESTANTS,
    DENSE,
    QUICK,
    SWITCHHEAD,
    Arithmetic,
    Size,
    Step,
    Variant,
    peak_bytes,
    seconds,
)
from benchmarks.common import Figures, comparison, finish, interleaved, short, start, watched
from studies.core.command import faults_in_one_line
from studies.core.page import table
from troupe.compute import set_up
from troupe.decoding import Decoding, generate
from troupe.inspection.attention import layer_costs
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.params import Params, load_params

BARS = {1024: 1.3, 256: 1.0}  # tokens/s over the dense layer's, at least, by context
GENERATION, CACHE = 1.0, 0.40  # likewise; the share of the dense cache, at most
COMPUTATIONS: tuple[Variant, ...] = ("dense", "loop", "grouped")
SWEEP = ((5, 2), (8, 2), (8, 1))  # experts of a head and how many are chosen: 2.5, 4 and 8 to one
EAGER = [Arithmetic("float32", compiled=False), Arithmetic("bfloat16", compiled=False)]
COMPILED = [replace(one, compiled=True) for one in EAGER]
LAYERS_OF_GENERATION = 4
TEXTS = ((250, 1), (250, 16), (1000, 1))  # tokens to write and how many texts at a time
NOTES = [
    "A step is forward, backward and optimiser of one layer alone, its input requiring a gradient. Muon is the "
    "optimiser of stage moe, with AdamW for routers and biases; AdamW is the other that params.yaml offers.",
    "Ratios are of tokens/s within a round, each contestant in the arithmetic that is its best here. Where a name ends "
    "in dense, loop or grouped, that is how experts are computed; loop and grouped have shapes that depend on the "
    "data, which torch.compile does not take whole, so that they are measured eager.",
    "useful: MACs per token of projections and routers, experts only where chosen; computed: with those that are "
    "computed though not chosen, in the way that computes all. Attention itself besides, counted full (what masks "
    "afterwards) and causal (what is needed). floats: numbers that attention over one text holds where no kernel "
    "fuses it, as the paper counts (inspection/attention.py).",
    "Peak memory: by how much a step, eager, at most raises the resident size of a fresh process that has built layer, "
    "input and optimiser (VmHWM of Linux, reset before). It holds gradients and the optimiser's state too.",
    f"Generation: {LAYERS_OF_GENERATION} layers, float32, random weights, which change no time.",
]


def main() -> None:
    args = start("switchhead", "SwitchHead beside dense attention", rounds=5)
    params = load_params(Path("params.yaml"), ["run.device=cpu", f"run.threads={args.threads}"])
    set_up(params.run)
    torch.manual_seed(0)
    finish(args, sections(args, QUICK if args.quick else Size(), params), NOTES, ["torch"])


def sections(args: argparse.Namespace, size: Size, params: Params) -> Iterator[str]:
    held = []
    yield costs(size)
    for context in size.contexts:
        for optimizer in ("muon", "adamw"):
            trained = params.moe.model_copy(update={"optimizer": optimizer})
            figures = interleaved(layers(size, context, args.quick, partial(Step, params=trained)), args)
            name = f"one layer, context {context}, {optimizer}"
            yield comparison(f"Training: {name}", figures, "tokens/s", bases=[fastest(figures, DENSE)])
            held.append(verdict(name, ratios(figures), at_least=BARS.get(context)))
    for context in size.contexts:
        figures = interleaved(stacks(size, context, args.quick, partial(Step, params=params.moe)), args)
        yield comparison(
            f"Two blocks with their MLPs, context {context}", figures, "tokens/s", [fastest(figures, DENSE)]
        )
    yield peaks(args, size)
    for n_new, batch in TEXTS[:2] if args.quick else TEXTS:
        figures = interleaved(generation(size, batch, n_new), args)
        name = f"generation of {n_new} tokens, {batch} at a time"
        yield comparison(name.capitalize(), figures, "tokens/s", bases=[DENSE])
        held.append(verdict(name, ratios(figures), at_least=GENERATION))
    cache = [layer_costs(size.layer(computation, 256), 256).cache_bytes for computation in ("auto", None)]
    held.append(verdict("key-value cache", [cache[0] / cache[1]], at_most=CACHE))
    yield "\n".join(["### What holds", "", *held])
    swept = SWEEP[:1] if args.quick else SWEEP
    yield sweep(args, [replace(size, n_expert=n_expert, top_k=top_k) for n_expert, top_k in swept])


def costs(size: Size) -> str:
    """Counted from shapes."""
    columns = ["parameters", "useful", "computed", "cache, bytes per token"]
    columns += [f"{what} at {context}" for context in size.contexts for what in ("full", "causal", "floats")]
    computations: dict[str, Variant | None] = {DENSE: None, SWITCHHEAD: "dense"}
    rows = {}
    for name, computation in computations.items():
        counts = [layer_costs(size.layer(computation, context), context) for context in size.contexts]
        cells = [counts[0].parameters, counts[0].useful, counts[0].executed, counts[0].cache_bytes]
        cells += [number for one in counts for number in (one.full, one.causal, one.memory_floats)]
        rows[name] = [f"{cell:,}" for cell in cells]
    return f"### One layer, counted\n\n{table('', columns, rows)}"


def layers(size: Size, context: int, quick: bool, step: Callable[..., Step]) -> dict[str, Step]:
    """Dense and, by each way, SwitchHead, in every arithmetic they can be computed in."""
    torch.compiler.reset()  # it keeps eight shapes of a module, and leaves those after them eager
    compilable = EAGER if quick else EAGER + COMPILED
    wanted: dict[str, tuple[Variant | None, list[Arithmetic]]] = {DENSE: (None, compilable)}
    wanted |= {
        f"{SWITCHHEAD} {computation}": (computation, compilable if computation == "dense" else EAGER)
        for computation in COMPUTATIONS
    }
    return {
        f"{name}, {arithmetic}": step(size.layer(computation, context), size, context, arithmetic)
        for name, (computation, arithmetics) in wanted.items()
        for arithmetic in arithmetics
    }


def stacks(size: Size, context: int, quick: bool, step: Callable[..., Step]) -> dict[str, Step]:
    torch.compiler.reset()
    return {
        f"{name}, {arithmetic}": step(size.blocks(computation, context), size, context, arithmetic)
        for name, computation in CONTESTANTS.items()
        for arithmetic in (EAGER if quick else COMPILED)
    }


def peaks(args: argparse.Namespace, size: Size) -> str:
    options = ["--quick"] if args.quick else []
    rows = {}
    for context in size.contexts:
        for arithmetic in EAGER[:1] if args.quick else EAGER:
            with watched(args):
                dense, experts = (peak_bytes(layer, context, arithmetic.precision, *options) for layer in CONTESTANTS)
            rows[f"context {context}, {arithmetic.precision}"] = memory_cells(dense, experts)
    columns = ["dense layer, MiB", "SwitchHead, MiB", "share"]
    return f"### Peak memory of a training step\n\n{table('', columns, rows)}"


def memory_cells(dense: int | None, experts: int | None) -> list[str]:
    """Both in MiB, and the share."""
    if dense is None or experts is None:
        return ["not measured", "not measured", ""]
    return [f"{dense / 2**20:.0f}", f"{experts / 2**20:.0f}", f"{experts / dense:.2f}"]


def generation(size: Size, batch: int, n_new: int) -> dict[str, Callable[[], float]]:
    return {
        name: partial(_speed, _model(size, computation, n_new), batch, n_new)
        for name, computation in CONTESTANTS.items()
    }


def _model(size: Size, computation: Variant | None, n_new: int) -> GPT:
    model = GPT(size.config(n_new + 1, LAYERS_OF_GENERATION), size.attention(computation)).eval()
    init_gpt2(model, torch.Generator().manual_seed(0))
    return model


def _speed(model: GPT, batch: int, n_new: int) -> float:
    computation = Decoding(temperature=0.8, top_k=50)
    write = partial(generate, model, torch.zeros(batch, 1, dtype=torch.long), n_new, computation, range(batch))
    return batch * n_new / seconds(write)


def sweep(args: argparse.Namespace, sizes: Sequence[Size]) -> str:
    """How many times the tokens/s of computing all experts the other two ways reach: medians of the rounds' ratios.

    In training, of one layer without its optimiser; and where there is no gradient, of one token each of some texts.
    """
    others = [computation for computation in COMPUTATIONS if computation != "dense"]
    columns = [f"{what}: {computation}" for what in conditions(sizes[0]) for computation in others]
    rows = {}
    for size in sizes:
        cells = []
        for what, contestant in conditions(size).items():
            figures = interleaved(
                {f"{what}: {computation}": contestant(computation) for computation in COMPUTATIONS}, args
            )
            speeds = [figures[f"{what}: {computation}"] for computation in (*others, "dense")]
            cells += [median(map(truediv, one, speeds[-1])) for one in speeds[:-1]]
        rows[f"{size.n_expert}, {size.top_k}"] = [*map(short, cells)]
    return f"### Ways to compute experts, times dense\n\n{table('experts, chosen', columns, rows)}"


def conditions(size: Size) -> dict[str, Callable[[Variant], Callable[[], float]]]:
    context = size.contexts[-1]

    def training(arithmetic: Arithmetic, computation: Variant) -> Step:
        return Step(size.layer(computation, context), size, context, arithmetic, params=None)

    def one_token(batch: int, computation: Variant) -> Callable[[], float]:
        return partial(_tokens_per_second, size.layer(computation, context), size, batch)

    found: dict[str, Callable[[Variant], Callable[[], float]]] = {}
    found |= {f"training, {arithmetic.precision}": partial(training, arithmetic) for arithmetic in EAGER}
    return found | {f"{batch} at a time": partial(one_token, batch) for batch in (1, 16)}


@torch.no_grad()
def _tokens_per_second(layer: nn.Module, size: Size, batch: int) -> float:
    """Of one token each of `batch` texts, without what attention costs over a text."""
    x_BTD = torch.randn(batch, 1, size.n_embd)
    return batch / median(seconds(partial(layer.eval(), x_BTD)) for _ in range(100))


def fastest(figures: Mapping[str, list[float]], start: str) -> str:
    """The contestant of highest median among those whose names start so."""
    return max((name for name in figures if name.startswith(start)), key=lambda name: median(figures[name]))


def ratios(figures: Figures) -> list[float]:
    """SwitchHead's tokens/s over the dense layer's, round by round, of the fastest of either."""
    ours, theirs = figures[fastest(figures, SWITCHHEAD)], figures[fastest(figures, DENSE)]
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def verdict(name: str, ratios: list[float], at_least: float | None = None, at_most: float | None = None) -> str:
    """One line: the median ratio against its bar, if there is one."""
    ratio = median(ratios)
    line = f"- {name}: {short(ratio)} times the dense layer's ({short(min(ratios))}..{short(max(ratios))})"
    if at_least is not None:
        return f"{line}; the bar is {at_least:g} at least: {'kept' if ratio >= at_least else 'missed'}"
    if at_most is not None:
        return f"{line}; the bar is {at_most:g} at most: {'kept' if ratio <= at_most else 'missed'}"
    return line


if __name__ == "__main__":
    with faults_in_one_line():
        main()
