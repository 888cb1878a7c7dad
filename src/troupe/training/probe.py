"""What `auto` in section `run` comes to for one training on this machine: precision and compiler, by a probe.

The probe times forward and backward passes of the model itself, in float32 and in bfloat16, on as many tokens of a
batch as take some tenths of a second. It is kept for the user, per processor, torch, number of threads and shape, so
that the same machine decides the same way in every workspace and so ends with the same weights. On a GPU no probe is
needed: bfloat16 where the hardware has it, torch.compile for trainings of STEPS_WORTH_COMPILING steps.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import platformdirs
import torch
from filelock import FileLock

from troupe.compute import Arithmetic, Precision, can_compile, keep_memory, threads_of
from troupe.errors import ArtifactError
from troupe.files import read_json, write_json
from troupe.layout import STATE
from troupe.models.gpt2 import GPT
from troupe.params import RunParams, TrainParams
from troupe.training.loss import cross_entropy

WORK = 2e10  # floating-point operations of one timed pass at most: 0.2 s on two cores without units for matrices
FEWEST_TOKENS = 64
ROUNDS = 3
BFLOAT16_MUST_SAVE = 0.1  # of a step's time: with less, float32's digits are worth more
COMPILING_TAKES = 25.0  # seconds, with an empty cache
COMPILING_SAVES: dict[Precision, float] = {"float32": 0.15, "bfloat16": 0.3}  # of a pass, measured: docs/results.md
STEPS_WORTH_COMPILING = 300  # on a GPU
SWITCHES = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")  # that hide units of the processor from torch
KEPT = 200  # probes
CLOCK = time.thread_time if time.get_clock_info("thread_time").resolution < 1e-3 else time.perf_counter


@dataclass(frozen=True)
class Probe:
    """Seconds of a forward and a backward pass over a whole batch, not compiled, in either precision."""

    float32: float
    bfloat16: float

    def best(self) -> Precision:
        return "bfloat16" if self.bfloat16 < (1 - BFLOAT16_MUST_SAVE) * self.float32 else "float32"

    def seconds(self, precision: Precision) -> float:
        return self.bfloat16 if precision == "bfloat16" else self.float32


@dataclass(frozen=True)
class Choice:
    """How a training computes, the probe behind it (None: nothing was left to it), and how long it will take."""

    how: Arithmetic
    probe: Probe | None
    steps: int

    @property
    def seconds(self) -> float | None:
        """Of all steps, as the probe has it; None where there was no probe."""
        if not self.probe:
            return None
        passes = self.steps * self.probe.seconds(self.how.precision)
        saved = passes * COMPILING_SAVES[self.how.precision] - COMPILING_TAKES if self.how.compiled else 0.0
        return passes - saved

    def __str__(self) -> str:
        """E.g. "2 threads, bfloat16 (2.1 times as fast as float32 here), compiled; 450 steps in about 1:20"."""
        on = f"{self.how.threads} thread{'s' * (self.how.threads > 1)}" if self.how.device == "cpu" else "GPU"
        ratio = self.probe.float32 / self.probe.bfloat16 if self.probe else 1.0
        faster = {"bfloat16": f" ({ratio:.1f} times as fast as float32 here)", "float32": ""}[self.how.precision]
        slower = " (bfloat16 is no faster here)" if self.probe and self.how.precision == "float32" else ""
        compiled = "compiled" if self.how.compiled else "not compiled"
        expected = f"; {self.steps} steps in about {minutes(self.seconds)}" if self.seconds else ""
        return f"{on}, {self.how.precision}{faster if self.probe else ''}{slower}, {compiled}{expected}"


def minutes(seconds: float) -> str:
    """E.g. 1:05."""
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"


def choose(run: RunParams, model: GPT, params: TrainParams) -> Choice:
    """How a training of `model` by `params` computes on the device where the model is.

    What section `run` names is taken, `auto` is decided. Equal arguments give an equal choice on one machine; of
    several processes that train together the first to come probes, and the others wait for what it found.
    """
    how, probe = eager(run, model, params.batch_size)
    if run.compile == "auto" and how.device == "cuda":
        pays = params.steps >= STEPS_WORTH_COMPILING
    else:
        seconds = params.steps * probe.seconds(how.precision) if probe else 0.0
        pays = seconds * COMPILING_SAVES[how.precision] > COMPILING_TAKES
    compiled = run.compile == "always" or (run.compile == "auto" and pays and can_compile(torch.device(how.device)))
    return Choice(replace(how, compiled=compiled), probe, params.steps)


def eager(run: RunParams, model: GPT, batch_size: int) -> tuple[Arithmetic, Probe | None]:
    """How passes of `model` over batches compute that nobody compiles, and the probe behind it, if it took one."""
    device, named, probe = next(model.parameters()).device, run.precision, None
    if device.type == "cuda":
        auto: Precision = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    elif "auto" in (run.precision, run.compile):
        probe = kept_probe(model, max(1, batch_size // run.processes), threads_of(run))
        auto = probe.best()
    else:
        auto = "float32"
    precision = auto if named == "auto" else named
    return Arithmetic(device.type, precision, False, threads_of(run), str(torch.__version__)), probe


def kept_probe(model: GPT, batch_size: int, threads: int) -> Probe:
    """The probe of this shape on this machine: an earlier one, or, once, a new one."""
    key = _key(model, batch_size, threads)
    for file in _files():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{file}.lock"):
                known = _read(file)
                if key not in known:
                    known[key] = asdict(measure(model, batch_size))
                    write_json(file, dict(list(known.items())[-KEPT:]))
                return Probe(**known[key])
        except OSError:
            continue  # a folder that cannot be written to
    return measure(model, batch_size)


def measure(model: GPT, batch_size: int) -> Probe:
    """Time both precisions in turn, the fastest of ROUNDS passes each; weights and random numbers stay as they are."""
    keep_memory()
    T, parameters = model.config.block_size, sum(weight.numel() for weight in model.parameters())
    tokens = min(batch_size * T, max(FEWEST_TOKENS, int(WORK / (6 * parameters))))
    rows, width = max(1, tokens // T), min(T, tokens)
    x_BT = torch.zeros(rows, width, dtype=torch.int64)
    training = model.training
    with torch.random.fork_rng(devices=[]):
        model.train()
        _seconds(model, x_BT, "float32"), _seconds(model, x_BT, "bfloat16")  # the first pass prepares kernels
        timed = [(_seconds(model, x_BT, "float32"), _seconds(model, x_BT, "bfloat16")) for _ in range(ROUNDS)]
    model.train(training)
    model.zero_grad(set_to_none=True)
    whole = batch_size * T / (rows * width)
    float32, bfloat16 = (min(column) * whole for column in zip(*timed, strict=True))
    return Probe(round(float32, 6), round(bfloat16, 6))


def _seconds(model: GPT, x_BT: torch.Tensor, precision: Precision) -> float:
    """Seconds of this thread, which takes part in every product and does all the rest: on an idle machine what
    a clock on the wall shows, and beside other work what that would show without it."""
    began = CLOCK()
    autocast = Arithmetic("cpu", precision, False, 1, "").autocast
    cross_entropy(model, x_BT, x_BT, autocast).backward()  # type: ignore[no-untyped-call]
    return CLOCK() - began


def _key(model: GPT, batch_size: int, threads: int) -> str:
    facts = {
        "processor": torch.cpu.get_capabilities(),
        "switches": {name: os.environ.get(name) for name in SWITCHES},
        "torch": torch.__version__,
        "threads": threads,
        "parts": sorted({type(module).__name__ for module in model.modules()}),
        "shape": {field.name: getattr(model.config, field.name) for field in fields(model.config)},
        "batch_size": batch_size,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _files() -> Iterator[Path]:
    """Where probes are kept: with the user (TROUPE_CACHE names another folder), or in the workspace where that folder
    cannot be written to."""
    for folder in (os.environ.get("TROUPE_CACHE") or platformdirs.user_cache_path("troupe"), STATE):
        yield Path(folder) / "probes.json"


def _read(file: Path) -> dict[str, dict[str, float]]:
    try:
        known = read_json(file)
        return {key: one for key, one in known.items() if _is_probe(one)}
    except (ArtifactError, AttributeError):
        return {}


def _is_probe(one: object) -> bool:
    wanted = {field.name for field in fields(Probe)}
    return isinstance(one, dict) and set(one) == wanted and all(isinstance(n, float) and n > 0 for n in one.values())
