"""For every test: one thread, for many on a busy machine are slower by orders of magnitude.

Two environment variables have the same tests compute in other numerics: TROUPE_TEST_THREADS is how many threads torch
has, in tests and in the processes that they start; TROUPE_TEST_PRECISION is `run.precision` of the small runs.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from troupe import environment
from troupe.models.config import BROUGHT, GPTConfig
from troupe.params import Params, load_params
from troupe.stages.corpus import corpus
from troupe.stages.inputs import inputs
from troupe.stages.tokens import tokens

THREADS = int(os.environ.get("TROUPE_TEST_THREADS", "1"))
PRECISION = os.environ.get("TROUPE_TEST_PRECISION", "auto")
os.environ["OMP_NUM_THREADS"] = str(THREADS)  # for the processes that tests start; _threads is for this one
if "TROUPE_CACHE" not in os.environ:  # of probes; workers inherit it
    os.environ["TROUPE_CACHE"] = tempfile.mkdtemp(prefix="troupe-tests-")
    atexit.register(shutil.rmtree, os.environ["TROUPE_CACHE"], ignore_errors=True)
# Of the `make test` that started this: a test's own make would print its directory, and take its options and variables.
for name in ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS"):
    os.environ.pop(name, None)
environment.prepare()  # before any test imports mlflow, which decides on telemetry then

ROOT = Path(__file__).parents[1]

settings.register_profile("troupe", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("troupe")


# Parts of paths: files run side by side, these first. What waits for another file's pipeline comes after it.
LONGEST = (
    "smoke/test_pipeline",
    "smoke/test_scheduling",
    "smoke/test_servers",
    "pipelines/",
    "test_compute",  # compiles a dozen models
    "faults/",
    "registry/",
    "smoke/",
    "studies/",
    "stages/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        place = item.path.as_posix()
        return next((number for number, part in enumerate(LONGEST) if f"/tests/{part}" in place), len(LONGEST))

    items.sort(key=rank)


PRINTED = ("fault", "security")  # markers whose sentence `make test-faults` and `make test-security` print


def pytest_runtest_setup(item: pytest.Item) -> None:
    item.user_properties += [(kind, mark.args[0]) for kind in PRINTED for mark in item.iter_markers(kind)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for each sentence of the marker that was asked for, with the worst outcome of its tests."""
    kind = terminalreporter.config.option.markexpr
    if kind not in PRINTED:
        return
    outcomes: dict[str, str] = {}
    for outcome in ("passed", "skipped", "error", "failed"):  # a later one is worse
        for report in terminalreporter.getreports(outcome):
            outcomes |= {text: outcome for name, text in getattr(report, "user_properties", ()) if name == kind}
    for text, outcome in sorted(outcomes.items()):
        terminalreporter.write_line(f"{outcome:8} {text}", green=outcome == "passed", red=outcome != "passed")


def pytest_xdist_auto_num_workers() -> int:
    """One worker more than processors: tests of servers, kills and locks spend their time waiting."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Also undoes what a stage that ran in this process has set: hypothesis wants denormal numbers."""
    torch.set_num_threads(THREADS)
    yield
    torch.set_flush_denormal(False)
    torch.set_deterministic_debug_mode("default")  # use_deterministic_algorithms would import the compiler


GAMES = ("gan", "ddo", "distil", "moments")
SMALLER = (  # than the profile tiny, for tests of single stages
    f"run.threads={THREADS} run.precision={PRECISION} data.source=text.txt data.block_bytes=256 "
    "model.block_size=16 model.n_embd=16 "
    "pretrain.steps=40 pretrain.batch_size=4 pretrain.eval_interval=8 pretrain.checkpoint_interval=4 "
    "moe.steps=12 moe.batch_size=4 moe.eval_interval=4 moe.checkpoint_interval=4 "
    "adversarial.tilt.prompt_length=4 judging.texts=30 judging.window=16 judging.transformer_steps=2 "
    + " ".join(f"adversarial.{game}.prompt_length=4 adversarial.{game}.sequence_length=8" for game in GAMES)
)

GPT2 = " ".join(
    f"model.{field.name}={field.default}"
    for field in fields(GPTConfig)
    if field.default not in (MISSING, None) and field.name not in BROUGHT
)


def small(*overrides: str) -> Params:
    """The parameters of params.yaml as small as for tests of single stages."""
    return load_params(ROOT / "params.yaml", [*SMALLER.split(), *overrides], "tiny")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    """A folder with corpus and tokens of a small text, to be copied, and its parameters, tiny."""
    folder = tmp_path_factory.mktemp("prepared")
    words = ["to", "be", "or", "not", "that", "is", "the", "question"]
    picks = torch.randint(len(words), (4000,), generator=torch.Generator().manual_seed(0)).tolist()
    params = small()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("text.txt").write_text(" ".join(words[pick] for pick in picks))
        for stage in (inputs, corpus, tokens):
            stage(params)
    return folder, params


@pytest.fixture
def workspace(prepared: tuple[Path, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A workspace as the current folder, with corpus and tokens of a small text; its parameters, tiny."""
    folder, params = prepared
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return params


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by playwright; a test that asks for it is skipped where one of them is missing. Not for longer
    than a module: while playwright runs, so does its event loop, beside which no other can be started."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    if not (path := next(filter(None, map(shutil.which, names)), None)):
        pytest.skip("no chromium here")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
