"""The pipeline: Prefect flows, DVC as the pipeline uses it, the supervisor of children."""

from troupe import environment
from troupe.stopping import end_at_once, module_started

if module_started():
    end_at_once("pipeline")
environment.prepare()  # here for flows that a worker of Prefect's imports, which no entry point of ours has started
