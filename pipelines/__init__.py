"""The pipeline: Prefect flows, DVC as the pipeline uses it, the supervisor of children."""

from troupe.stopping import end_at_once, module_started

if module_started():
    end_at_once("pipeline")
