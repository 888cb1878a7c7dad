"""A job that does nothing but wait, in a module that is light to import: every process of a study does."""

import os
import time
from pathlib import Path

import torch

from studies.core.jobs import Figures, Job
from troupe.errors import Diverged


def body(job: Job, folder: Path, needed: Path | None) -> Figures:
    """Notes that it ran, waits if asked to, fails if asked to."""
    with (folder / "ran").open("a") as file:
        file.write("once\n")
    time.sleep(job.settings.get("seconds", 0.0))
    if "fail" in job.settings:
        raise ValueError(job.settings["fail"])
    if "diverge" in job.settings:
        raise Diverged(job.settings["diverge"], since=0)  # pickle cannot make it again: it takes two arguments
    before = (needed / "ran").read_text() if needed else ""
    return {"value": job.seed, "before": before, "threads": torch.get_num_threads(), "process": os.getpid()}
