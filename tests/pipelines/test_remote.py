"""What one machine has computed, another has from DVC's remote: real DVC, and a server that speaks S3."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.pipelines.small import PYTHON, environment, make
from tests.servers import BUCKET, keys, s3

WORK = "echo $PWD >> ran; cat first.txt > second.txt\n"


def dvc(folder: Path, *words: str) -> None:
    done = subprocess.run([PYTHON, "-m", "dvc", *words], cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.servers
def test_a_pushed_run_is_pulled_elsewhere_and_nothing_is_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    make(here, WORK)
    with s3(tmp_path, monkeypatch) as address:
        dvc(here, "remote", "add", "--default", "store", f"s3://{BUCKET}/dvc")
        dvc(here, "remote", "modify", "store", "endpointurl", address)
        dvc(here, "repro")
        dvc(here, "push", "--run-cache")
        assert keys(address, "dvc/files/md5/")
        shutil.copytree(here, there, ignore=shutil.ignore_patterns("cache", "tmp", "ran", "*.txt", "artifacts"))
        dvc(there, "pull", "--run-cache")
    assert (there / "second.txt").read_bytes() == (here / "second.txt").read_bytes()
    dvc(there, "repro")
    assert (here / "ran").exists()
    assert not (there / "ran").exists(), "computed again"
