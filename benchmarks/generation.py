"""Tokens per second of generation, 10.7M parameters (6 layers, 6 heads, 384 wide, context 256, 65 characters).

1,000 tokens against nanoGPT's own sample.py, unchanged (with NANOGPT=path), and a full context against
`transformers.generate` on the same weights, alone and in a batch. Weights are random: they change no time.
"""

import argparse
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.attention_step import seconds
from benchmarks.common import comparison, finish, interleaved, nanogpt, start
from studies.core.command import faults_in_one_line
from troupe.bundles.bundle import save_bundle
from troupe.bundles.export import export_model
from troupe.bundles.shapes import GPT2
from troupe.data.tokenizer import CharTokenizer
from troupe.decoding import Decoding, generate
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2

CHARACTERS = "\n" + "".join(map(chr, range(32, 96)))  # 65, as many as tiny Shakespeare has
DIMENSIONS = ("vocab_size", "block_size", "n_layer", "n_head", "n_embd")
CONFIG = GPTConfig(len(CHARACTERS), block_size=256, n_layer=6, n_head=6, n_embd=384, dropout=0.0)
QUICK = GPTConfig(len(CHARACTERS), block_size=32, n_layer=1, n_head=2, n_embd=32, dropout=0.0)
TEMPERATURE, TOP_K = 0.8, 50
PARTS = [NANOGPT := "nanogpt", TRANSFORMERS := "transformers"]
DECODING = Decoding(temperature=TEMPERATURE, top_k=TOP_K)


def main() -> None:
    args = start("generation", "Tokens per second of generation", rounds=3, extra=_arguments)
    if set(args.parts) != set(PARTS) and not (args.quick or args.out):
        raise SystemExit("generation: the page holds all parts; name a folder for some of them with --out")
    config, n_new = (QUICK, 3000) if args.quick else (CONFIG, 1000)
    model = new_model(config)
    half = config.block_size // 2
    notes = [
        f"Every contestant draws with temperature {TEMPERATURE:g} from the {TOP_K} likeliest tokens, and computes in "
        "float32 where its row says nothing else.",
        "A ratio above 1 is faster than the contestant that it names, of transformers its faster precision.",
        "transformers has no answer to a full context for learned positions, so there the text just fills one.",
        f"Up to {config.block_size - 1} tokens every contestant sees the whole text. Past the context nanoGPT computes "
        f"the last {config.block_size} tokens anew for each one; troupe starts again from the last {half} whenever the "
        f"context is full, so that a token is predicted from {half} to {config.block_size}: less context, and a "
        "part of its speed.",
    ]
    with tempfile.TemporaryDirectory() as folder:
        finish(args, sections(args, model, n_new, Path(folder)), notes, ["torch", "transformers"])


def sections(args: argparse.Namespace, model: GPT, n_new: int, folder: Path) -> Iterator[str]:
    if NANOGPT in args.parts and (checkout := nanogpt()):
        yield from against_nanogpt(args, checkout, model, n_new, folder)
    for batch in (1, 16) if TRANSFORMERS in args.parts else ():
        yield against_transformers(args, model, batch, folder)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="of the page (default: all)")


def new_model(config: GPTConfig) -> GPT:
    model = GPT(config).eval()
    init_gpt2(model, torch.Generator().manual_seed(0))
    return model


def against_nanogpt(args: argparse.Namespace, checkout: Path, model: GPT, n_new: int, folder: Path) -> Iterator[str]:
    """One text that fills the context and one of `n_new` tokens, longer than it; the latter with start-up too."""
    sample = sample_script(checkout, model, folder / "nanogpt")
    for n in (model.config.block_size - 1, n_new):
        yield comparison(f"{n:,} tokens", interleaved(running(sample, model, n), args), "tokens/s", bases=["nanoGPT"])
    spelled = CharTokenizer(CHARACTERS)  # with 256 ids more, so 0.1M parameters more
    save_bundle(folder / "bundle", new_model(replace(model.config, vocab_size=spelled.vocab_size)), spelled, {})
    command = [sys.executable, "-m", "troupe.cli", "generate", "--model", str(folder / "bundle"), "--prompt", "\n"]
    command += [f"--max-new-tokens={n_new}", f"--temperature={TEMPERATURE}", f"--top-k={TOP_K}", "--top-p=1"]
    started = {
        "python sample.py": lambda: n_new / sample(n_new),
        "troupe generate": lambda: n_new / seconds(partial(run, command)),
    }
    yield comparison(
        f"{n_new:,} tokens as a command", interleaved(started, args), "tokens/s", bases=["python sample.py"]
    )


def running(sample: Callable[[int], float], model: GPT, n_new: int) -> dict[str, Callable[[], float]]:
    """Tokens per second without start-up, of which nanoGPT's first token is a part."""
    return {
        "nanoGPT": lambda: (n_new - 1) / (sample(n_new) - sample(1)),
        "troupe": lambda: n_new / seconds(partial(ours, model, 1, n_new)),
    }


def sample_script(checkout: Path, model: GPT, folder: Path) -> Callable[[int], float]:
    """A copy of nanoGPT's sample.py with the model's weights: tokens -> seconds of one run of it.

    nanoGPT reads pickles, so these are written for it, in a folder that is deleted at the end.
    """
    (folder / "data" / "bench").mkdir(parents=True)
    for script in ("sample.py", "model.py", "configurator.py"):
        shutil.copy(checkout / script, folder)
    dims = {name: getattr(model.config, name) for name in DIMENSIONS} | {"bias": True, "dropout": 0.0}
    weights = {f"transformer.{GPT2.their_names(name)[0]}": tensor for name, tensor in model.state_dict().items()}
    weights["lm_head.weight"] = model.token_embedding.weight.detach()
    torch.save({"model_args": dims, "model": weights, "config": {"dataset": "bench"}}, folder / "ckpt.pt")
    meta = {"stoi": {character: i for i, character in enumerate(CHARACTERS)}, "itos": dict(enumerate(CHARACTERS))}
    (folder / "data" / "bench" / "meta.pkl").write_bytes(pickle.dumps(meta))
    command = [sys.executable, "sample.py", "--out_dir=.", "--device=cpu", "--dtype=float32", "--num_samples=1"]
    command += [f"--temperature={TEMPERATURE}", f"--top_k={TOP_K}"]
    return lambda n_new: seconds(partial(run, [*command, f"--max_new_tokens={n_new}"], folder))


def against_transformers(args: argparse.Namespace, model: GPT, batch: int, folder: Path) -> str:
    """The same weights, exported; from one token of prompt until the context is full."""
    export_model(folder / f"transformers {batch}", model, CharTokenizer(CHARACTERS))
    theirs: dict[str, Any] = {  # in evaluation mode
        f"transformers, {name}": AutoModelForCausalLM.from_pretrained(folder / f"transformers {batch}", dtype=dtype)
        for name, dtype in {"float32": torch.float32, "bfloat16": torch.bfloat16}.items()
    }
    n_new = model.config.block_size - 1
    prompt_B1 = torch.zeros(batch, 1, dtype=torch.long)
    options: dict[str, Any] = {"attention_mask": torch.ones_like(prompt_B1), "pad_token_id": 0}
    options |= {"min_new_tokens": n_new, "max_new_tokens": n_new}
    greedy = generate(model, prompt_B1, n_new, Decoding(greedy=True), range(batch))
    if not theirs["transformers, float32"].generate(prompt_B1, do_sample=False, **options).equal(greedy):
        raise SystemExit("transformers and troupe differ in their greedy text: not the same weights")
    drawn = {"do_sample": True, "temperature": TEMPERATURE, "top_k": TOP_K}
    works = {name: partial(one.generate, prompt_B1, **drawn, **options) for name, one in theirs.items()}
    works["troupe"] = partial(ours, model, batch, n_new)
    figures = interleaved({name: partial(speed, work, batch * n_new) for name, work in works.items()}, args)
    texts = "one text" if batch == 1 else f"{batch} texts at a time"
    fastest = max(theirs, key=lambda name: median(figures[name]))
    return comparison(f"{n_new} tokens, {texts}", figures, "tokens/s", bases=[fastest])


def ours(model: GPT, batch: int, n_new: int) -> None:
    generate(model, torch.zeros(batch, 1, dtype=torch.long), n_new, DECODING, range(batch))


def run(command: list[str], cwd: Path | None = None) -> None:
    subprocess.run(command, cwd=cwd, stdout=subprocess.DEVNULL, check=True)


def speed(work: Callable[[], object], n_tokens: int) -> float:
    return n_tokens / seconds(work)


if __name__ == "__main__":
    with faults_in_one_line():
        main()
