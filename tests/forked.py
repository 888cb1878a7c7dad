"""Processes that begin as a copy of the test's own: real ones, to kill and to join, without seconds of imports."""

import ctypes
import multiprocessing
import signal
import sys
import warnings
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from threadpoolctl import threadpool_info

OMP_PAUSE_HARD = 2  # of omp.h


def forked(body: Callable[[], object], says: Path | None = None) -> BaseProcess:
    """Start `body` in a process of its own, which signals end as they end one that a shell has started, whatever a test
    before has set; what it prints goes to the file `says`."""

    def run() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if says:
            sys.stdout = sys.stderr = says.open("w", buffering=1)
        body()

    if torch.get_num_threads() > 1:
        _end_idle_threads()
    process = multiprocessing.get_context("fork").Process(target=run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, from Python 3.12 on
        process.start()
    return process


def _end_idle_threads() -> None:
    """End OpenMP's threads, which it starts again when needed: a copy of this process would have none of them, and
    would wait for them for ever."""
    for library in threadpool_info():
        if library["internal_api"] == "openmp":
            ctypes.CDLL(library["filepath"]).omp_pause_resource_all(OMP_PAUSE_HARD)
