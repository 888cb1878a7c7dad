"""The peak of memory of a step is its own, however large this process or the one that started it has been."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.attention_step import PROCESS, SWITCHHEAD, peak_bytes
from benchmarks.switchhead import memory_cells

MIB = 2**20
LINUX = pytest.mark.skipif(not (PROCESS / "clear_refs").exists(), reason="no /proc/self/clear_refs here")


def grow(mib: int) -> None:
    """Hold so much for a moment."""
    assert len(bytearray(mib * MIB)) == mib * MIB


BEFORE_AND_NOW = """
from benchmarks.attention_step import raised_bytes
from tests.benchmarks.test_attention_step import grow
grow(256)
print(raised_bytes(lambda: grow(64)), raised_bytes(lambda: None))
"""


@LINUX
def test_a_peak_of_before_does_not_hide_that_of_now() -> None:
    """In a fresh process: one that has trained keeps its memory, so that nothing raises its size."""
    told = subprocess.run([sys.executable, "-c", BEFORE_AND_NOW], stdout=subprocess.PIPE, text=True, check=True).stdout
    growing, resting = map(int, told.split())
    assert 60 <= growing / MIB < 80
    assert resting < 4 * MIB


@LINUX
@pytest.mark.slow
def test_a_peak_of_the_starting_process_is_none_of_the_step() -> None:
    """Tiny as the step is, the libraries that it loads need megabytes; all of it is below the peak of this process."""
    grow(1024)
    found = peak_bytes(SWITCHHEAD, 16, "float32", "--quick")
    assert found is not None
    assert MIB < found < 256 * MIB


def test_a_system_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.attention_step.PROCESS", tmp_path)
    assert peak_bytes(SWITCHHEAD, 16, "float32", "--quick") is None
    assert memory_cells(None, None) == ["not measured", "not measured", ""]
    assert memory_cells(200 * MIB, 150 * MIB) == ["200", "150", "0.75"]
