"""What stages cost that read the text, against its size: `python -m benchmarks.text_size --sizes 1 10 100`.

Each stage runs as in a pipeline, as a process of its own, in a temporary workspace with the parameters of params.yaml;
`evaluate` with untrained models of the profile tiny, whose own work is little beside that on the text. Seconds are of
processor, so that other work on the machine changes them little; memory is the process's greatest.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from shutil import copy, copytree
from tempfile import TemporaryDirectory

import psutil

from benchmarks.common import finish, start, watched
from studies.core.command import faults_in_one_line
from studies.core.page import row, table
from troupe.bundles.bundle import save_bundle
from troupe.data.tokenizer import load_tokenizer
from troupe.files import write_json
from troupe.layout import EFFECTIVE_PARAMS, MODEL_STAGES, PARAMS, TOKENS, USAGE, model_dir
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.params import dump_params, load_params
from troupe.seeding import generator

STAGES = ("inputs", "corpus", "tokens", "evaluate")
PROFILE = "tiny"  # of the models that are evaluated
WORDS = 20_000  # different ones, as frequent as Zipf has it
LINE = 2000  # words
SOURCE = "data.source=text.txt"
PARAMETERS = Path("evaluate.yaml")  # those of `evaluate`


def main() -> None:
    args = start("text_size", "Cost against the size of the text", extra=options)
    load_params(PARAMS)  # raises ParamsError where there is none
    sizes = [0.1] if args.quick else args.sizes
    rows = {}
    for size in sizes:
        with watched(args), TemporaryDirectory() as folder:
            write(Path(folder), size)
            cells = [" / ".join(f"{figure:.3g}" for figure in measure(Path(folder), stage)) for stage in STAGES]
        rows[f"{size:g}"] = cells
        print(row(f"{size:g}", cells), flush=True)
    finish(
        args,
        [table("MB", [f"{stage}: s of processor, s, MB" for stage in STAGES], rows)],
        notes=[
            f"Text: lines of {LINE:,} words out of {WORDS:,}, in one file. `inputs` and `corpus` read it once; of the "
            "corpus `tokens` reads the training split twice and the others once.",
            "Memory grows to that of one shard of ids and of what BPE learns from (256 MB of text at most).",
            "`evaluate` reads at most `judging.train_bytes` of the training split and `judging.held_out_bytes` of each "
            "of the two others, here for three untrained models of the profile tiny.",
        ],
        packages=["tiktoken", "tokenizers", "numpy"],
    )


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=float, nargs="+", default=[1, 10, 100], help="of the text, in MB")


def write(folder: Path, megabytes: float) -> None:
    """A workspace with a text of that size."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlucmfw", k=rng.randint(1, 12))) for _ in range(WORDS)]
    weights, size = [1 / rank for rank in range(1, WORDS + 1)], 0
    with (folder / "text.txt").open("w", encoding="utf-8") as file:
        while size < megabytes * 1e6:
            size += file.write(" ".join(rng.choices(words, weights, k=LINE)) + "\n")
    copy("params.yaml", folder)
    copytree("profiles", folder / "profiles")


def write_models(folder: Path) -> None:
    """Untrained ones of all stages, with what else evaluation reads of them, and the parameters for it."""
    params = load_params(folder / "params.yaml", [SOURCE], PROFILE)
    dump_params(params, folder / PARAMETERS)
    tokenizer = load_tokenizer(folder / TOKENS / "tokenizer.json")
    model = GPT(GPTConfig(tokenizer.vocab_size, **params.model.model_dump()))
    init_gpt2(model, generator(0, "benchmark"))
    for stage in MODEL_STAGES:
        save_bundle(folder / model_dir(stage), model, tokenizer, {})
        (folder / model_dir(stage) / "metrics.jsonl").write_text('{"step": 1, "train/loss": 5.0}\n')
    write_json(folder / USAGE, {"load": [[[[0.5, 0.5]], [[0.5, 0.5]]]]})


def measure(folder: Path, stage: str) -> tuple[float, float, float]:
    """(seconds of processor, seconds, MB of memory at most) of one stage."""
    command = [sys.executable, "-m", f"troupe.stages.{stage}"]
    if stage == "evaluate":
        write_models(folder)
        command += ["--params", str(PARAMETERS)]
    elif stage != "inputs":
        command += ["--params", str(EFFECTIVE_PARAMS)]
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, "TROUPE_SET": SOURCE}, stdout=subprocess.DEVNULL)
    memory, ended = 0, 0
    while not ended:  # the system's own figure begins with the memory of the process that started it
        with suppress(psutil.Error):
            memory = max(memory, psutil.Process(process.pid).memory_info().rss)
        time.sleep(0.01)
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{stage} ended with status {process.returncode}")
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - began, memory / 1e6


if __name__ == "__main__":
    with faults_in_one_line():
        main()
