"""Tokens per second of training beside nanoGPT's own train.py, and how much of the machine's GEMM speed that is."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import nanogpt_copy
from benchmarks.common import Figures, finish, interleaved, nanogpt, short, start, table
from benchmarks.gemm import Shape, peak_flops

CONFIGS = Path("benchmarks/configs")
AUTOCAST = Path(__file__).with_name("nanogpt_bf16.py")
SMALL, LARGE = Shape(4, 4, 128, 64, 12, 0.0), Shape(6, 6, 384, 256, 64, 0.2)
TINY = Shape(2, 2, 32, 32, 4, 0.0)
SIZES = [
    ("nanoGPT's CPU shape: 0.80M parameters, batch 12 x 64", SMALL, "nanogpt-cpu", 200),
    ("nanoGPT's GPU shape: 10.7M parameters, batch 64 x 256", LARGE, "shakespeare-10m", 10),
]
DIMENSIONS = ("n_layer", "n_head", "n_embd", "block_size", "dropout")
BFLOAT16 = "bfloat16"  # in the name of every contestant that multiplies in it; the others use float32
NOTES = [
    "A figure is the median over the second half of the steps of a process of its own: start-up, compilation and "
    "evaluation are left out, drawing the batch is not. Contestants take turns; a ratio compares within a round.",
    "nanoGPT is its train.py, unchanged, in a temporary copy. On a CPU it takes no notice of --dtype: it opens no "
    "autocast there, so that float32 is its best. The rows with `model.py` are not its script, but a driver of ours "
    "around its model, optimiser and way to draw batches, under bfloat16 autocast.",
    "troupe is troupe.training.loop.train on GPT-2 with AdamW: same shape, batch and threads. With its recipe it is "
    "the configuration of benchmarks.shakespeare for this shape, which does other work in a step.",
    "Useful FLOP/s: 6 per weight of a matrix, the head included, and 6 L T D for causal attention, per token. The peak "
    "is the fastest of the forward, input-gradient and weight-gradient products of every linear layer, nothing else.",
    "The whole run of nanoGPT is its README's example for a CPU: 9 looks at 20 batches of each split. troupe looks 8 "
    "times at the whole validation split, and once more at the end.",
]


def main() -> None:
    args = start("training", "Training speed", rounds=3)
    sizes = [("tiny", TINY, None, 6)] if args.quick else SIZES
    sections = []
    with _copy(nanogpt()) as folder:
        for title, shape, recipe, steps in sizes:
            contestants = theirs(folder, shape, steps, not args.quick) | ours(shape, steps, args.threads, recipe)
            figures = interleaved(contestants, args.rounds)
            sections += [table(title, figures, "tokens/s", _fastest_of_its_own(figures)), utilisation(shape, figures)]
        if not args.quick:
            whole = interleaved(whole_runs(folder, args.threads), args.rounds)
            sections.append(table("A whole run: 2000 steps at the CPU shape, start to end", whole, "seconds"))
    finish(args, sections, NOTES, ["torch", "numpy"])


def theirs(folder: Path | None, shape: Shape, steps: int, compiled: bool) -> dict[str, Callable[[], float]]:
    """nanoGPT's script and its model; nothing without a checkout."""
    if not folder:
        return {}
    found: dict[str, Callable[[], float]] = {}
    for compile_it in (False, True) if compiled else (False,):
        how = ", compiled" if compile_it else ""
        found[f"nanoGPT, float32{how}"] = partial(_script, folder, shape, steps, compile_it)
        found[f"nanoGPT's model.py, {BFLOAT16}{how}"] = partial(_model, folder, shape, steps, compile_it)
    return found


def ours(shape: Shape, steps: int, threads: int, recipe: str | None) -> dict[str, Callable[[], float]]:
    """troupe's loop on GPT-2 in both precisions, and on its own recipe."""
    dimensions = [f"model.{name}={getattr(shape, name)}" for name in DIMENSIONS]
    length = [f"pretrain.batch_size={shape.batch_size}", f"pretrain.steps={steps}", f"pretrain.eval_interval={steps}"]
    run = [*dimensions, *length, f"run.threads={threads}", "run.device=cpu"]
    wanted = [("troupe, float32", "gpt2", "float32"), (f"troupe, {BFLOAT16}", "gpt2", BFLOAT16)]
    if recipe:
        wanted.append((f"troupe with its recipe, {BFLOAT16}", recipe, BFLOAT16))
    return {name: partial(_fit, config, [*run, f"run.precision={precision}"]) for name, config, precision in wanted}


def whole_runs(folder: Path | None, threads: int) -> dict[str, Callable[[], float]]:
    """Seconds of a process: nanoGPT's example for a CPU as its README gives it, and troupe with as many looks."""
    found: dict[str, Callable[[], float]] = {}
    if folder:
        settings = _settings(SMALL, 2000, compile_it=False) | {"eval_interval": 250, "eval_iters": 20}
        found["nanoGPT"] = lambda: nanogpt_copy.train(folder, settings).seconds
        found["nanoGPT, compiled"] = lambda: nanogpt_copy.train(folder, settings | {"compile": True}).seconds
    found["troupe"] = lambda: fit("nanogpt-cpu", "pretrain.eval_interval=250", f"run.threads={threads}")["seconds"]
    return found


def utilisation(shape: Shape, figures: Figures) -> str:
    """A table of useful FLOP/s against the peak of the matrix products in the same precision."""
    peaks = {dtype: peak_flops(shape, dtype, repeats=5) for dtype in (torch.float32, torch.bfloat16)}
    said = ", ".join(
        f"{str(dtype).removeprefix('torch.')} {short(peak / 1e9)} GFLOP/s" for dtype, peak in peaks.items()
    )
    lines = [f"GEMM peak of these shapes: {said}.", "", "| | useful GFLOP/s | of the peak |", "|---|---:|---:|"]
    for name, values in figures.items():
        if "recipe" not in name:
            useful = median(values) * shape.flops_per_token()
            peak = peaks[torch.bfloat16 if BFLOAT16 in name else torch.float32]
            lines.append(f"| {name} | {short(useful / 1e9)} | {useful / peak:.0%} |")
    return "\n".join(lines)


def fit(config: str, *overrides: str) -> dict[str, Any]:
    """The result of `python -m benchmarks.fit` in a process of its own; exits if that fails, which has said why."""
    command = [sys.executable, "-m", "benchmarks.fit", str(CONFIGS / f"{config}.yaml"), " ".join(overrides)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if ended.returncode:
        raise SystemExit(ended.returncode)
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def _fit(config: str, overrides: list[str]) -> float:
    return _steady(fit(config, *overrides)["tokens_per_second"])


def _script(folder: Path, shape: Shape, steps: int, compile_it: bool) -> float:
    finished = nanogpt_copy.train(folder, _settings(shape, steps, compile_it))
    return _steady(finished.tokens_per_second(shape.tokens))


def _model(folder: Path, shape: Shape, steps: int, compile_it: bool) -> float:
    sizes = [getattr(shape, name) for name in ("n_layer", "n_head", "n_embd", "block_size", "batch_size", "dropout")]
    finished = nanogpt_copy.run(folder, AUTOCAST, *map(str, [*sizes, steps, compile_it]))
    return _steady(finished.tokens_per_second(shape.tokens))


def _settings(shape: Shape, steps: int, compile_it: bool) -> dict[str, object]:
    dimensions = {name: getattr(shape, name) for name in (*DIMENSIONS, "batch_size")}
    length = {"max_iters": steps, "lr_decay_iters": steps, "eval_iters": 1, "eval_interval": steps + 1}
    return {**dimensions, **length, "log_interval": 1, "device": "cpu", "dtype": "float32", "compile": compile_it}


def _steady(tokens_per_second: list[float]) -> float:
    return median(tokens_per_second[len(tokens_per_second) // 2 :])


def _fastest_of_its_own(figures: Figures) -> str | None:
    own = [name for name in figures if name.startswith("nanoGPT, ")]
    return max(own, key=lambda name: median(figures[name]), default=None)


def _copy(checkout: Path | None) -> AbstractContextManager[Path | None]:
    return nanogpt_copy.copied(checkout) if checkout else nullcontext()


if __name__ == "__main__":
    main()
