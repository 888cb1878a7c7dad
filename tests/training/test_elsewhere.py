"""What other engines are given to start a stage: the command for docker, the manifest for Kubeflow Trainer."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob
from ruamel.yaml import YAML
from torch.distributed.run import config_from_args, parse_args
from typer.testing import CliRunner

from tests.conftest import ROOT
from tests.workspace import NUMERICS, PROFILE, clone, succeed
from tests.workspace import run as start
from troupe.bundles.bundle import found_identity
from troupe.cli.common import app
from troupe.errors import ArtifactError
from troupe.files import write_json
from troupe.layout import EFFECTIVE_PARAMS, TOKENS, model_dir
from troupe.params import Params, RunParams, dump_params, load_params
from troupe.training import made_from
from troupe.training.elsewhere import docker_command, train_job
from troupe.training.launch import side_by_side
from troupe.training.made_from import note_of, noted, require_made_from_this

NEXT = """
import sys
from pipelines.repro import changed_stages
from pipelines.workspace import claim
from troupe.errors import TroupeError
try:
    with claim(*sys.argv[1:]) as run:
        print(changed_stages(run))
except TroupeError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""
STAGE_COMMAND = ["-m", "troupe.stages.pretrain", "--params", "artifacts/params.yaml"]


def run(*overrides: str) -> RunParams:
    return load_params(ROOT / "params.yaml", [f"run.{override}" for override in overrides]).run


@pytest.mark.parametrize("overrides", [("device=cpu",), ("device=cuda", "nodes=8", "processes=32")])
def test_the_manifest_is_a_train_job_of_trainer_2_2(overrides: tuple[str, ...]) -> None:
    """Read and written by Trainer's own classes it is the same: they drop what the API does not have."""
    manifest = train_job("pretrain", run("launcher=kubernetes", *overrides), "registry/troupe:1", "work")
    job = TrainerV1alpha1TrainJob.from_dict(manifest)
    assert job is not None
    assert job.to_dict() == manifest


def test_the_manifest_says_how_many_of_what_run_where() -> None:
    wanted = run("launcher=kubernetes", "device=cuda", "nodes=8", "processes=32")
    spec = train_job("pretrain", wanted, "registry/troupe:1", "work")["spec"]
    trainer = spec["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (8, 4)
    assert trainer["resourcesPerNode"] == {"limits": {"nvidia.com/gpu": "4"}}
    assert trainer["command"][0] == "torchrun"
    assert "--rdzv-endpoint=$(PET_MASTER_ADDR):$(PET_MASTER_PORT)" in trainer["command"]
    assert "--max-restarts=3" in trainer["command"]
    assert trainer["args"] == STAGE_COMMAND
    (patch,) = spec["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]["spec"]
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "work"}
    assert pod["containers"][0]["volumeMounts"] == [{"name": "workspace", "mountPath": "/workspace"}]


def test_what_docker_runs_torchrun_understands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PET_RDZV_ENDPOINT", "one:29400")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # torchrun sets it where it is not
    command = docker_command("pretrain", run("launcher=docker", "device=cuda", "nodes=2", "processes=8"), "image", ROOT)
    assert {"--gpus=all", "--network=host", "--env=PET_RDZV_ENDPOINT", f"--volume={ROOT}:/workspace"} <= set(command)
    torchrun = command.index("torchrun")
    assert command[torchrun - 1] == "image"
    config, _, arguments = config_from_args(parse_args(command[torchrun + 1 :]))
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (2, 2, 4)
    assert (config.rdzv_backend, config.rdzv_endpoint, config.run_id) == ("c10d", "one:29400", "troupe-pretrain")
    assert arguments[-len(STAGE_COMMAND) :] == STAGE_COMMAND


def test_on_one_machine_docker_needs_no_network() -> None:
    command = docker_command("moe", run("launcher=docker", "device=cpu", "processes=2"), "image", ROOT)
    assert not [word for word in command if word.startswith(("--gpus", "--network", "--env=PET"))]
    assert "--rdzv-endpoint=localhost:0" in command


def test_docker_is_not_shown_the_secrets_of_the_stack(tmp_path: Path) -> None:
    def volumes() -> list[str]:
        wanted = run("launcher=docker", "device=cpu")
        return [word for word in docker_command("moe", wanted, "image", tmp_path) if word.startswith("--volume=")]

    assert volumes() == [f"--volume={tmp_path}:/workspace"]
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker/.env").touch()
    assert volumes()[1:] == ["--volume=/dev/null:/workspace/docker/.env:ro"]


def test_the_command_prints_what_the_last_run_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for launcher in ("docker", "kubernetes"):
        overrides = [f"run.launcher={launcher}", "run.device=cpu", "run.processes=2"]
        dump_params(load_params(ROOT / "params.yaml", overrides), EFFECTIVE_PARAMS)
        said = CliRunner().invoke(app, ["launch", "pretrain", "--image", "mine"], catch_exceptions=False).stdout
        if launcher == "docker":
            assert shlex.split(said)[:2] == ["docker", "run"]
            assert f"{tmp_path}:/workspace mine torchrun" in said
        else:
            assert said.startswith("# For `kubectl create")
            job = YAML(typ="safe").load(said)
            assert job["spec"]["trainer"]["image"] == "mine"
            assert job["metadata"] == {"generateName": "troupe-pretrain-"}, "or a second one would be refused"


def md5_of(lock: Path) -> str:
    """What dvc.lock says of the folder that pretrain has written."""
    outs = YAML(typ="safe").load(lock.read_text())["stages"]["pretrain"]["outs"]
    return str(outs[0]["md5"])


@pytest.mark.slow
def test_what_an_engine_has_trained_is_taken_for_what_the_stage_made(tmp_path: Path) -> None:
    """As docs/scale.md has it, with what the container would run: the pipeline stops, the engine trains, it goes on."""
    folder = clone(tmp_path / "clone")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    settings = f"{NUMERICS} run.launcher=docker run.device=cpu run.processes=2"
    asked = {"TROUPE_PROFILE": PROFILE, "TROUPE_SET": settings, "PATH": path}
    stopped = start(folder, "-m", "dvc", "repro", "pretrain", **asked)
    assert stopped.returncode
    assert "pretrain: run.launcher: docker trains this stage: `troupe launch pretrain`" in stopped.stderr

    command = shlex.split(succeed(start(folder, "-m", "troupe.cli", "launch", "pretrain")).stdout)
    inside = command[command.index("torchrun") + 1 :]
    succeed(start(folder, "-m", "torch.distributed.run", *inside))
    before = found_identity(folder / "artifacts/pretrain")

    refused = start(folder, "-c", NEXT, f"{asked['TROUPE_SET']} pretrain.grad_clip=0.5", PROFILE, PATH=path)
    assert refused.returncode == 2
    assert refused.stderr == (
        "artifacts/pretrain: was trained elsewhere with pretrain.grad_clip=1.0, not 0.5; ask for the same again, or "
        "remove the folder to have it trained anew\n"
    )
    local = asked["TROUPE_SET"].replace("docker", "local")  # no result depends on who starts the processes
    taken = succeed(start(folder, "-c", NEXT, local, PROFILE, PATH=path))
    assert taken.stdout.splitlines() == [
        "pretrain: taken as it was trained elsewhere",
        "['moe', 'adversarial', 'evaluate']",
    ]
    assert found_identity(folder / "artifacts/pretrain") == before
    again = succeed(start(folder, "-c", NEXT, asked["TROUPE_SET"], PROFILE, PATH=path))
    assert again.stdout.splitlines() == ["['moe', 'adversarial', 'evaluate']"]
    lock = folder / "dvc.lock"  # as in a clone that has pulled nothing: it names a result that the cache does not have
    locked = lock.read_text().replace(md5_of(lock), "0" * 32 + ".dir")
    lock.write_text(locked)
    taken = succeed(start(folder, "-c", NEXT, asked["TROUPE_SET"], PROFILE, PATH=path))
    assert taken.stdout.splitlines()[0] == "pretrain: taken as it was trained elsewhere"
    assert found_identity(folder / "artifacts/pretrain") == before


def test_the_note_of_what_a_result_was_made_from_names_the_first_difference(
    workspace: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")

    def pretrain(params: Params) -> None:
        write_json(model_dir("pretrain") / "weights.json", params.run.seed)

    def other(**fields: Any) -> Params:
        return workspace.model_copy(update={"run": workspace.run.model_copy(update=fields)})

    noted(pretrain)(workspace)
    require_made_from_this("pretrain", other(launcher="torchrun"))
    with pytest.raises(ArtifactError, match=r"artifacts/pretrain: was trained elsewhere with run.seed=1337, not 7;"):
        require_made_from_this("pretrain", other(seed=7))
    with monkeypatch.context() as patch:
        patch.setattr(made_from, "code_digest", lambda module: "0" * 32)
        with pytest.raises(ArtifactError, match="with other code;"):
            require_made_from_this("pretrain", workspace)
    (TOKENS / "more").touch()
    with pytest.raises(ArtifactError, match="with another artifacts/tokens;"):
        require_made_from_this("pretrain", workspace)
    (TOKENS / "more").unlink()
    write_json(model_dir("pretrain") / "weights.json", 8)
    with pytest.raises(ArtifactError, match="artifacts/pretrain: its files are not those that were trained elsewhere;"):
        require_made_from_this("pretrain", workspace)


def test_a_stage_that_trains_here_has_no_note_of_another_engine(workspace: Params) -> None:
    def pretrain(params: Params) -> None:
        assert not note_of("pretrain").exists(), "of an earlier one"

    write_json(note_of("pretrain"), {})
    side_by_side(pretrain)(workspace)
    assert not note_of("pretrain").exists()
