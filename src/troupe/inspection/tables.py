"""The tables of `troupe describe`: a model's parts, the work of a token, the memory of training and of generating."""

from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from troupe.inspection.attention import attention_costs
from troupe.inspection.memory import TrainingMemory, training_memory
from troupe.inspection.structure import parts, without_weights
from troupe.models.gpt2 import GPT
from troupe.models.switchhead import SwitchHead
from troupe.models.tilted import Tilted
from troupe.params import TrainParams

ROWS = {
    "weights": "weights, float32",
    "gradients": "gradients",
    "optimizer": "optimiser",
    "best": "copy of the best weights",
    "activations": "activations",
    "total": "together",
}
WHAT_IT_COUNTS = (
    "Tensors of a step that is not compiled, without what single operations need for a moment; compiled steps "
    "(run.compile) keep less.\nExperts as `compute: dense` has them; loop and grouped keep more. On a GPU, an estimate."
)


def describe(
    name: str,
    build: Callable[[], GPT],
    params: TrainParams | None,
    batch: int,
    context: int,
    console: Console,
) -> None:
    """Print a model's tables; `build` makes it, on tensors without memory. `params` are those of a stage that trains by
    likelihood, None for another: what the adversarial stage holds, such as a second model, is not estimated.
    """
    model = without_weights(build)
    console.print(_structure(name, model, context))
    if params:
        console.print(_training(build, params, batch, context))
    cache = _size(batch * context * attention_costs(model, context).cache_bytes)
    console.print(f"key-value cache while generating, {batch} x {context} tokens, float32: {cache}\n", highlight=False)


def _structure(name: str, model: GPT, context: int) -> Table:
    found, attention = parts(model), attention_costs(model, context)
    parameters, useful, executed = (
        sum(getattr(part, field) for part in found) for field in ("parameters", "useful", "executed")
    )
    table = _table(_title(name, model), "part", "modules", "parameters", "MACs per token", "executed")
    for part in found:
        name = f"{part.name}, the head too" if part.name == "token_embedding" and part.useful else part.name
        table.add_row(name, str(part.modules), *_numbers(part.parameters, part.useful, part.executed))
    table.add_section()
    table.add_row("all of these", "", *_numbers(parameters, useful, executed))
    table.add_row(f"attention over {context} tokens, causal", "", "", *_numbers(attention.causal, attention.causal))
    table.add_row("the same, unmasked", "", "", *_numbers(attention.full, attention.full))
    table.add_section()
    forward = _numbers(useful + attention.causal, executed + attention.causal)
    table.add_row("forward, causal (training: three times as much)", "", "", *forward)
    return table


def _title(name: str, model: GPT) -> str:
    """The experts' own dimensions too, which may be other heads than the config's, and what a tilt has counted."""
    experts = next((module.experts for module in model.modules() if isinstance(module, SwitchHead)), None)
    more = f"\n{experts}; executed: experts that are computed though not chosen count too" if experts else ""
    if isinstance(model, Tilted):
        sizes = model.ngrams.sizes()
        more += f"\ntilted beside {sum(size for size, _ in sizes):,} n-grams of orders 1 to {len(sizes)}, looked up"
    return f"{name}: {model.config}{more}"


def _numbers(*counts: int) -> list[str]:
    return [f"{count:,}" if count else "" for count in counts]


def _training(build: Callable[[], GPT], params: TrainParams, batch: int, context: int) -> Table:
    columns: dict[str, TrainingMemory] = {
        "GPU, float32": training_memory(build, params, batch, context, torch.float32, "cuda"),
        "GPU, bfloat16": training_memory(build, params, batch, context, torch.bfloat16, "cuda"),
        "CPU, float32": training_memory(build, params, batch, context, torch.float32, "cpu"),
        "CPU, bfloat16": training_memory(build, params, batch, context, torch.bfloat16, "cpu"),
    }
    table = _table(f"a training step of {batch} x {context} tokens, {params.optimizer}", "memory", *columns)
    for field, text in ROWS.items():
        if field == "total":
            table.add_section()
        table.add_row(text, *(_size(getattr(memory, field)) for memory in columns.values()))
    table.caption = WHAT_IT_COUNTS
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column(first)
    for other in others:
        table.add_column(other, justify="right")
    return table


def _size(n_bytes: Any) -> str:
    return f"{n_bytes / 2**20:,.1f} MiB" if n_bytes < 2**30 else f"{n_bytes / 2**30:,.2f} GiB"
