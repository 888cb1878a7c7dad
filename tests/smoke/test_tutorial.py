"""Every command of docs/tutorial.md, typed as it stands there, in a clone with a user's own text; at tiny scale."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from pydoc_data import topics

import pytest

from tests.conftest import THREADS
from tests.workspace import PROFILE, ROOT, clone

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "tutorial.md"
BLOCKS = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXT_BYTES = 100_000  # what the page says is enough
SETUP = Path(sys.prefix, ".installed")  # by which make knows that nothing is to be installed


@pytest.mark.skipif(not SETUP.exists(), reason="not an environment that `make setup` has made")
def test_every_command_of_the_tutorial(tmp_path: Path) -> None:
    folder, home = clone(tmp_path / "clone"), tmp_path / "home"
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy2(ROOT / name, folder / name)  # with its time: one newer than the set-up would be a new set-up
    shutil.copytree(ROOT / "studies", folder / "studies", ignore=shutil.ignore_patterns("__pycache__", "results"))
    (folder / ".venv").symlink_to(sys.prefix)
    (home / "texts").mkdir(parents=True)
    texts = "\n\n".join(topics.topics.values()).encode()[:TEXT_BYTES].decode(errors="ignore")
    (home / "texts" / "mine.txt").write_text(texts)
    written = {}
    for block in BLOCKS.findall(PAGE.read_text(encoding="utf-8")):
        for command in block.splitlines():
            written[command] = typed(command, folder, home)
    asked = next(output for command, output in written.items() if command.startswith("make pipeline"))
    assert "champion" in asked
    index = (folder / "reports" / "index.html").read_text()
    assert 'href="report.html"' in index
    assert 'href="studies/decoding.html"' in index
    assert all("The " in output for command, output in written.items() if "generate" in command)


def typed(command: str, folder: Path, home: Path) -> str:
    """What a command prints; it must succeed."""
    outer = ("MLFLOW_", "PREFECT_", "TROUPE_", "MAKE", "MFLAGS")  # a `make test` around this one leaves its own
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
    result = subprocess.run(
        ["bash", "-ec", command],
        cwd=folder,
        env={**inherited, "HOME": str(home), "PROFILE": PROFILE, "OMP_NUM_THREADS": str(THREADS)},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout
