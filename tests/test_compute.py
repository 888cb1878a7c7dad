"""Threads, names of arithmetics, compiled passes, and what is said where torch cannot compile."""

import os
import platform
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.numerics import rounded_share, roundings_of_forward
from troupe.compute import Arithmetic, compile_passes, compiler_faults_named, threads_of
from troupe.kernels.attention import SCORES
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, CausalSelfAttention, init_gpt2
from troupe.models.switchhead import SwitchHead, SwitchHeadConfig
from troupe.params import RunParams, load_params
from troupe.seeding import generator
from troupe.training.loop import cross_entropy

ROOT = Path(__file__).parents[1]


def run(**values: object) -> RunParams:
    return load_params(ROOT / "params.yaml", [f"run.{name}={value}" for name, value in values.items()]).run


def test_what_rounds_differently_has_another_name() -> None:
    one = Arithmetic("cpu", "float32", False, 2, "2.13.0")
    assert str(one) == "cpu2-float32-eager-torch2.13.0"
    others = {"precision": "bfloat16", "compiled": True, "threads": 3, "torch": "2.14.0"}
    assert len({str(one), *(str(replace(one, **{name: value})) for name, value in others.items())}) == 5
    on_gpus = {str(Arithmetic("cuda", "bfloat16", True, threads, "2.13.0")) for threads in (1, 16)}
    assert on_gpus == {"cuda-bfloat16-compiled-torch2.13.0"}


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("troupe.compute.usable_cores", lambda: 5)
    assert threads_of(run(threads="auto", processes=2)) == 5  # a stage that no other process takes part in
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert [threads_of(run(threads="auto", processes=n)) for n in (1, 2, 4, 8)] == [5, 2, 1, 1]
    assert threads_of(run(threads="auto", processes=4, nodes=2, launcher="torchrun")) == 2
    assert threads_of(run(threads=7, processes=2)) == 7


def test_faults_that_are_not_the_compilers_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="something else"), compiler_faults_named():
        raise RuntimeError("something else")


REPEATED = """
import resource, torch
from troupe.compute import keep_memory
keep_memory()
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**25)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have other ways")
def test_freed_memory_comes_to_be_there_for_the_next_step_without_a_fault() -> None:
    told = subprocess.check_output([sys.executable, "-c", REPEATED], text=True, cwd=ROOT)
    first, *_, last = map(int, told.split())
    assert first > 30  # pages of 128 MiB, large ones perhaps
    assert last < first / 4


GPT2: dict[str, Any] = {"positions": "learned", "activation": "gelu"}
DEPARTING: dict[str, Any] = {"positions": "rotary", "norm": "rms", "activation": "swiglu", "qk_norm": True, "conv": 4}
EXPERTS = SwitchHeadConfig(2, 16, 3, 2, "sigmoid", compute="dense")


@pytest.mark.slow
@pytest.mark.parametrize("parts", [GPT2, DEPARTING])
@pytest.mark.parametrize("attention", [CausalSelfAttention, partial(SwitchHead, experts=EXPERTS)])
@pytest.mark.parametrize(("in_bfloat16", "scores"), [(False, 0), (True, 0), (True, SCORES)])
def test_compiled_passes_have_the_gradients_and_the_dropout_of_eager_ones(
    parts: dict[str, Any], attention: Any, in_bfloat16: bool, scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("troupe.kernels.attention.SCORES", scores)
    config = GPTConfig(11, 32, n_layer=2, n_head=2, n_embd=32, dropout=0.2, bias=False, **parts)
    model, ids_BT = GPT(config, attention), torch.arange(6 * 32).view(6, 32) % 10
    init_gpt2(model, generator(0, "test", "init"))
    torch._dynamo.reset()
    found = []
    for forward in (model, compile_passes(model)):
        torch.manual_seed(1)
        loss = cross_entropy(forward, ids_BT, ids_BT + 1, partial(torch.autocast, "cpu", torch.bfloat16, in_bfloat16))
        found.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    n = 2 * 3 * roundings_of_forward(config.n_layer)  # both of them; backward goes twice as far as forward
    share = rounded_share(n, torch.bfloat16) if in_bfloat16 else rounded_share(n * 64, torch.float32)  # sums of 64
    for eager, compiled in zip(*found, strict=True):
        assert (compiled - eager).norm() <= share * eager.norm() + 1e-6


BROKEN = """
import torch
from troupe.compute import CPU, can_compile, compiler_faults_named
from troupe.errors import ParamsError
assert not can_compile(CPU)
try:
    with compiler_faults_named():
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
