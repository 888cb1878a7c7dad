"""The one place of the switches that keep tools quiet, offline and free of pickle, and threads polite."""

import os

DEFAULTS = {
    # no telemetry, no call home
    "DO_NOT_TRACK": "true",  # mlflow understands "true" only, not "1"
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # that page calls an analytics host whatever the settings say
    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "http://127.0.0.1",  # "*" would let any web page start runs
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_MIN_RUNS": "14",  # planned ahead: while it is off only these can be missed
    # nothing that unpickles is ever loaded
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # a server that does not answer costs seconds; mlflow's own defaults of 120 s and 7 retries cost minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    # what mlflow prints and starts beside what it is asked for
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 2 processes and 0.5 GB instead of 2.4 GB
    # threads that wait for each other soon sleep: spinning, a step beside another job took over 4 s instead of 1 s;
    # but not at once: a thousand turns, some 50 us, save a small step a quarter of its time
    # (docs/results/2026-11-22-waiting-threads.md)
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "1000",
    "GIT_PYTHON_REFRESH": "quiet",  # no warning where there is no git
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # the first start takes 20 s, Prefect's default
}


def prepare() -> None:
    """Set every switch that the user has not set; entry points call it before they import mlflow or prefect.

    Processes started later inherit the switches.
    """
    own_policy = "OMP_WAIT_POLICY" in os.environ  # over which the count would win
    for name, value in DEFAULTS.items():
        if not (name == "GOMP_SPINCOUNT" and own_policy):
            os.environ.setdefault(name, value)
    for name in ("no_proxy", "NO_PROXY"):  # a proxy for the outer world must not stand before our own servers
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))
