"""One job of the ladder: a rung trained by one recipe with every seed, and what is measured of it.

Axes: B sequences, T tokens, D model width.
"""

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import torch
from torch import Tensor, nn

from studies.core.jobs import Figures, Job
from studies.core.text import Text, load_text, shortened
from studies.ladder.model import build
from studies.ladder.rungs import LADDER, Rung
from studies.ladder.settings import Recipe
from studies.ladder.together import Joined, Together
from troupe.compute import keep_memory
from troupe.data.batches import Batches
from troupe.data.tokenizer import FILE, load_tokenizer
from troupe.decoding import Decoding, generate
from troupe.errors import Diverged
from troupe.evaluation.comparison import bits_per_byte, nats
from troupe.models.gpt2 import GPT, evaluating, init_gpt2
from troupe.seeding import derive_seed, generator
from troupe.training.loop import Best, RunContext, Step, cross_entropy, validate

MEASURED = 64  # sequences of training text on which gradients and activations are measured
FAR = 100.0  # a loss that is not finite, or beyond, counts as this one: figures hold no NaN
UNCLIPPED = 1000.0  # a bound on gradients that never binds: a lower one would clip all seeds by their joint norm
POINTS = 50  # of a curve of training loss, each the mean of as many steps


def run_rung(job: Job, folder: Path, needed: Path | None) -> Figures:
    """The body of a job: {"runs": the figures of every seed}. AdamW, which treats every weight by itself, trains the
    models of all seeds side by side, if gradients are not clipped and no seed diverges; Muon, which treats matrices,
    one after the other.

    A training that diverges is a result: its figures say at which step.
    """
    seeds = [*range(1, 1 + job.settings["seeds"])]
    recipe = Recipe.model_validate(job.settings["recipe"])
    where = folder.parent / job.settings["text"]
    text = shortened(load_text(where), job.settings["held_out"])
    torch.set_flush_denormal(True)
    run = partial(run_seeds, job, text, where, recipe)
    if recipe.optimizer == "adamw" and recipe.grad_clip >= UNCLIPPED:
        together = run(seeds)
        if not any(one["diverged"] for one in together):
            return {"runs": together}
    return {"runs": [one for seed in seeds for one in run([seed])]}


def run_seeds(job: Job, text: Text, where: Path, recipe: Recipe, seeds: Sequence[int]) -> list[Figures]:
    """The figures of seeds that are trained side by side; cost and training losses are the means over them."""
    rung = next(rung for rung in LADDER if rung.name == job.settings["rung"])
    models = [initialised(rung, symbols(text), recipe.block_size, seed, recipe.gain) for seed in seeds]
    before = [by_depth(model, text, seed) for model, seed in zip(models, seeds, strict=True)]
    torch.manual_seed(derive_seed(seeds[0], "study", "dropout"))
    curve = Curve([], [], [[] for _ in seeds])
    began, diverged = time.process_time(), None
    try:
        fit(models, text, recipe, seeds, curve)
    except Diverged as error:
        diverged = str(error)
    shared = {
        "parameters": sum(parameter.numel() for parameter in models[0].parameters()),
        "steps": recipe.steps,
        "seconds": (time.process_time() - began) / len(seeds),
        "tokens_per_second": median(curve.speeds or [0.0]),
        "training": thinned(curve.losses),
        "diverged": diverged,
    }
    prompt, length = job.settings["prompt"], job.settings["sample"]
    return [
        shared
        | {
            "looks": looks,
            "depth": {"start": start, "end": by_depth(model, text, seed)},
            "test": on_test_text(model, text),
            "sample": "" if diverged else sample(model, where, prompt, length, seed),
        }
        for model, seed, start, looks in zip(models, seeds, before, curve.looks, strict=True)
    ]


def symbols(text: Text) -> int:
    """The vocabulary that the text needs: of characters, without the ids that spell unknown ones where it has none."""
    return 1 + max(int(ids.max()) for ids in text.ids.values())


def initialised(rung: Rung, vocab_size: int, block_size: int, seed: int, gain: float = 1.0) -> GPT:
    """A rung's model with random weights as GPT-2's. What joins no residual stream is not made smaller by its depth,
    but `gain` times as large in all matrices of its blocks."""
    model = build(rung, vocab_size, block_size)
    init_gpt2(model, generator(seed, "study", "init"))
    if not rung.residual:
        enlarge(model, math.sqrt(2 * rung.n_layer if rung.mlp else max(1, rung.n_layer)), gain)
    return model


@torch.no_grad()
def enlarge(model: GPT, depth: float, gain: float) -> None:
    """Take back what `init_gpt2` does to the last layers of a block's parts, whose outputs add up in a residual
    stream, and multiply every matrix by `gain`."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.weight *= gain * (depth if name.endswith(".output") else 1.0)


class Curve(NamedTuple):
    """Of every step the loss, the mean over the seeds, and tokens per second; of every seed its looks at validation."""

    losses: list[float]
    speeds: list[float]
    looks: list[list[dict[str, float]]]


def fit(models: Sequence[GPT], text: Text, recipe: Recipe, seeds: Sequence[int], curve: Curve) -> None:
    """Train a rung's models, one per seed, side by side, and note every step and every look at the whole of validation
    text in `curve`. Each is left with the weights of its best look; of a training that diverges with the last ones that
    were finite, which are looked at, too."""
    ids, size = text.ids["train"], (recipe.block_size, recipe.batch_size)
    batches = Joined([Batches(ids, *size, derive_seed(seed, "study", "batches")) for seed in seeds])
    together, best = Together(models) if len(models) > 1 else models[0], [Best() for _ in models]
    step = Step(together, batches, recipe, RunContext())
    keep_memory()

    def look(done: int) -> None:
        if isinstance(together, Together):
            together.write_to(models)
        for model, kept, looks in zip(models, best, curve.looks, strict=True):
            seen = validate(model, text.ids["validation"], text.n_bytes["validation"], nullcontext)
            loss, bpb = bounded(seen["val/loss"]), bounded(seen["val/bpb"])
            looks.append({"step": done, "loss": loss, "bpb": bpb})
            kept.offer(model, {"val/bpb": bpb})

    try:
        for done in range(1, 1 + recipe.steps):
            figures, _ = step(done)
            curve.losses.append(figures["train/loss"])
            curve.speeds.append(figures["train/tokens_per_second"])
            if done % recipe.eval_interval == 0 or done == recipe.steps:
                look(done)
    except Diverged:
        look(len(curve.losses))
        raise
    for model, kept in zip(models, best, strict=True):
        model.load_state_dict(kept.weights)


def bounded(value: float) -> float:
    return min(FAR, value) if math.isfinite(value) else FAR


def thinned(losses: list[float]) -> list[list[float]]:
    """[[step, mean loss of the steps up to it]], at most POINTS of them."""
    every = max(1, len(losses) // POINTS)
    ends = range(every, len(losses) + 1, every)
    return [[end, mean(losses[end - every : end])] for end in ends]


def by_depth(model: GPT, text: Text, seed: int) -> dict[str, list[float]]:
    """On one batch of training text, of the embedding and of each block: the L2 norm of its gradient, and the root mean
    square of what it puts out."""
    scales: list[float] = []

    def note(module: nn.Module, given: object, x_BTD: Tensor) -> None:
        scales.append(x_BTD.detach().square().mean().sqrt().item())

    layers = [model.token_embedding, *model.blocks]
    watches = [layer.register_forward_hook(note) for layer in layers]
    batches = Batches(text.ids["train"], model.config.block_size, MEASURED, derive_seed(seed, "study", "depth"))
    with evaluating(model):
        cross_entropy(model, *batches.batches(0), RunContext().autocast).backward()  # type: ignore[no-untyped-call]
    for watch in watches:
        watch.remove()
    gradients = [norm(layer) for layer in layers]
    model.zero_grad()
    return {"gradient": [*map(bounded, gradients)], "activation": [*map(bounded, scales)]}


def norm(layer: nn.Module) -> float:
    """The L2 norm of the gradient of all of a layer's parameters."""
    squares = [parameter.grad.square().sum() for parameter in layer.parameters() if parameter.grad is not None]
    return float(torch.stack(squares).sum().sqrt())


def on_test_text(model: GPT, text: Text) -> dict[str, float]:
    """Of the weights that validation text liked best, on the whole of test text, as the pipeline evaluates."""
    with evaluating(model):
        total = nats(model, text.ids["test"], stride=max(1, model.config.block_size // 2))
    n_tokens, n_bytes = len(text.ids["test"]), text.n_bytes["test"]
    return {"loss": bounded(total / n_tokens), "bpb": bounded(bits_per_byte(total, n_bytes))}


def sample(model: GPT, folder: Path, prompt: str, length: int, seed: int) -> str:
    """`length` characters after what the vocabulary has of `prompt`, or else after its first character."""
    tokenizer = load_tokenizer(folder / FILE)
    known = [number for number in tokenizer.encode(prompt) if number < model.config.vocab_size]
    ids_BT = torch.tensor([known or [0]])
    new_BT = generate(model, ids_BT, length, Decoding(), [derive_seed(seed, "study", "sample")])[:, ids_BT.size(1) :]
    return tokenizer.decode(new_BT[0].tolist())
