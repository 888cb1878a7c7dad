"""The unit that keeps `make ui` running."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from pipelines.__main__ import app
from pipelines.systemd import unit, unit_name

WORST = Path('/home/a user/50% $HOME \\ "it\'s"')


def parsed(text: str) -> configparser.ConfigParser:
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    return parser


def test_make_service_writes_a_unit_of_this_folder_and_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    app(["service", "--cron", "0 3 * * *", "--timezone", "Europe/Berlin"], standalone_mode=False)
    [path] = (tmp_path / "config/systemd/user").iterdir()
    said = capsys.readouterr().out
    assert str(path) in said
    assert f"systemctl --user enable --now {path.name}" in said
    service = parsed(path.read_text())["Service"]
    assert service["WorkingDirectory"] == str(tmp_path / "work")
    assert service["ExecStart"].endswith('"-m" "pipelines" "ui" "--cron" "0 3 * * *" "--timezone" "Europe/Berlin"')
    assert (service["Restart"], service["KillSignal"]) == ("always", "SIGINT")
    if analyze := shutil.which("systemd-analyze"):
        own = {"XDG_RUNTIME_DIR": str(tmp_path)}
        subprocess.run([analyze, "--user", "verify", path], env=own, check=True, timeout=60)


def test_nothing_in_a_path_means_anything_to_systemd() -> None:
    service = parsed(unit([str(WORST / "python"), "-m"], WORST))["Service"]
    assert service["WorkingDirectory"] == '/home/a user/50%% $HOME \\ "it\'s"'
    assert service["ExecStart"] == '"/home/a user/50%% $$HOME \\\\ \\"it\'s\\"/python" "-m"'


def test_folders_have_units_of_their_own() -> None:
    assert unit_name(Path("/a/b c")) == "troupe-a-b-c"
    assert unit_name(Path("/a/b")) != unit_name(Path("/a/c"))
