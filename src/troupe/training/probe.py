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
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import platformdirs
import torch
import torch.distributed as dist
from filelock import FileLock
from torch import Tensor

from troupe.compute import Arithmetic, Precision, can_compile, keep_memory, threads_of
from troupe.cores import usable_cores
from troupe.errors import ArtifactError
from troupe.files import read_json, write_json
from troupe.layout import STATE
from troupe.models.gpt2 import GPT
from troupe.params import RunParams, TrainParams
from troupe.training.loop import cross_entropy

WORK = 2e10  # floating-point operations of one timed pass at most: 0.2 s on two cores without units for matrices
FEW = 64  # tokens, on which a precision that the processor has to emulate is found out
HOPELESS = 2.0  # times as slow on a few tokens
ROUNDS = 3
BFLOAT16_MUST_SAVE = 0.1  # of a step's time: with less, float32's digits are worth more
COMPILING_TAKES = 25.0  # seconds, with an empty cache
COMPILING_SAVES: dict[Precision, float] = {"float32": 0.15, "bfloat16": 0.3}  # of a pass, measured: docs/results
STEPS_WORTH_COMPILING = 300  # on a GPU
SWITCHES = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")  # that hide units of the processor from torch


@dataclass(frozen=True)
class Probe:
    """Seconds per token of a forward and a backward pass, not compiled, in either precision."""

    float32: float
    bfloat16: float

    def best(self) -> Precision:
        return "bfloat16" if self.bfloat16 < (1 - BFLOAT16_MUST_SAVE) * self.float32 else "float32"

    def seconds(self, precision: Precision) -> float:
        return self.bfloat16 if precision == "bfloat16" else self.float32


@dataclass(frozen=True)
class Choice:
    """How a training computes, the probe behind it (None: nothing was left to it), and what it amounts to.

    `work` is how many times the time of the probed model's passes its own take, as the dense model is probed for the
    one with experts.
    """

    how: Arithmetic
    probe: Probe | None
    steps: int
    tokens_per_step: float  # of this process
    work: float = 1.0

    def seconds(self, done: int = 0) -> float | None:
        """Of the passes of the steps after the first `done`, as the probe has it; None where there was no probe.

        Optimiser, looks at validation and checkpoints come on top.
        """
        if not self.probe:
            return None
        step = self.work * self.tokens_per_step * self.probe.seconds(self.how.precision)
        saved = COMPILING_SAVES[self.how.precision] if self.how.compiled else 0.0
        return (self.steps - done) * step * (1 - saved) + (COMPILING_TAKES if self.how.compiled else 0.0)

    def line(self, done: int = 0) -> str:
        """E.g. "2 threads, float32, compiled; passes of 450 steps: 1:20 at least", and why this precision."""
        on = f"{self.how.threads} thread{'s' * (self.how.threads > 1)}" if self.how.device == "cpu" else "GPU"
        compiled = "compiled" if self.how.compiled else "not compiled"
        seconds = self.seconds(done)
        expected = f"; passes of {self.steps - done} steps: {minutes(seconds)} at least" if seconds else ""
        return f"{on}, {self.how.precision}{self._reason()}, {compiled}{expected}"

    def _reason(self) -> str:
        if not self.probe or self.probe.best() != self.how.precision:
            return ""
        if self.how.precision == "bfloat16":
            return f" ({self.probe.float32 / self.probe.bfloat16:.1f} times as fast as float32 here)"
        return " (bfloat16 saves less than a tenth here)"


def minutes(seconds: float) -> str:
    """E.g. 1:05."""
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"


def choose(run: RunParams, model: GPT, params: TrainParams) -> Choice:
    """How a training of `model` by `params` computes on the device where the model is.

    What section `run` names is taken, `auto` is decided. Equal arguments give an equal choice on one machine, and
    several processes that train together all have that of the one that leads.
    """
    how, probe = eager(run, model, params.batch_size)
    tokens = params.batch_size * model.config.block_size / run.processes
    if run.compile == "auto" and how.device == "cuda":
        pays = params.steps >= STEPS_WORTH_COMPILING
    else:
        seconds = params.steps * tokens * probe.seconds(how.precision) if probe else 0.0
        pays = seconds * COMPILING_SAVES[how.precision] > COMPILING_TAKES
    compiled = run.compile == "always" or (run.compile == "auto" and pays and can_compile(torch.device(how.device)))
    return Choice(_agreed(replace(how, compiled=compiled), model), probe, params.steps, tokens)


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
    rows, width = _timed_shape(model, batch_size)
    key, probe = _key(model, rows, width, threads), None
    for file in _files():
        with suppress(OSError, ArtifactError):  # a folder that cannot be written to, a disk that is full
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{file}.lock"):
                known = _read(file)
                if key in known:
                    return Probe(**known[key])
                probe = probe or measure(model, rows, width)
                write_json(file, {**known, key: asdict(probe)})
                return probe
    return probe or measure(model, rows, width)


def measure(model: GPT, rows: int, width: int) -> Probe:
    """Time both precisions on `rows` sequences of `width` tokens, in turn, the fastest of ROUNDS passes each; weights
    and random numbers stay as they are."""
    keep_memory()
    few_BT, x_BT = (torch.zeros(shape, dtype=torch.int64) for shape in ((1, min(width, FEW)), (rows, width)))
    training = model.training
    model.train()
    with torch.random.fork_rng(devices=[]):
        float32, bfloat16 = _timed(model, few_BT)
        slower = bfloat16 / float32
        if slower < HOPELESS:  # else passes over whole batches would take minutes
            float32, bfloat16 = _timed(model, x_BT)
        else:
            float32 = min(_seconds(model, x_BT, "float32") for _ in range(ROUNDS))
            bfloat16 = slower * float32
    model.train(training)
    model.zero_grad(set_to_none=True)
    return Probe(float32 / x_BT.numel(), bfloat16 / x_BT.numel())


def _timed(model: GPT, x_BT: Tensor) -> tuple[float, float]:
    """The fastest pass in float32 and in bfloat16, in seconds, without the first, which prepares kernels."""
    passes = [(_seconds(model, x_BT, "float32"), _seconds(model, x_BT, "bfloat16")) for _ in range(ROUNDS + 1)]
    float32, bfloat16 = (min(column) for column in zip(*passes[1:], strict=True))
    return float32, bfloat16


def _seconds(model: GPT, x_BT: Tensor, precision: Precision) -> float:
    """Of this thread, which takes part in every product and does all the rest: on an idle machine what a clock on the
    wall shows, and beside other work what that would show without it. With more threads than cores they wait for each
    other, and elsewhere than on Linux and macOS the thread's clock is coarse: there it is the clock on the wall.
    """
    clock = time.thread_time if os.name == "posix" and torch.get_num_threads() <= usable_cores() else time.perf_counter
    began = clock()
    autocast = Arithmetic("cpu", precision, False, 1, "").autocast
    cross_entropy(model, x_BT, x_BT, autocast).backward()  # type: ignore[no-untyped-call]
    return max(clock() - began, 1e-9)


def _timed_shape(model: GPT, batch_size: int) -> tuple[int, int]:
    """Sequences and tokens of each that a pass is timed on: those of a batch, or as many as WORK allows."""
    T, parameters = model.config.block_size, sum(weight.numel() for weight in model.parameters())
    tokens = min(batch_size * T, max(FEW, int(WORK / (6 * parameters))))
    return max(1, tokens // T), min(T, tokens)


def _agreed(mine: Arithmetic, model: GPT) -> Arithmetic:
    """As the process that leads computes, where several train together: gradients of two precisions must not mix.

    Its threads too, which name the checkpoints that all of them read: on another machine there may be more or fewer.
    """
    if not dist.is_initialized():
        return mine
    device = next(model.parameters()).device
    facts = torch.tensor([mine.precision == "bfloat16", mine.compiled, mine.threads], dtype=torch.int32, device=device)
    dist.broadcast(facts, src=0)
    bfloat16, compiled, threads = facts.tolist()
    precision: Precision = "bfloat16" if bfloat16 else "float32"
    return replace(mine, precision=precision, compiled=bool(compiled), threads=threads)


def _key(model: GPT, rows: int, width: int, threads: int) -> str:
    facts = {
        "processor": torch.cpu.get_capabilities(),
        "switches": {name: os.environ.get(name) for name in SWITCHES},
        "torch": torch.__version__,
        "threads": threads,
        "parts": sorted({type(module).__name__ for module in model.modules()}),
        "shape": {field.name: getattr(model.config, field.name) for field in fields(model.config)},
        "tokens": [rows, width],
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
