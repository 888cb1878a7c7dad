"""What docker/compose.yaml, docker/Dockerfile and .dockerignore promise, read without an engine; check.sh runs them."""

import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet
from ruamel.yaml import YAML

from pipelines.alive import LAST_LOOK
from troupe import environment
from troupe.layout import STATE

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
SERVERS = {"mlflow": "MLFLOW_TRACKING_URI", "prefect": "PREFECT_API_URL"}
STATEFUL = [*SERVERS, "postgres"]
TRAINERS = {"trainer-cpu": "cpu", "trainer-gpu": "gpu"}
SERVICES = [*STATEFUL, *TRAINERS]
QUIET = re.compile(r"DO_NOT_TRACK|TELEMETRY|ANALYTICS|PROMOTIONAL|PICKLE")
SECRET = re.compile(r"password|passwd|secret|token|credential|api_?key|private|auth_?string", re.IGNORECASE)


@dataclass(frozen=True)
class Stage:
    parent: str
    instructions: list[tuple[str, str]]  # (RUN, its argument with line ends removed)


def _compose() -> dict[str, Any]:
    """The compose file as it stands for a user who has set no variable, with YAML's merge keys resolved."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    return dict(YAML(typ="safe").load(text))


def _stages() -> dict[str, Stage]:
    lines = (DOCKER / "Dockerfile").read_text(encoding="utf-8").splitlines()
    joined = re.sub(r"\\\n\s*", "", "\n".join(line for line in lines if not line.lstrip().startswith("#")))
    stages: dict[str, Stage] = {}
    for instruction, argument in (line.split(maxsplit=1) for line in joined.splitlines() if line):
        if instruction == "FROM":
            parent, _, name = argument.partition(" AS ")
            stages[name] = stage = Stage(parent, [])
        elif stages:  # before the first FROM stands what bases are
            stage.instructions.append((instruction, argument))
    return stages


COMPOSE, STAGES = _compose(), _stages()


def lineage(target: str) -> list[tuple[str, str]]:
    """All instructions that make a target, its ancestors' first."""
    if target not in STAGES:
        return []
    return lineage(STAGES[target].parent) + STAGES[target].instructions


def arguments(target: str, instruction: str) -> list[str]:
    return [argument for name, argument in lineage(target) if name == instruction]


def service(name: str) -> dict[str, Any]:
    return dict(COMPOSE["services"][name])


def test_no_service_is_missing_and_none_goes_unchecked() -> None:
    assert set(COMPOSE["services"]) == set(SERVICES)


def test_old_and_new_compose_read_the_file() -> None:
    assert not {"name", "version"} & COMPOSE.keys(), "compose 1.29 refuses name, compose 2 warns of version"


@pytest.mark.security("published ports are on loopback")
@pytest.mark.parametrize("name", SERVICES)
def test_published_ports_are_on_loopback(name: str) -> None:
    for port in service(name).get("ports", []):
        host, _, container = port.split(":")
        assert host == "127.0.0.1"
        assert arguments(name, "EXPOSE") == [container]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_builds_a_target_of_its_name(name: str) -> None:
    build = service(name)["build"]
    assert build["target"] == name in STAGES
    assert (DOCKER / build["context"]).resolve() == ROOT
    assert ROOT / build["dockerfile"] == DOCKER / "Dockerfile"


@pytest.mark.security("no service is root or can become it")
@pytest.mark.parametrize("name", SERVICES)
def test_no_service_is_root_or_can_become_it(name: str) -> None:
    assert arguments(name, "USER")[-1] == "${TROUPE_UID}"
    assert ("ARG", "TROUPE_UID=1000") in STAGES[name].instructions, "of another stage it may be unknown here"
    assert not {"user", "privileged", "cap_add"} & service(name).keys()
    assert service(name)["cap_drop"] == ["ALL"]
    assert service(name)["security_opt"] == ["no-new-privileges:true"]
    declared = {argument.partition("=")[0] for argument in arguments(name, "ARG")}
    assert service(name)["build"]["args"].keys() <= declared


@pytest.mark.security("no image and no service carries a secret")
@pytest.mark.parametrize("name", SERVICES)
def test_no_image_or_service_carries_a_secret(name: str) -> None:
    names = re.findall(r"([A-Z_]+)=", " ".join(arguments(name, "ENV") + arguments(name, "ARG")))
    assert names
    assert not [one for one in names if SECRET.search(one)]
    given = {one: value for one, value in service(name)["environment"].items() if SECRET.search(one)}
    assert given
    assert not [one for one, value in given.items() if not re.fullmatch(r"\$\{[A-Z_]+:\?run make init\}", value)]


@pytest.mark.security("containers: secrets are made once, for their user alone, and required")
def test_secrets_are_made_once_and_are_all_that_is_required(tmp_path: Path) -> None:
    script = shutil.copy(DOCKER / "init.sh", tmp_path)
    for _ in range(2):
        subprocess.run(["sh", script], check=True, capture_output=True)
        made = (tmp_path / ".env").read_text()
    assert subprocess.run(["sh", script], check=True, capture_output=True, text=True).stdout.count("\n") == 1
    assert (tmp_path / ".env").read_text() == made, "a second time nothing changes"
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    secrets = dict(line.split("=") for line in made.splitlines())
    required = set(re.findall(r"\$\{([A-Z_]+):\?", (DOCKER / "compose.yaml").read_text()))
    assert secrets.keys() == required
    assert len(set(secrets.values())) == 5
    assert all(re.fullmatch(r"(troupe:)?[0-9a-f]{48}", secret) for secret in secrets.values())


@pytest.mark.security("containers: images are read-only, memory, processors and logs are bounded")
@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_bounded_and_cannot_change_its_image(name: str) -> None:
    assert service(name)["read_only"] is True
    assert any(place.startswith("/tmp") for place in service(name)["tmpfs"])
    assert service(name)["init"] is True
    assert {"mem_limit", "cpus"} <= service(name).keys()
    assert service(name)["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}}


def test_nothing_enters_an_image_unless_it_is_named() -> None:
    """Every pattern but the first, `*`, and the last ones, which narrow, names one thing that this repository has."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert patterns[0] == "*"
    named = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    assert not [one for one in named if "*" in one]
    assert not [one for one in named if one != "dvc.lock" and not (ROOT / one).exists()]


@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainer_waits_for_healthy_servers_and_knows_where_they_are(name: str) -> None:
    assert service(name)["profiles"] == [TRAINERS[name]]
    for server, variable in SERVERS.items():
        assert service(name)["depends_on"][server] == {"condition": "service_healthy"}
        address = f"http://{server}:{arguments(server, 'EXPOSE')[0]}"
        assert service(name)["environment"][variable].startswith(address)


@pytest.mark.parametrize("name", TRAINERS)
def test_what_a_trainer_measures_of_its_machine_outlives_the_container(name: str) -> None:
    mount = service(name)["volumes"][0].rpartition(":")[2]
    assert f"TROUPE_CACHE={mount}/{STATE}" in arguments(name, "ENV")


@pytest.mark.security("containers: the trainer sees nothing of the file with the stack's secrets")
@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainer_has_an_empty_file_in_place_of_the_secrets(name: str) -> None:
    workspace, secrets = service(name)["volumes"]
    assert secrets == f"/dev/null:{workspace.rpartition(':')[2]}/docker/.env:ro"
    assert "docker/.env" not in (ROOT / ".dockerignore").read_text()


@pytest.mark.parametrize("name", STATEFUL)
def test_a_server_is_asked_for_its_health_and_keeps_its_state_in_a_volume(name: str) -> None:
    asks = f"http://127.0.0.1:{arguments(name, 'EXPOSE')[0]}" if name in SERVERS else "pg_isready"
    assert asks in arguments(name, "HEALTHCHECK")[0]
    assert service(name)["volumes"] == [f"{name}:{arguments(name, 'WORKDIR')[-1]}"]
    assert name in COMPOSE["volumes"]


@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainer_is_asked_when_it_last_looked_at_its_server(name: str) -> None:
    assert f"/workspace/{LAST_LOOK}" in service(name)["healthcheck"]["test"]


@pytest.mark.parametrize("name", SERVERS)
def test_the_servers_keep_their_state_in_postgres(name: str) -> None:
    assert service(name)["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    place = " ".join(arguments(name, "CMD") + arguments(name, "ENV"))
    database = re.search(r"postgresql\S*://troupe@postgres/(\w+)", place)
    assert database, "and the password comes with the environment"
    assert database[1] in (DOCKER / "postgres.sh").read_text()


def test_mlflow_answers_the_stack_and_who_has_a_password() -> None:
    assert arguments("mlflow", "ENTRYPOINT") == ['["python", "/opt/mlflow_start.py"]'], "it makes the users"
    assert "mlflow:*" in arguments("mlflow", "CMD")[0], "or the trainer gets 403"
    assert '"--app-name", "basic-auth"' in arguments("mlflow", "CMD")[0]


@pytest.mark.parametrize("name", SERVICES)
def test_only_the_gpu_profile_reserves_a_gpu(name: str) -> None:
    devices = service(name).get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
    assert [device["driver"] for device in devices] == (["nvidia"] if name == "trainer-gpu" else [])
    assert all("gpu" in device["capabilities"] for device in devices)


def test_every_base_image_is_one_pinned_python_that_the_project_supports() -> None:
    bases = {stage.parent for stage in STAGES.values()} - STAGES.keys()
    assert bases == {"${PYTHON}"}
    [python] = re.findall(r"^ARG PYTHON=(.*)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    assert re.fullmatch(r"python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", python)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "3.11" in SpecifierSet(project["requires-python"])


def test_every_package_comes_from_the_lock() -> None:
    commands = [command for name, stage in STAGES.items() for command in _pip_installs(stage)]
    assert len(commands) == 8  # setuptools, mlflow, prefect; each trainer's packages and link to the project; tests
    fetching = [command for command in commands if "--no-index --no-deps" not in command]
    assert not [command for command in fetching if "--constraint constraints.txt" not in command]


@pytest.mark.parametrize("packages", ["mlflow-packages", "prefect-packages", "cpu-packages", "gpu-packages"])
def test_only_what_is_required_and_the_lock_stand_before_the_packages(packages: str) -> None:
    """So a change of a source rebuilds nothing that takes minutes."""
    required = "--from=requirements /workspace/requirements.txt ./"
    assert set(arguments(packages, "COPY")) <= {"constraints.txt ./", required}


def test_only_the_cpu_trainer_asks_another_index() -> None:
    asking = [name for name, stage in STAGES.items() if any("index-url" in command for command in _pip_installs(stage))]
    assert asking == ["cpu-packages"]


def test_the_trainers_differ_in_nothing_but_their_packages() -> None:
    cpu, gpu = (str(STAGES[name]).replace(profile, "X") for name, profile in TRAINERS.items())
    assert cpu == gpu


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_as_quiet_as_the_pipeline(name: str) -> None:
    given = dict(pair.split("=", 1) for argument in arguments(name, "ENV") for pair in argument.split())
    assert {switch for switch in environment.DEFAULTS if QUIET.search(switch)} <= given.keys()
    assert not [switch for switch, value in environment.DEFAULTS.items() if given.get(switch, value) != value]


def _pip_installs(stage: Stage) -> list[str]:
    runs = [argument for instruction, argument in stage.instructions if instruction == "RUN"]
    return [command for run in runs for command in run.split("&&") if "pip install" in command]
