"""Quality on tiny Shakespeare as nanoGPT splits it: the loss of every configuration that has bars to keep."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from ruamel.yaml import YAML

from benchmarks import nanogpt_copy
from benchmarks.common import compiling_afresh, finish, nanogpt, start, watched
from benchmarks.training import CONFIGS, run_fit
from studies.core.command import faults_in_one_line
from studies.core.page import bar, bullets, table

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
COLUMNS = ("best look", "last step", "looks", "reached", "seconds", "parameters", "computed")
NOTES = [
    "Loss: nats per predicted character, over all of the last 10 % of the text, in windows of the context side by "
    "side. The best look's weights are kept, nanoGPT's those of its best estimate, and measured in float32; the last "
    "step's loss is as the run saw it, nanoGPT's an estimate from 20 batches.",
    "nanoGPT's split has no test part: the look that is kept was chosen on the text that it is measured on, on both "
    "sides, and the more looks the kinder that is. troupe's recipe was tuned on this same tenth too; docs/results "
    "lists how many configurations were tried.",
    "nanoGPT reports 1.88 for its CPU example and 1.4697 for its GPU example: estimates from 20 and 200 random "
    "batches, of which the second is the least of many. Its seed is fixed, so that it has one row.",
    "Reached: the share of the tokens after which a look at the whole validation split first found that loss.",
    "Seconds: a whole process, from its start to its end, what torch.compile takes with an empty cache included.",
]


def main() -> None:
    args = start("shakespeare", TITLE, extra=_arguments)
    finish(args, sections(args), NOTES, ["torch", "numpy"])


def sections(args: argparse.Namespace) -> Iterator[str]:
    for name in args.configs:
        with watched(args):
            text = section(name, args)
        yield text


def section(name: str, args: argparse.Namespace) -> str:
    """Run a configuration with every seed, and nanoGPT beside it; a table, the values in force, the bars."""
    tree = YAML(typ="safe").load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    about, results = tree["about"], []
    rows: dict[str, list[object]] = {}
    for seed in args.seeds:
        with compiling_afresh():
            results.append(run_fit(name, " ".join(_overrides(seed, args, tree.get("run", {})))))
        rows[str(seed)] = _cells(seed, results[-1], about.get("reaches"))
    if name == PAIRED and (checkout := nanogpt()):
        rows["nanoGPT's train.py"] = nanogpt_cells(checkout, args)
    values = [
        f"{part}: {', '.join(f'{name} {value}' for name, value in results[0][part].items())}"
        for part in ("model", "pretrain")
    ]
    title = f"### {name}: {about['what']}"
    return "\n\n".join([title, table("seed", COLUMNS, rows), *values, bullets(verdict(about, results))])


def nanogpt_cells(checkout: Path, args: argparse.Namespace) -> list[object]:
    """nanoGPT's own script, and its checkpoint measured as ours is."""
    with nanogpt_copy.copied(checkout) as folder:
        trained = nanogpt_copy.train(folder, EXAMPLE | (QUICK if args.quick else {}))
        measured = json.loads(nanogpt_copy.run(folder, LOSS, "out-shakespeare-char/ckpt.pt").output.splitlines()[-1])
    print(f"nanoGPT's train.py: {measured['loss']:.4f}", flush=True)
    looks, computed = trained.looks(), f"cpu, float32, eager, {args.threads} threads"
    figures = (f"{measured['loss']:.4f}", f"{looks[-1][1]:.4f} (estimate)", len(looks), "", f"{trained.seconds:.0f}")
    return [*figures, f"{measured['parameters']:,}", computed]


def reached(result: Mapping[str, Any], loss: float | None) -> float | None:
    """The share of all steps, and so of all tokens, at the first look that found `loss` or less; None if none did."""
    steps = result["looks"][-1][0]
    return next((step / steps for step, seen in result["looks"] if loss is not None and seen <= loss), None)


def verdict(about: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each bar of a configuration: the mean of the losses must keep it, every run must keep the others."""
    losses = [result["loss"] for result in results]
    spread = f"{min(losses):.4f}..{max(losses):.4f}"
    lines = [bar(f"loss, mean of {spread}", mean(losses), about["loss"], ".4f")]
    if "share" in about:
        shares = [reached(result, about["reaches"]) for result in results]
        most = None if None in shares else max(share for share in shares if share is not None)
        lines.append(bar(f"share of the tokens until {about['reaches']}, most", most, about["share"], ".1%"))
    for name, form in (("seconds", ".0f"), ("parameters", ",")):
        if name in about:
            lines.append(bar(f"{name}, most", max(result[name] for result in results), about[name], form))
    return lines


def _cells(seed: int, result: Mapping[str, Any], reaches: float | None) -> list[object]:
    share = reached(result, reaches)
    after = "" if share is None else f"{reaches} after {share:.1%}"
    print(f"seed {seed}: {result['loss']:.4f} {after}", flush=True)
    looks, seconds, parameters = result["looks"], f"{result['seconds']:.0f}", f"{result['parameters']:,}"
    return [f"{result['loss']:.4f}", f"{looks[-1][1]:.4f}", len(looks), after, seconds, parameters, result["where"]]


def _overrides(seed: int, args: argparse.Namespace, run: Mapping[str, Any]) -> list[str]:
    """The seed, and the number of threads where the configuration's own bar does not fix it."""
    small = "model.n_layer=1 model.n_head=2 model.n_embd=16 pretrain.steps=4 pretrain.eval_interval=2 run.device=cpu"
    threads = [] if "threads" in run else [f"run.threads={args.threads}"]
    return [f"run.seed={seed}", *threads, *(small.split() if args.quick else ())]


def _arguments(parser: argparse.ArgumentParser) -> None:
    known = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "gpt2")
    default = ["nanogpt-cpu", "wall-180s"]  # shakespeare-10m wants a GPU
    parser.add_argument("--configs", nargs="+", choices=known, default=default)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1337, 1, 2])


if __name__ == "__main__":
    with faults_in_one_line():
        main()
