"""One job of the ladder: a rung trained by one recipe with one seed, and what is measured of it.

Axes: B sequences, T tokens, D model width.
"""

import math
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import mean, median

import torch
from torch import Tensor, nn

from studies.core.jobs import Figures, Job
from studies.core.text import Text, load_text
from studies.ladder.model import Bigram, build
from studies.ladder.rungs import LADDER, Rung
from studies.ladder.settings import Recipe
from troupe.data.batches import Batches
from troupe.data.tokenizer import FILE, load_tokenizer
from troupe.decoding import Decoding, generate
from troupe.errors import Diverged
from troupe.evaluation.comparison import bits_per_byte, nats
from troupe.models.gpt2 import GPT, evaluating, init_gpt2
from troupe.seeding import derive_seed, generator
from troupe.training.loop import RunContext, cross_entropy, train, validate

MEASURED = 64  # sequences of training text on which gradients and activations are measured
FAR = 100.0  # a loss that is not finite, or beyond, counts as this one: figures hold no NaN
POINTS = 50  # of a curve of training loss, each the mean of as many steps


def run_rung(job: Job, folder: Path, needed: Path | None) -> Figures:
    """The body of a job. A training that diverges is a result: its figures say at which step."""
    rung = next(rung for rung in LADDER if rung.name == job.settings["rung"])
    recipe = Recipe.model_validate(job.settings["recipe"])
    where = folder.parent / job.settings["text"]
    text = shortened(load_text(where), job.settings["held_out"])
    torch.set_flush_denormal(True)
    model = initialised(rung, symbols(text), recipe.block_size, job.seed)
    before = by_depth(model, text, job.seed)
    torch.manual_seed(derive_seed(job.seed, "study", "dropout"))
    curve: Figures = {"losses": [], "looks": [], "speeds": []}
    began, diverged = time.process_time(), None
    try:
        fit(model, text, recipe, job.seed, curve)
    except Diverged as error:
        diverged = str(error)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": time.process_time() - began,
        "tokens_per_second": median(curve["speeds"] or [0.0]),
        "training": thinned(curve["losses"]),
        "looks": curve["looks"],
        "diverged": diverged,
        "depth": {"start": before, "end": by_depth(model, text, job.seed)},
        "test": on_test_text(model, text),
        "sample": "" if diverged else sample(model, where, job.settings["prompt"], job.settings["sample"], job.seed),
    }


def symbols(text: Text) -> int:
    """The vocabulary that the text needs: of characters, without the ids that spell unknown ones where it has none."""
    return 1 + max(int(ids.max()) for ids in text.ids.values())


def shortened(text: Text, tokens: int | None) -> Text:
    """The text with at most so many tokens of validation and of test; their bytes in proportion."""
    ids = {part: of if part == "train" or not tokens else of[:tokens] for part, of in text.ids.items()}
    n_bytes = {part: round(text.n_bytes[part] * len(ids[part]) / len(text.ids[part])) for part in ids}
    return Text(text.vocab_size, ids, n_bytes)


def initialised(rung: Rung, vocab_size: int, block_size: int, seed: int) -> GPT:
    """A rung's model with random weights as GPT-2's. What joins no residual stream is not made smaller by its depth."""
    model = build(rung, vocab_size, block_size)
    init_gpt2(model, generator(seed, "study", "init"))
    if not rung.residual:
        enlarge(model, math.sqrt(2 * rung.n_layer if rung.mlp else max(1, rung.n_layer)))
    return model


@torch.no_grad()
def enlarge(model: GPT, factor: float) -> None:
    """Take back what `init_gpt2` does to the last layers of a block's parts, whose outputs add up in a residual
    stream."""
    for name, module in model.named_modules():
        if name.endswith(".output") and isinstance(module, nn.Linear):
            module.weight *= factor


def fit(model: GPT, text: Text, recipe: Recipe, seed: int, curve: Figures) -> None:
    """Train, and note every step's loss and every look at the whole of validation text in `curve`. The best look's
    weights are left; of a training that diverges the last ones that were finite, which are looked at, too."""
    batches = Batches(text.ids["train"], recipe.block_size, recipe.batch_size, derive_seed(seed, "study", "batches"))
    if isinstance(model, Bigram):  # it has no matrix for Muon
        recipe = recipe.model_copy(update={"optimizer": "adamw"})

    def log(step: int, figures: Mapping[str, float]) -> None:
        curve["losses"].append(figures["train/loss"])
        curve["speeds"].append(figures["train/tokens_per_second"])
        if "val/loss" in figures:
            curve["looks"].append({"step": step, "loss": figures["val/loss"], "bpb": figures["val/bpb"]})

    context = RunContext(log=log)
    look = partial(validate, model, text.ids["validation"], text.n_bytes["validation"], context.autocast)
    try:
        train(model, batches, look, recipe, context)
    except Diverged:
        seen = {name: bounded(value) for name, value in look().items()}
        curve["looks"].append({"step": len(curve["losses"]), "loss": seen["val/loss"], "bpb": seen["val/bpb"]})
        raise


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
