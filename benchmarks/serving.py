"""The server beside MLflow's own scoring server of the same registered model and `transformers serve` of a GPT-2 of the
same size: tokens per second and latency of 16 clients at once and of one, and the memory of the process.

The model has the shape of the default champion (experts, tilted by the n-grams of the default text) and random weights,
which change no time: every text is as long as was asked for. A client sends the next request when it has the answer to
the last, over one connection; prompts differ in length, seeds in every request.
"""

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, chdir, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.common import Figures, comparison, finish, interleaved, short, start
from studies.core.command import faults_in_one_line
from studies.core.page import table
from troupe import environment, layout, stopping
from troupe.bundles.bundle import save_bundle
from troupe.bundles.export import export_model
from troupe.conversion.attention import convert, experts_wanted
from troupe.data.bpe import make_tokenizer
from troupe.data.source import read_text
from troupe.files import write_json
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.ngrams import NGrams
from troupe.models.tilted import tilted
from troupe.params import Params, load_params
from troupe.tracking.connection import VARIABLE, tracking_uri

STAGE = "pretrain"  # under whose name the stand-in is registered
CLIENTS = 16
START = 120  # seconds that a server has to begin
SECONDS, QUICK_SECONDS = 5.0, 1.0  # of one measurement
N_NEW, QUICK_NEW = 64, 4  # tokens of an answer
DRAWN = {"temperature": 0.8, "top_k": 50, "top_p": 0.95}
PROMPT = "The following statement is executed when the name of the object is looked up in the namespace of the class. "
LENGTHS = (4, 40, 12, 100, 25, 60)  # characters of it
LEAST_SPEED, LEAST_BESIDE_PEER = 5.0, 2.0  # times MLflow's, times that of transformers
MOST_LATENCY, MOST_MEMORY = 3.0, 600.0  # times one client's, MB


@dataclass
class Load:
    """What a measurement of some clients found."""

    seconds: float = 0.0
    tokens: int = 0
    latencies: list[float] = field(default_factory=list)
    errors: int = 0

    @property
    def speed(self) -> float:
        """Tokens per second of all clients together."""
        return self.tokens / self.seconds

    def percentile(self, share: int) -> float:
        """Seconds."""
        return float(np.percentile(self.latencies, share))


@dataclass
class Contestant:
    """A server that runs, and how it is asked."""

    name: str
    port: int
    process: psutil.Process
    path: str
    body: Callable[[str, int, int], dict[str, Any]]  # of a prompt, a seed and how many tokens are wanted
    n_new: int
    loads: dict[int, list[Load]] = field(default_factory=lambda: {1: [], CLIENTS: []})  # by the number of clients

    def measure(self, n_clients: int, seconds: float) -> float:
        """Tokens per second of so many clients in so many seconds."""
        load, began = Load(), time.perf_counter()
        work = partial(self._ask, began + seconds, load)
        with ThreadPoolExecutor(n_clients) as pool:
            list(pool.map(work, range(n_clients)))
        load.seconds = time.perf_counter() - began
        self.loads[n_clients].append(load)
        return load.speed

    def _ask(self, end: float, load: Load, number: int) -> None:
        """What one client does: the next request when it has the answer to the last."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)) as connection:
            for seed in count(number, CLIENTS):
                content = json.dumps(self.body(PROMPT[: LENGTHS[seed % len(LENGTHS)]], seed, self.n_new))
                began = time.perf_counter()
                connection.request("POST", self.path, content, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                received = answer.read()
                load.latencies.append(time.perf_counter() - began)
                load.errors += answer.status != 200
                if answer.status == 200:  # fewer tokens than were asked for where a text ends by itself
                    load.tokens += json.loads(received).get("usage", {}).get("completion_tokens", self.n_new)
                if time.perf_counter() > end:
                    return

    def percentile(self, n_clients: int, share: int) -> float:
        """Of the latencies of every round, in milliseconds; the median over the rounds."""
        return 1000 * median(load.percentile(share) for load in self.loads[n_clients])

    def errors(self) -> int:
        return sum(load.errors for loads in self.loads.values() for load in loads)

    def memory(self) -> float:
        """MB of it and of the processes that it has started."""
        return sum(one.memory_info().rss for one in [self.process, *self.process.children(recursive=True)]) / 1e6


def main() -> None:
    args = start("serving", "Serving", rounds=3)
    environment.prepare()
    os.environ.pop(VARIABLE, None)  # the stand-in is no model for a registry that others read
    notes = [
        f"A request asks for {QUICK_NEW if args.quick else N_NEW} tokens after a prompt of {min(LENGTHS)} to "
        f"{max(LENGTHS)} characters, drawn with {', '.join(f'{name} {value:g}' for name, value in DRAWN.items())}.",
        "The model has the default champion's shape and random weights.",
        "Clients are threads of one process beside the servers, on the same cores; its work is a part of every figure.",
        "`transformers serve` has a GPT-2 of the same depth, width and vocabulary. Its texts may end early: what "
        "counts are the tokens that it reports. It takes the likeliest token, which is less work.",
        "`mlflow models serve` is what `make serve` was before: MLflow's own server of the same registered model.",
        "Memory is what a server and its children hold after all measurements.",
    ]
    finish(args, sections(args), notes, ["torch", "mlflow", "transformers", "fastapi", "uvicorn"])


def sections(args: argparse.Namespace) -> Iterator[str]:
    root, (seconds, n_new) = Path.cwd(), (QUICK_SECONDS, QUICK_NEW) if args.quick else (SECONDS, N_NEW)
    with stopping.raised(), TemporaryDirectory(prefix="serving-") as folder, chdir(folder), ExitStack() as servers:
        uri = register_stand_in(load_params(root / layout.PARAMS), root)
        theirs = servers.enter_context(mlflow_serve(uri, n_new))
        peer = servers.enter_context(transformers_serve(export_peer(load_params(root / layout.PARAMS)), n_new))
        ours = servers.enter_context(troupe_serve(uri, n_new, args.threads))
        everyone = (theirs, peer, ours)
        for one in everyone:
            one.measure(CLIENTS, seconds=1.0)  # to warm up
            if one.errors():
                raise SystemExit(f"{one.name}: it answers with errors")
            one.loads[CLIENTS].clear()
        works = {
            f"{one.name}, {clients(n)}": partial(one.measure, n, seconds) for one in everyone for n in (1, CLIENTS)
        }
        figures = interleaved(works, args)
        bases = [f"{one.name}, {clients(CLIENTS)}" for one in (theirs, peer)]
        yield comparison("Speed", figures, "tokens/s", bases=bases)
        yield latencies(everyone)
        yield verdicts(figures, ours)


def clients(n: int) -> str:
    return "1 client" if n == 1 else f"{n} clients"


def latencies(servers: Sequence[Contestant]) -> str:
    rows = {}
    for one in servers:
        for n, loads in one.loads.items():
            p50, p95 = (short(one.percentile(n, share)) for share in (50, 95))
            requests, errors = sum(len(load.latencies) for load in loads), sum(load.errors for load in loads)
            rows[f"{one.name}, {clients(n)}"] = [p50, p95, f"{requests:,}", errors, f"{one.memory():.0f}"]
    return f"### Latency and memory\n\n{table('', ['p50, ms', 'p95, ms', 'requests', 'errors', 'MB'], rows)}"


def verdicts(figures: Figures, ours: Contestant) -> str:
    """Each bar, and whether it is cleared."""
    former, peer, found = (figures[name] for name in list(figures)[1::2])
    speed, beside_peer = (median(new / old for new, old in zip(found, olds, strict=True)) for olds in (former, peer))
    latency = ours.percentile(CLIENTS, 95) / ours.percentile(1, 50)
    faster, slower = f"{LEAST_SPEED:g} times the former tokens/s", f"{MOST_LATENCY:g} times the median of one alone"
    beside = f"{LEAST_BESIDE_PEER:g} times the tokens/s of `transformers serve`"
    bars = {
        f"{CLIENTS} clients get at least {faster}": (f"{speed:.1f}", speed >= LEAST_SPEED),
        f"{CLIENTS} clients get at least {beside}": (f"{beside_peer:.1f}", beside_peer >= LEAST_BESIDE_PEER),
        f"p95 of {CLIENTS} clients is at most {slower}": (f"{latency:.2f}", latency <= MOST_LATENCY),
        "no errors": (str(ours.errors()), not ours.errors()),
        f"below {MOST_MEMORY:g} MB": (f"{ours.memory():.0f}", ours.memory() < MOST_MEMORY),
    }
    rows = {bar: [found, "cleared" if well else "missed"] for bar, (found, well) in bars.items()}
    return f"### Bars\n\n{table('', ['found', ''], rows)}"


@contextmanager
def troupe_serve(uri: str, n_new: int, threads: int) -> Iterator[Contestant]:
    def body(prompt: str, seed: int, n_new: int) -> dict[str, Any]:
        return {"prompt": prompt, "max_tokens": n_new, "seed": seed, **DRAWN}

    port = free_port()
    command = ["-m", "troupe.cli", "serve", "--model", uri, "--port", str(port), f"--threads={threads}"]
    with running(command, port, "/health") as process:
        yield Contestant("troupe serve", port, process, "/v1/completions", body, n_new)


@contextmanager
def mlflow_serve(uri: str, n_new: int) -> Iterator[Contestant]:
    def body(prompt: str, seed: int, n_new: int) -> dict[str, Any]:
        return {"inputs": [prompt], "params": {"max_new_tokens": n_new, "seed": seed, **DRAWN}}

    port = free_port()
    command = ["-m", "mlflow", "models", "serve", "--model-uri", uri, "--env-manager", "local", "--port", str(port)]
    with running(command, port, "/ping") as process:
        yield Contestant("mlflow models serve", port, process, "/invocations", body, n_new)


@contextmanager
def transformers_serve(folder: Path, n_new: int) -> Iterator[Contestant]:
    def body(prompt: str, seed: int, n_new: int) -> dict[str, Any]:
        return {"model": str(folder), "prompt": prompt, "max_tokens": n_new, "seed": seed}  # it knows no top_k

    port = free_port()
    command = ["-m", "transformers.cli.transformers", "serve", "--device", "cpu", "--port", str(port)]
    with running(command, port, "/health") as process:
        yield Contestant("transformers serve", port, process, "/v1/completions", body, n_new)


@contextmanager
def running(words: list[str], port: int, health: str) -> Iterator[psutil.Process]:
    """`python WORDS` in the current folder until the end of the block; it answers when this begins."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    log = Path(f"{port}.log")
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, *words],
            env=os.environ | {"PATH": path, VARIABLE: tracking_uri()},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START
        while not answers(port, health):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{' '.join(words)}: it does not answer; it said: {log.read_text()}")
            time.sleep(0.2)
        yield psutil.Process(server.pid)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def answers(port: int, path: str) -> bool:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except OSError:
            return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def export_peer(params: Params) -> Path:
    """A GPT-2 of the default model's depth, width and vocabulary with random weights, as transformers reads it."""
    folder = Path("peer").resolve()
    sizes = params.model.model_dump(include={"block_size", "n_layer", "n_head", "n_embd"})
    tokenizer = make_tokenizer(params.tokens.kind, read_text(params.data.source), params.tokens.vocab_size)
    model = GPT(GPTConfig(tokenizer.vocab_size, **sizes, dropout=0.0))
    init_gpt2(model, torch.Generator().manual_seed(0))
    export_model(folder, model, tokenizer)
    return folder


def register_stand_in(params: Params, root: Path) -> str:
    """A model of the default champion's shape in the registry of the current folder; its address there."""
    from troupe.registry.registration import register  # it imports mlflow, which comes after environment.prepare

    text = read_text(params.data.source)
    tokenizer = make_tokenizer(params.tokens.kind, text, params.tokens.vocab_size)
    rng = torch.Generator().manual_seed(0)
    dense = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **params.model.model_dump()))
    init_gpt2(dense, rng)
    experts = convert(dense, experts_wanted(params.moe, dense.config), "exact", rng)
    ngrams = NGrams.counted(tokenizer.encode_array(text), params.adversarial.tilt.order, tokenizer.vocab_size)
    model = tilted(experts, ngrams)
    torch.nn.init.normal_(model.tilt, std=0.1, generator=rng)
    digest = save_bundle(layout.model_dir(STAGE), model, tokenizer, {})
    write_json(layout.model_dir(STAGE) / "summary.json", {"weights_sha256": digest})
    write_json(layout.CORPUS / "manifest.json", {"sha256": "0" * 64, "source": params.data.source, "blocks": []})
    shutil.copy(root / layout.PARAMS, layout.EFFECTIVE_PARAMS)
    run = layout.RUNS / "serving"
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S%z}"
    record = {
        "run_id": run.name,
        "started": now,
        "finished": now,
        "outcome": "completed",
        "profile": "",
        "overrides": "",
    }
    stages = {STAGE: {"outcome": "ran", "seconds": 0.0, "attempts": 1}}
    write_json(run / "run.json", record | {"git": {"commit": "", "dirty": False}, "params": {}, "stages": stages})
    return register(STAGE, run).uri


if __name__ == "__main__":
    with faults_in_one_line():
        main()
