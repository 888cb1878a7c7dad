"""The scripts that run inside the images and around them, run here without an engine."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from troupe.params import load_params

DOCKER = Path(__file__).parents[2] / "docker"
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def enter(workspace: Path, *command: str) -> subprocess.CompletedProcess[str]:
    entry = ["sh", str(DOCKER / "entrypoint.sh"), *command]
    return subprocess.run(entry, cwd=workspace, env={**os.environ, "PATH": PATH}, capture_output=True, text=True)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").touch()
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    return tmp_path


def test_dvc_is_told_of_a_workspace_without_history(workspace: Path) -> None:
    assert enter(workspace, "true").returncode == 0
    assert "no_scm = true" in (workspace / ".dvc/config.local").read_text()


def test_a_workspace_with_history_is_left_as_it_is_and_the_command_replaces_the_shell(workspace: Path) -> None:
    (workspace / ".git").touch()  # a file, as in a worktree
    assert enter(workspace, "sh", "-c", "exit 7").returncode == 7
    assert not (workspace / ".dvc/config.local").exists()


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("path", "healthy"), [("/health", True), ("/starting", False)])
def test_health_is_the_status_of_the_answer(address: str, path: str, healthy: bool) -> None:
    command = [sys.executable, str(DOCKER / "health.py"), address + path]
    assert (subprocess.run(command, capture_output=True).returncode == 0) is healthy


def test_nobody_there_is_not_healthy() -> None:
    command = [sys.executable, str(DOCKER / "health.py"), "http://127.0.0.1:9/health"]
    assert subprocess.run(command, capture_output=True).returncode == 1


@pytest.mark.parametrize(("age", "healthy"), [(0, True), (500, False)])
def test_health_is_the_age_of_a_file(age: float, healthy: bool, tmp_path: Path) -> None:
    written = tmp_path / "written"
    command = [sys.executable, str(DOCKER / "health.py"), str(written), "180"]
    assert subprocess.run(command, capture_output=True).returncode == 1, "not there yet"
    written.touch()
    os.utime(written, (time.time() - age,) * 2)
    assert (subprocess.run(command, capture_output=True).returncode == 0) is healthy


def test_the_check_asks_for_parameters_that_there_are() -> None:
    """Else it fails after minutes of building."""
    [overrides] = re.findall(r'OVERRIDES="([^"]*)"', (DOCKER / "check.sh").read_text(encoding="utf-8"))
    assert load_params(DOCKER.parent / "params.yaml", overrides.split()).pretrain.steps == 20


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder with docker/ as it is here, without secrets, and beside it another workspace."""
    shutil.copytree(DOCKER, tmp_path / "repository/docker", ignore=shutil.ignore_patterns(".env"))
    (tmp_path / "other").mkdir()
    return tmp_path / "repository"


def script(repository: Path, name: str, *words: str, workspace: str = "") -> subprocess.CompletedProcess[str]:
    tried = {**os.environ, "COMPOSE": "echo asked", "TROUPE_WORKSPACE": workspace}
    command = ["sh", f"docker/{name}", *words]
    return subprocess.run(command, cwd=repository, env=tried, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("environment", "file", "found"),
    [
        ("", "", "repository"),
        ("../../other", "", "other"),
        ("", "../../other", "other"),
        ("", '"../../other"', "other"),
        ("{}/other", "../..", "other"),
    ],
)
def test_the_workspace_is_the_one_that_compose_mounts(
    environment: str, file: str, found: str, repository: Path, tmp_path: Path
) -> None:
    """Of the environment, else of docker/.env, seen from the folder of compose.yaml."""
    if file:
        (repository / "docker/.env").write_text(f"POSTGRES_PASSWORD=abc\nTROUPE_WORKSPACE={file}\n")
    ended = script(repository, "workspace.sh", workspace=environment.format(tmp_path))
    assert (ended.returncode, ended.stdout) == (0, f"{(tmp_path / found).resolve()}\n"), ended.stderr


@pytest.mark.parametrize(("workspace", "says"), [("other", "the name of a volume"), ("./other", "no such folder")])
def test_a_workspace_that_compose_would_not_find_is_one_line(workspace: str, says: str, repository: Path) -> None:
    for name, *words in (("workspace.sh",), ("backup.sh", "save", "../backup")):
        ended = script(repository, name, *words, workspace=workspace)
        assert ended.returncode != 0
        assert ended.stderr.startswith(f"TROUPE_WORKSPACE={workspace}: ")
        assert says in ended.stderr
        assert ended.stderr.count("\n") == 1
    assert not (repository.parent / "backup").exists()


@pytest.mark.security(
    "containers: in another workspace, too, what hides the stack's secrets is its user's own, and empty"
)
def test_another_workspace_gets_a_mount_point_and_keeps_a_file_that_it_has(repository: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert script(repository, "workspace.sh", "--ready", workspace="../../other").returncode == 0
        made = tmp_path / "other/docker/.env"
        assert (made.read_text(), made.stat().st_mode & 0o777) == ("", 0o600)
    made.write_text("kept")
    script(repository, "workspace.sh", "--ready", workspace="../../other")
    assert made.read_text() == "kept"
    assert "docker/workspace.sh --ready" in (DOCKER.parent / "Makefile").read_text()


@pytest.mark.security("a backup, which has the stack's passwords, is refused a place that the trainer reads")
@pytest.mark.parametrize("workspace", ["", "../../other"])
@pytest.mark.parametrize("folder", ["{}/backup", "{}/data/backup", "{}/../elsewhere"])
def test_a_backup_lies_outside_the_workspace(folder: str, workspace: str, repository: Path, tmp_path: Path) -> None:
    mounted = tmp_path / "other" if workspace else repository
    result = script(repository, "backup.sh", "save", folder.format(mounted), workspace=workspace)
    if "elsewhere" in folder:
        assert result.returncode == 0, result.stderr
        assert "asked" in (tmp_path / "elsewhere/mlflow.dump").read_text()
    else:
        assert result.returncode == 1
        assert "lies in the workspace, which the trainer reads" in result.stderr
        assert not list(mounted.glob("**/*.dump"))


@pytest.mark.parametrize("script", sorted(path.name for path in DOCKER.glob("*.sh")))
def test_scripts_are_valid_shell(script: str) -> None:
    shell = (DOCKER / script).read_text(encoding="utf-8").splitlines()[0].rpartition("/")[2].split()[-1]
    subprocess.run([shell, "-n", str(DOCKER / script)], check=True)
