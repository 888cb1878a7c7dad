"""Where and how torch computes: device, threads, precision, compiler, determinism; set once at the start of a stage."""

import ctypes
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from threadpoolctl import threadpool_limits
from torch import Tensor

from troupe.cores import usable_cores
from troupe.errors import ParamsError
from troupe.params import RunParams

Autocast = Callable[[], AbstractContextManager[object]]  # the precision of a forward pass


CPU = torch.device("cpu")
Precision = Literal["float32", "bfloat16"]
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


@dataclass(frozen=True)
class Arithmetic:
    """What section `run` has come to here (training/probe.py decides): another one rounds differently."""

    device: str  # "cpu" or "cuda"
    precision: Precision
    compiled: bool
    threads: int  # of a CPU; a GPU rounds alike with any number
    torch: str  # version

    def __str__(self) -> str:
        device = f"cpu{self.threads}" if self.device == "cpu" else self.device
        return f"{device}-{self.precision}-{'compiled' if self.compiled else 'eager'}-torch{self.torch}"

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which a forward pass computes in `precision`."""
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.precision == "bfloat16")


def threads_of(run: RunParams) -> int:
    """CPU threads of this process: `run.threads`, or for `auto` the cores, shared where several train together."""
    sharing = run.processes_per_node if dist.is_torchelastic_launched() else 1
    return run.threads if run.threads != "auto" else max(1, usable_cores() // sharing)


def set_up(run: RunParams) -> torch.device:
    """Set threads and deterministic algorithms, and return the device of `run.device`.

    Of several processes that train together each has its own GPU, that of the number which torchrun gave it.
    Raises ParamsError when a GPU is asked for and there is none, or fewer than processes.
    """
    torch.set_num_threads(threads_of(run))
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms imports the compiler: as long as torch
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a tenth of a step
    torch.set_flush_denormal(True)  # vanishing gradients are denormal numbers: a step took three times as long
    if run.device == "cuda" and not torch.cuda.is_available():
        raise ParamsError("run.device: cuda asked for, but torch sees no GPU; set run.device to auto or cpu")
    if run.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if (wanted := run.processes_per_node) > (seen := torch.cuda.device_count()):
        raise ParamsError(f"run.processes: {wanted} asked for on this machine, but torch sees {seen} GPUs")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    return device


def keep_memory() -> None:
    """For training: have freed memory kept for the next steps, where the allocator is glibc's. Left to itself it maps
    large blocks anew, so that the system cleared 400 MB of pages in every step of 10.7M parameters."""
    if os.name == "posix" and (set_option := getattr(ctypes.CDLL(None), "mallopt", None)):
        set_option(M_MMAP_MAX, 0)
        set_option(M_TRIM_THRESHOLD, 2**31 - 1)


def can_compile(device: torch.device) -> bool:
    """Have torch compile, load and run a function: of compiler, headers and folder, all that it needs is there, or not.

    Nearly all the time it takes is the import of the compiler, which the model then has for nothing.
    """
    try:
        torch.compile(torch.sin)(torch.ones(8, device=device))
    except Exception as error:  # whatever it is, training can do without
        print(f"run.compile: trains without torch.compile, which fails here ({_first_line(error)})", flush=True)
        return False
    return True


def compile_passes(module: Callable[..., Tensor], device: torch.device = CPU) -> Callable[..., Tensor]:
    """`module` with its forward and backward passes fused by torch.compile, at its first call, for inputs of one shape.

    On a CPU its random numbers come from torch's generator, as without: the compiler would draw the key of a dropout's
    mask anew for every vector of elements.
    """
    if torch.get_deterministic_debug_mode():
        torch.use_deterministic_algorithms(True, warn_only=True)  # tells the compiler, which is needed now, too
    options: dict[str, Any] = {"fallback_random": device.type == "cpu"}
    compiled: Callable[..., Tensor] = torch.compile(module, dynamic=False, options=options)
    return compiled


@contextmanager
def compiler_faults_named() -> Iterator[None]:
    """Raises ParamsError for what torch.compile raises when it cannot compile a model."""
    try:
        yield
    except RuntimeError as error:
        from torch._dynamo.exc import TorchDynamoException  # seconds of imports, which a compiling run has paid

        if not isinstance(error, TorchDynamoException):
            raise
        raise ParamsError(
            f"run.compile: torch cannot compile here ({_first_line(error)}); set run.compile=never"
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """So many threads of torch inside, as many as before outside."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """As many workers as torch has threads, each computing on one.

    Small matrices gain little from several threads and are far slower with them on a busy machine; and so no figure
    hangs on how many there are. Wait for results inside: on leaving, what has not begun never does.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=threadpool_limits, initargs=(1, "openmp"))  # of scikit-learn's trees
    torch.set_num_threads(1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
