"""Tokens per second of training beside nanoGPT's own train.py, and how much of the machine's GEMM speed that is."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import nanogpt_copy
from benchmarks.common import Figures, comparison, compiling_afresh, finish, interleaved, nanogpt, short, start
from benchmarks.gemm import BenchShape, peak_flops
from studies.core.command import faults_in_one_line
from studies.core.page import table

CONFIGS = Path("benchmarks/configs")
AUTOCAST = Path(__file__).with_name("nanogpt_bf16.py")
DIMENSIONS = ("n_layer", "n_head", "n_embd", "block_size", "dropout")
SCRIPT, MODEL = "nanoGPT's train.py", "nanoGPT's model.py"  # what contestants' names begin with
FLOAT32, BFLOAT16 = "float32", "bfloat16"  # in the name of every contestant
PEAK = "GEMM peak"
SECONDS_OF_LONG_RUNS = "A whole run: 2000 steps of 12 x 64 at 0.80M parameters, start to end, compilation included"
NOTES = [
    "Tokens per second are of a steady state: the median over the second half of the steps of a process of its own. "
    "Start-up, compilation and evaluation are left out, drawing the batch is not. The whole run leaves out nothing: "
    "torch.compile begins it with an empty cache.",
    "Contestants take turns; a ratio compares within a round. It is over nanoGPT's fastest unchanged script, and over "
    "the fastest of nanoGPT's code at all.",
    "nanoGPT's train.py is unchanged, in a temporary copy. On a CPU it takes no notice of --dtype: it opens no "
    "autocast there, so that float32 is its best. The rows with model.py are not its script, but a driver of ours "
    "around its model, optimiser and way to draw batches, under bfloat16 autocast.",
    "troupe is troupe.training.loop.train: same shape, batch and threads. As GPT-2 it has GPT-2's parts and AdamW. "
    "With its recipe it is the configuration of benchmarks.shakespeare for this shape, which does other work in a "
    "step. Left to itself it compiles runs of 300 steps and more where there is a C++ compiler, and takes bfloat16 "
    "where the hardware multiplies it.",
    "Useful FLOP/s: per token, 6 for each weight of a matrix, the head's too, and 6 L (T + 1) D for causal attention. "
    "The peak is the fastest of the forward, input-gradient and weight-gradient products of every linear layer, "
    "nothing else, measured in every round.",
    "The whole run of nanoGPT is its README's example for a CPU: 9 looks at 20 batches of each split. troupe looks 8 "
    "times at the whole validation split, and once more at the end.",
]


@dataclass(frozen=True)
class Size:
    title: str
    shape: BenchShape
    recipe: str | None  # configuration
    steps: int
    slow_steps: int  # of eager float32
    hopeless: tuple[tuple[str, str], ...] = ()  # of our eager contestants: those that only take minutes


SMALL = BenchShape(4, 4, 128, 64, 12, 0.0)
SIZES = {
    "small": Size("nanoGPT's CPU shape: 0.80M parameters, batch 12 x 64", SMALL, "nanogpt-cpu", 100, 100),
    "large": Size(
        "nanoGPT's GPU shape: 10.7M parameters, batch 64 x 256",
        BenchShape(6, 6, 384, 256, 64, 0.2),
        "shakespeare-10m",
        steps=6,
        slow_steps=3,
        hopeless=(("gpt2", FLOAT32), ("shakespeare-10m", FLOAT32), ("shakespeare-10m", BFLOAT16)),
    ),
}
WHOLE = "whole"
PARTS = [*SIZES, WHOLE]
QUICK = [Size("tiny", BenchShape(2, 2, 32, 32, 4, 0.0), None, 6, 6)]


def main() -> None:
    args = start("training", "Training speed", rounds=1, extra=_arguments)
    if (args.only or set(args.parts) != set(PARTS)) and not (args.quick or args.out):
        raise SystemExit("training: the page holds all parts and rows; name a folder for some of them with --out")
    with _copy(nanogpt()) as folder:
        finish(args, sections(args, folder), NOTES, ["torch", "numpy"])


def sections(args: argparse.Namespace, folder: Path | None) -> Iterator[str]:
    for size in QUICK if args.quick else [SIZES[name] for name in args.parts if name in SIZES]:
        contestants = wanted(theirs(folder, size, args.quick) | ours(size, args.threads, args.quick), args.only)
        figures = interleaved(contestants | ({} if args.only else peaks(size.shape)), args)
        speeds = {name: figures[name] for name in contestants}
        yield comparison(size.title, speeds, "tokens/s", bases(speeds))
        if not args.only:
            yield utilisation(size.shape, figures)
    if WHOLE in args.parts and not args.quick:
        whole = interleaved(whole_runs(folder, args.threads), args)
        yield comparison(SECONDS_OF_LONG_RUNS, whole, "seconds")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="of the page (default: all)")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="WORDS",
        help='of the parts, the rows whose names hold these, e.g. "eager"',
    )


def wanted(contestants: dict[str, Callable[[], float]], words: list[str]) -> dict[str, Callable[[], float]]:
    """Those whose names hold one of `words`; all, if there are none."""
    return {name: one for name, one in contestants.items() if not words or any(word in name for word in words)}


def bases(figures: Figures) -> list[str]:
    """nanoGPT's fastest script as it is, and the fastest of its code at all: often two contestants."""
    groups = [[name for name in figures if name.startswith(start)] for start in (SCRIPT, (SCRIPT, MODEL))]
    fastest = [max(group, key=lambda name: median(figures[name])) for group in groups if group]
    return list(dict.fromkeys(fastest))


def theirs(folder: Path | None, size: Size, quick: bool) -> dict[str, Callable[[], float]]:
    """nanoGPT's script and its model; nothing without a checkout."""
    if not folder:
        return {}
    found: dict[str, Callable[[], float]] = {}
    for compiled in (False,) if quick else (False, True):
        steps = size.steps if compiled else size.slow_steps
        found[f"{SCRIPT}, {FLOAT32}, {how(compiled)}"] = partial(_script, folder, size.shape, steps, compiled)
        found[f"{MODEL}, {BFLOAT16}, {how(compiled)}"] = partial(_model, folder, size.shape, size.steps, compiled)
    return found


def ours(size: Size, threads: int, quick: bool) -> dict[str, Callable[[], float]]:
    """troupe's loop on GPT-2 and on its own recipe, eager and compiled."""
    shape = size.shape
    dimensions = [f"model.{name}={getattr(shape, name)}" for name in DIMENSIONS]
    length = [f"pretrain.batch_size={shape.batch_size}", f"pretrain.steps={size.steps}"]
    length.append(f"pretrain.eval_interval={size.steps}")
    run = [*dimensions, *length, f"run.threads={threads}", "run.device=cpu"]
    alike = [(config, precision) for config in filter(None, ("gpt2", size.recipe)) for precision in (FLOAT32, BFLOAT16)]
    tried = [(*one, False) for one in alike if one not in size.hopeless]
    tried += [] if quick else [(*one, True) for one in alike]
    return {
        f"troupe {'as GPT-2' if config == 'gpt2' else 'with its recipe'}, {precision}, {how(compiled)}": partial(
            _fit, config, [*run, f"run.precision={precision}", f"run.compile={'always' if compiled else 'never'}"]
        )
        for config, precision, compiled in tried
    }


def how(compiled: bool) -> str:
    return "compiled" if compiled else "eager"


def peaks(shape: BenchShape) -> dict[str, Callable[[], float]]:
    """FLOP/s of the matrix products alone."""
    precisions = ((FLOAT32, torch.float32), (BFLOAT16, torch.bfloat16))
    return {f"{PEAK}, {name}": partial(peak_flops, shape, dtype, repeats=5) for name, dtype in precisions}


def whole_runs(folder: Path | None, threads: int) -> dict[str, Callable[[], float]]:
    """Seconds of a process: nanoGPT's example for a CPU as its README gives it, and troupe with as many looks."""
    found: dict[str, Callable[[], float]] = {}
    if folder:
        settings = _settings(SMALL, 2000, compiled=False) | {"eval_interval": 250, "eval_iters": 20}
        for compiled in (False, True):
            whole = partial(_whole_script, folder, settings | {"compile": compiled})
            found[f"{SCRIPT}, {FLOAT32}, {how(compiled)}"] = whole
    run = ["run.device=cpu", f"run.threads={threads}", f"run.precision={BFLOAT16}", "run.compile=always"]
    whole_fit = partial(_whole_fit, [*run, "pretrain.eval_interval=250"])
    return found | {f"troupe with its recipe, {BFLOAT16}, {how(compiled=True)}": whole_fit}


def utilisation(shape: BenchShape, figures: Figures) -> str:
    """A table of useful FLOP/s against the peak of the matrix products in the same precision, round by round."""
    line = ", ".join(
        f"{name.removeprefix(f'{PEAK}, ')} {short(median(values) / 1e9)} GFLOP/s"
        for name, values in figures.items()
        if name.startswith(PEAK)
    )
    rows = {}
    for name, values in figures.items():
        if "recipe" not in name and not name.startswith(PEAK):
            useful = [speed * shape.flops_per_token() for speed in values]
            peak = figures[f"{PEAK}, {BFLOAT16 if BFLOAT16 in name else FLOAT32}"]
            share = median(done / most for done, most in zip(useful, peak, strict=True))
            rows[name] = [short(median(useful) / 1e9), f"{share:.0%}"]
    return f"{PEAK} of these shapes: {line}.\n\n{table('', ['useful GFLOP/s', 'of the peak'], rows)}"


def run_fit(config: str, *arguments: str) -> dict[str, Any]:
    """The result of `python -m benchmarks.fit` in a process of its own, and `seconds`, from its start to its end.

    Exits if it fails; it has said why.
    """
    command = [sys.executable, "-m", "benchmarks.fit", str(CONFIGS / f"{config}.yaml"), *arguments]
    began = time.monotonic()
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    seconds = time.monotonic() - began
    if ended.returncode:
        raise SystemExit(f"benchmarks.fit of {config} ended with status {ended.returncode}")
    return {**json.loads(ended.stdout.splitlines()[-1]), "seconds": seconds}


def _fit(config: str, overrides: list[str]) -> float:
    return _steady(run_fit(config, " ".join(overrides), "--validate=1024")["tokens_per_second"])


def _script(folder: Path, shape: BenchShape, steps: int, compiled: bool) -> float:
    finished = nanogpt_copy.train(folder, _settings(shape, steps, compiled))
    return _steady(finished.tokens_per_second(shape.tokens))


def _model(folder: Path, shape: BenchShape, steps: int, compiled: bool) -> float:
    sizes = [getattr(shape, name) for name in ("n_layer", "n_head", "n_embd", "block_size", "batch_size", "dropout")]
    finished = nanogpt_copy.run(folder, AUTOCAST, *map(str, [*sizes, steps, compiled]))
    return _steady(finished.tokens_per_second(shape.tokens))


def _whole_script(folder: Path, settings: dict[str, object]) -> float:
    with compiling_afresh():
        return nanogpt_copy.train(folder, settings).seconds


def _whole_fit(overrides: list[str]) -> float:
    with compiling_afresh():
        return float(run_fit("nanogpt-cpu", " ".join(overrides))["seconds"])


def _settings(shape: BenchShape, steps: int, compiled: bool) -> dict[str, object]:
    dimensions = {name: getattr(shape, name) for name in (*DIMENSIONS, "batch_size")}
    length = {"max_iters": steps, "lr_decay_iters": max(steps, 200), "eval_iters": 1, "eval_interval": steps + 1}
    return {**dimensions, **length, "log_interval": 1, "device": "cpu", "dtype": FLOAT32, "compile": compiled}


def _steady(tokens_per_second: list[float]) -> float:
    return median(tokens_per_second[len(tokens_per_second) // 2 :])


def _copy(checkout: Path | None) -> AbstractContextManager[Path | None]:
    return nanogpt_copy.copied(checkout) if checkout else nullcontext()


if __name__ == "__main__":
    with faults_in_one_line():
        main()
