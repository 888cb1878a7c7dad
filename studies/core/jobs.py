"""The jobs of a study: one training run per arm and seed, each on one thread of a process of its own.

    start = Job("pretrained", seed=1, settings={...})
    later = Job("experts", seed=1, settings={...}, needs=start)  # begins when `start` is done, and finds what it wrote
    figures = run_jobs("moe", body, [start, later], work, workers=4)[later]

A job's figures are written when it ends, to a folder whose name digests its settings, those of the job it needs, and
the code of the body: a study that was killed goes on where it was, a changed one starts afresh.
"""

import hashlib
import json
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import psutil
import torch

from troupe.dependencies import code_digest
from troupe.errors import ProcessFailed, TroupeError
from troupe.files import read_json, write_json
from troupe.progress import track
from troupe.stages.common import die_with_parent

FIGURES = "figures.json"  # in a job's folder: there when it is done
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
Figures = dict[str, Any]  # what JSON can hold; no NaN


@dataclass(frozen=True, eq=False)
class Job:
    """`settings`, which JSON can hold, is all that its figures depend on beside `seed`, `needs` and the code."""

    arm: str
    seed: int
    settings: Mapping[str, Any]
    needs: "Job | None" = None

    def key(self, code: str) -> str:
        """32 hex digits that change with anything its figures depend on; `code` digests the code."""
        before = self.needs.key(code) if self.needs else None
        parts = [code, str(torch.__version__), self.arm, self.seed, self.settings, before]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


# body(job, its folder, the folder of the job it needs) -> figures; a function at the top of a module
Body = Callable[[Job, Path, Path | None], Figures]


def run_jobs(study: str, body: Body, jobs: Sequence[Job], work: Path, workers: int | None = None) -> dict[Job, Figures]:
    """The figures of every job, in the order of `jobs`, which holds the jobs that others need, too; so many at once as
    there are `workers`, or physical cores.

    A job that fails does not end the others: once they are done, ProcessFailed names all that failed. Ctrl-C ends every
    process; what is done is kept.
    """
    digest, workers = code_digest(body.__module__), workers or psutil.cpu_count(logical=False) or 1
    folders = {job: work / study / job.key(digest) for job in jobs}
    waiting, failed = [job for job in jobs if not _is_done(folders[job])], []
    running: dict[Future[str | None], Job] = {}
    print(f"{study}: {len(jobs)} jobs, {len(jobs) - len(waiting)} of them done before; {workers} at once", flush=True)
    with track(study, len(jobs), len(jobs) - len(waiting)) as show, _processes(workers) as pool:
        while True:
            for job in [job for job in waiting if job.needs is None or _is_done(folders[job.needs])]:
                waiting.remove(job)
                needed = folders[job.needs] if job.needs else None
                running[pool.submit(_perform, body, job, folders[job], needed)] = job
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                if fault := future.result():
                    failed.append(f"{study}, {job.arm}, seed {job.seed}: {fault}")
            show(len(jobs) - len(waiting) - len(running), {"failed": len(failed)} if failed else {})
    if failed:
        raise ProcessFailed("\n".join([*failed, "the same command goes on with what is not done"]))
    return {job: read_json(folders[job] / FIGURES)["figures"] for job in jobs}


def by_arm(planned: Mapping[str, Sequence[Job]], figures: Mapping[Job, Figures]) -> dict[str, list[Figures]]:
    """Of every arm the figures of its jobs, in their order."""
    return {name: [figures[job] for job in of_arm] for name, of_arm in planned.items()}


def records(figures: Mapping[Job, Figures]) -> list[Figures]:
    """What stands in the file beside a page: of every job arm, seed and figures."""
    return [{"arm": job.arm, "seed": job.seed, **found} for job, found in figures.items()]


@contextmanager
def _processes(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes, not copies of this one; none is left whichever way this one goes on."""
    os.environ |= dict.fromkeys(THREADS, "1")  # they inherit it
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin)
    try:
        yield pool
    except BrokenProcessPool:
        raise ProcessFailed("a process of the study was killed (no memory left?); the same command goes on") from None
    except BaseException:
        for child in active_children():
            child.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; the parent ends them
    torch.set_num_threads(1)


def _perform(body: Body, job: Job, folder: Path, needed: Path | None) -> str | None:
    """Do a job in this process. Why it failed goes back as text, for not every error can be sent: one line of what a
    user can mend, all of it, with where it was, of anything else; None if it did not fail."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):  # its progress is not the study's
            figures = body(job, folder, needed)
        content = {"arm": job.arm, "seed": job.seed, "settings": dict(job.settings), "figures": figures}
        write_json(folder / FIGURES, content)  # last: it says that the job is done
    except TroupeError as error:
        return str(error)
    except Exception:
        return traceback.format_exc()
    return None


def _is_done(folder: Path) -> bool:
    return (folder / FIGURES).is_file()
