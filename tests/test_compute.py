"""What run.device, run.precision and run.compile come to, and what is said where torch cannot compile."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from troupe.compute import CPU, arithmetic, compile_passes, compiler_faults_told, compiles
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT
from troupe.params import STEPS_WORTH_COMPILING, RunParams, load_params

ROOT = Path(__file__).parents[1]


def run(**values: object) -> RunParams:
    return load_params(ROOT / "params.yaml", [f"run.{name}={value}" for name, value in values.items()]).run


def test_the_arithmetic_is_what_was_resolved_not_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_units, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has_units=has_units: {"amx_bf16": has_units})
        how = arithmetic(run(precision="auto"), CPU, compiled=True)
        assert str(how) == f"cpu-{precision}-compiled-torch{torch.__version__}"
    assert str(arithmetic(run(precision="bfloat16"), CPU)).startswith("cpu-bfloat16-eager-")


def test_short_runs_and_never_do_not_even_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "compile")
    assert not compiles(run(compile="auto"), STEPS_WORTH_COMPILING - 1)
    assert not compiles(run(compile="never"), 10**6)
    assert compiles(run(compile="always"), 1)


def test_faults_that_are_not_the_compilers_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="something else"), compiler_faults_told():
        raise RuntimeError("something else")


TWICE = """
import resource, torch
from pathlib import Path
from troupe.compute import set_up
from troupe.params import load_params
set_up(load_params(Path("params.yaml"), ["run.device=cpu"]).run)
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**25)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have other ways")
def test_memory_once_freed_is_there_for_the_next_step_without_a_fault() -> None:
    told = subprocess.run([sys.executable, "-c", TWICE], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT).stdout
    first, second = map(int, told.split())
    assert first > 100  # pages of 128 MiB, large ones perhaps
    assert second < first / 10


@pytest.mark.slow
def test_compiled_passes_compute_and_draw_as_eager_ones() -> None:
    config = GPTConfig(11, 8, n_layer=1, n_head=2, n_embd=16, dropout=0.5, positions="learned", activation="gelu")
    model, ids_BT = GPT(config), torch.arange(8).unsqueeze(0)
    torch._dynamo.reset()
    found = []
    for forward in (model, compile_passes(model)):
        torch.manual_seed(1)
        logits_BTV = forward(ids_BT)
        found.append([logits_BTV, *torch.autograd.grad(logits_BTV.square().sum(), list(model.parameters()))])
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4)


BROKEN = """
from pathlib import Path
import torch
from troupe.compute import compile_passes, compiler_faults_told, compiles
from troupe.errors import ParamsError
from troupe.params import STEPS_WORTH_COMPILING, load_params
run = load_params(Path("params.yaml"), ["run.compile=auto"]).run
assert not compiles(run, STEPS_WORTH_COMPILING)
try:
    with compiler_faults_told():
        torch.compile(torch.nn.GELU())(torch.ones(8))
except ParamsError as error:
    print(error)
"""


@pytest.mark.slow
def test_with_a_broken_compiler_auto_goes_without_and_always_says_what_to_do(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", BROKEN],
        cwd=ROOT,
        env={**os.environ, "CXX": "/bin/false", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert said.returncode == 0, said.stderr
    auto, always = said.stdout.splitlines()
    assert auto.startswith("run.compile: trains without torch.compile, which fails here (")
    assert always.startswith("run.compile: torch cannot compile here (")
    assert always.endswith("); set run.compile=never")
