"""Quality on tiny Shakespeare as nanoGPT splits it: the loss of every configuration that has a bar to keep."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from ruamel.yaml import YAML

from benchmarks import nanogpt_copy
from benchmarks.common import finish, nanogpt, start
from benchmarks.training import CONFIGS, fit

TITLE = "Quality on tiny Shakespeare, nanoGPT's split"
LOSS = Path(__file__).with_name("nanogpt_loss.py")
PAIRED = "nanogpt-cpu"  # the configuration that nanoGPT's own script runs beside, with the settings of its README
EXAMPLE = {
    **{"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "batch_size": 12, "dropout": 0.0},
    **{"max_iters": 2000, "lr_decay_iters": 2000, "eval_iters": 20, "device": "cpu", "compile": False},
}
QUICK = {
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 16,
    "max_iters": 4,
    "eval_interval": 2,
    "eval_iters": 1,
    "always_save_checkpoint": True,
}
NOTES = [
    "Loss: nats per predicted character, over all of the last 10 % of the text, in windows of the context side by "
    "side, in float32. Each run keeps the weights of its best look at validation, nanoGPT's of its best estimate.",
    "nanoGPT reports 1.88 for its CPU example and 1.4697 for its GPU example: estimates from 20 and 200 random "
    "batches, of which the second is the least of many. Its seed is fixed, so that it has one row.",
    "Reached: the share of the steps after which a look at the whole validation split first found that loss.",
    "Seconds: a whole process, from Python's start to the last evaluation.",
]


def main() -> None:
    args = start("shakespeare", TITLE, rounds=1, extra=_arguments)
    sections = [section(name, args) for name in args.configs]
    finish(args, sections, NOTES, ["torch", "numpy"])


def section(name: str, args: argparse.Namespace) -> str:
    """Run a configuration with every seed, and nanoGPT beside it; a table and what became of the bar."""
    about = YAML(typ="safe").load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))["about"]
    results = {str(seed): fit(name, *_overrides(seed, args)) for seed in args.seeds}
    lines = [
        f"### {name}: {about['what']}",
        "",
        "| seed | loss | reached | seconds | parameters |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [_row(seed, result, about.get("reaches")) for seed, result in results.items()]
    if name == PAIRED and (checkout := nanogpt()):
        lines.append(nanogpt_row(checkout, args.quick))
    return "\n".join([*lines, "", _verdict(about, list(results.values()))])


def nanogpt_row(checkout: Path, quick: bool) -> str:
    """nanoGPT's own script, and its checkpoint measured as ours is."""
    with nanogpt_copy.copied(checkout) as folder:
        trained = nanogpt_copy.train(folder, EXAMPLE | (QUICK if quick else {}))
        loss = float(nanogpt_copy.run(folder, LOSS, "out-shakespeare-char/ckpt.pt").output.splitlines()[-1])
    print(f"nanoGPT's train.py: {loss:.4f}", flush=True)
    return f"| nanoGPT's train.py | {loss:.4f} | | {trained.seconds:.0f} | |"


def _row(seed: str, result: dict[str, Any], reaches: float | None) -> str:
    steps = result["looks"][-1][0]
    first = next((step for step, loss in result["looks"] if reaches and loss <= reaches), None)
    reached = f"{reaches} after {first / steps:.1%}" if first else ""
    print(f"seed {seed}: {result['loss']:.4f} {reached}", flush=True)
    return f"| {seed} | {result['loss']:.4f} | {reached} | {result['seconds']:.0f} | {result['parameters']:,} |"


def _verdict(about: dict[str, Any], results: Sequence[dict[str, Any]]) -> str:
    losses, seconds = [result["loss"] for result in results], max(result["seconds"] for result in results)
    said = f"Mean {mean(losses):.4f}, {min(losses):.4f}..{max(losses):.4f}; the bar is {about['loss']:.4f}"
    if "seconds" in about:
        said += f" in {about['seconds']} s, of which the longest run took {seconds:.0f}"
    return f"{said}: {'kept' if _kept(about, mean(losses), seconds) else 'missed'}."


def _kept(about: dict[str, Any], loss: float, seconds: float) -> bool:
    return bool(loss <= about["loss"] and seconds <= about.get("seconds", float("inf")))


def _overrides(seed: int, args: argparse.Namespace) -> list[str]:
    small = "model.n_layer=1 model.n_head=2 model.n_embd=16 pretrain.steps=4 pretrain.eval_interval=2 run.device=cpu"
    return [f"run.seed={seed}", f"run.threads={args.threads}", *(small.split() if args.quick else ())]


def _arguments(parser: argparse.ArgumentParser) -> None:
    known = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "gpt2")
    default = ["nanogpt-cpu", "wall-180s"]  # shakespeare-10m wants a GPU
    parser.add_argument("--configs", nargs="+", choices=known, default=default)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1337, 1, 2])


if __name__ == "__main__":
    main()
