"""A stage of several processes as a command or a manifest for an engine that starts it: docker, Kubeflow Trainer.

Either runs `torchrun` with the stage's own command; launch.py is what the processes do then. The engine schedules,
starts again and elects; here is only written down what it is asked for.
"""

from pathlib import Path
from typing import Any

from troupe.layout import EFFECTIVE_PARAMS
from troupe.params import RunParams
from troupe.training.launch import ENDPOINT, FRESH_STORE, LAST_STEP, torchrun_options

WORKSPACE = "/workspace"  # in the containers of docker/Dockerfile
PASSED_ON = (
    ENDPOINT,
    "GLOO_SOCKET_IFNAME",
    "NCCL_SOCKET_IFNAME",
)  # from the shell into the container, where they are set
RUNTIME = "torch-distributed"  # the ClusterTrainingRuntime that comes with Kubeflow Trainer
SECRETS = "docker/.env"  # of the stack in docker/compose.yaml, which are none of a trainer's business
VOLUME = "workspace"
ABOUT_THE_MANIFEST = """\
# For `kubectl create --filename -`: its name is generated, so that every start is a job of its own (`kubectl apply`
# wants a fixed one). Two at once write into one folder: `kubectl delete trainjob NAME` ends the one before.
"""


def stage_command(stage: str) -> list[str]:
    """Arguments of Python: what dvc.yaml runs, on the parameters of the pipeline's run."""
    return ["-m", f"troupe.stages.{stage}", "--params", EFFECTIVE_PARAMS.as_posix()]


def image_for(run: RunParams) -> str:
    """The image of docker/compose.yaml that has what `run.device` needs."""
    return "troupe-trainer-gpu" if run.device == "cuda" else "troupe-trainer-cpu"


def docker_command(stage: str, run: RunParams, image: str, workspace: Path) -> list[str]:
    """`docker run ...` to be typed on each of `run.nodes` machines; `workspace` is this folder, as those see it."""
    network = [f"--env={name}" for name in PASSED_ON] if run.nodes > 1 else []
    return [
        *("docker", "run", "--rm", "--init", "--ipc=host", f"--stop-timeout={LAST_STEP}"),
        *(["--gpus=all"] if run.device == "cuda" else []),
        *(["--network=host", *network] if network else []),
        f"--env={'='.join(FRESH_STORE)}",
        f"--volume={workspace}:{WORKSPACE}",
        *([f"--volume=/dev/null:{WORKSPACE}/{SECRETS}:ro"] if (workspace / SECRETS).exists() else []),
        image,
        *("torchrun", *torchrun_options(stage, run), *stage_command(stage)),
    ]


def train_job(stage: str, run: RunParams, image: str, claim: str) -> dict[str, Any]:
    """A TrainJob of Kubeflow Trainer 2.2 or newer (trainer.kubeflow.org/v1alpha1).

    The PersistentVolumeClaim `claim` (ReadWriteMany where there are several nodes) holds the workspace. Nodes find each
    other at the first of them, whose name Trainer says in variables of torchrun's.
    """
    meet = ["--rdzv-endpoint=$(PET_MASTER_ADDR):$(PET_MASTER_PORT)"] if run.nodes > 1 else []
    name, value = FRESH_STORE
    mount = {"name": VOLUME, "mountPath": WORKSPACE}
    pod = {
        "volumes": [{"name": VOLUME, "persistentVolumeClaim": {"claimName": claim}}],
        "containers": [{"name": "node", "volumeMounts": [mount]}],
    }
    patch = {"replicatedJobs": [{"name": "node", "template": {"spec": {"template": {"spec": pod}}}}]}
    gpus = {"resourcesPerNode": {"limits": {"nvidia.com/gpu": str(run.processes_per_node)}}}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"generateName": f"troupe-{stage}-"},
        "spec": {
            "runtimeRef": {"name": RUNTIME},
            "trainer": {
                "image": image,
                "command": ["torchrun", *torchrun_options(stage, run), *meet],
                "args": stage_command(stage),
                "env": [{"name": name, "value": value}],
                "numNodes": run.nodes,
                "numProcPerNode": run.processes_per_node,
                **(gpus if run.device == "cuda" else {}),
            },
            "runtimePatches": [{"manager": "troupe", "trainingRuntimeSpec": {"template": {"spec": patch}}}],
        },
    }
