"""What sets up a clone: which installer does the work, what it is told, what is shown."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import install

ROOT = Path(__file__).parents[2]
NOISE = "WARNING: Location 'file:///somewhere/simple/torch/' is ignored: it is neither a file nor a directory."
# An installer that says which it is and fails where a file of its name lies.
FAKE = f"""
import pathlib, sys
name, *arguments = sys.argv[1:]
print(name, *arguments)
print({NOISE!r})
if pathlib.Path(name + "-" + arguments[0]).exists(): sys.exit("ERROR: " + name + " cannot")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the current one, where pip and uv are fakes."""
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(install, "PIP", [sys.executable, "fake.py", "pip"])
    monkeypatch.setattr(install, "UV_PIP", [sys.executable, "fake.py", "uv"])
    return tmp_path


def commands(log: Path) -> list[str]:
    """The beginnings of the commands that have been run."""
    return [" ".join(line.split()[:2]) for line in log.read_text().splitlines() if line.startswith(("pip ", "uv "))]


def test_uv_installs_and_pip_checks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = folder / "setup.log"
    assert install.main(log, "https://index.example/cpu") == 0
    assert commands(log) == ["pip install", "uv install", "pip check"]
    assert "--index https://index.example/cpu --constraint constraints.txt" in log.read_text()
    told = capsys.readouterr()
    assert "installing with uv: done" in told.out
    assert NOISE not in told.out + told.err


def test_what_uv_cannot_do_pip_does(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = folder / "setup.log"
    (folder / "uv-install").touch()
    assert install.main(log) == 0
    assert commands(log) == ["pip install", "uv install", "pip install", "pip check"]
    assert "installing with uv: failed" in capsys.readouterr().out


@pytest.mark.parametrize("refused", ["pip-install", "pip-check"])
def test_a_failure_shows_the_end_of_the_log_and_nothing_that_does_not_matter(
    folder: Path, refused: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / refused).touch()
    assert install.main(folder / "setup.log") == 1
    told = capsys.readouterr()
    assert "ERROR: pip cannot" in told.err
    assert "The set-up has failed" in told.err
    assert NOISE not in told.out + told.err


@pytest.mark.parametrize("index", ["https://name:token@index.example/cpu", "https://to%40ken:pa@token@index.example"])
def test_neither_log_nor_terminal_holds_the_credentials_of_an_index(
    folder: Path, index: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not in the command, not in what the installer prints of it, not in what is shown of a failure."""
    for refused in ("uv-install", "pip-check"):
        (folder / refused).touch()
    log = folder / "setup.log"
    assert install.main(log, index) == 1
    told = capsys.readouterr()
    assert log.read_text().count("https://****@index.example") == 4
    assert "ken" not in log.read_text() + told.out + told.err
    assert "//****@index.example" in told.err


def test_uv_is_told_what_pip_s_own_configuration_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nindex-url = https://mirror.example/simple\nextra-index-url = https://one.example\n    file:///two\n"
        "timeout = 7\n[install]\nfind-links = /wheels\n"
    )
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    monkeypatch.setenv("PIP_INDEX_URL", "https://stronger.example/simple")
    options = install.pip_options()
    told = " ".join(install.uv_arguments(options))
    assert "--default-index https://stronger.example/simple" in told
    assert "--index https://one.example --index file:///two" in told
    assert "--find-links /wheels" in told
    assert "--no-index" not in told
    assert install.uv_environment(options)["UV_HTTP_TIMEOUT"] == "7"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert "--no-index" in install.uv_arguments(install.pip_options())


@pytest.mark.slow
def test_make_setup_fails_aloud_and_is_not_taken_for_done(tmp_path: Path) -> None:
    """The real thing, where no package is to be had."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    nothing = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    setup = ["make", "setup", f"PYTHON={sys.executable}"]
    failed = subprocess.run(setup, cwd=tmp_path, env={**os.environ, **nothing}, capture_output=True, text=True)
    assert failed.returncode == 2
    assert "No matching distribution found for" in failed.stderr
    assert len((failed.stdout + failed.stderr).splitlines()) < 40
    assert not (tmp_path / ".venv/.installed").exists()
