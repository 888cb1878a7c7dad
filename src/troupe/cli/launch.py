"""`troupe launch`: start a training stage's processes on this machine, or print what starts them elsewhere."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from troupe import layout
from troupe.cli.common import app
from troupe.errors import ArtifactError
from troupe.lock import workspace_lock


@app.command()
def launch(
    stage: Annotated[Literal["pretrain", "moe"], typer.Argument(help="What to train.")],
    image: Annotated[str, typer.Option(help="For docker and kubernetes; by default the trainer of `make image`.")] = "",
    claim: Annotated[str, typer.Option(help="For kubernetes: the PersistentVolumeClaim with this folder.")] = "troupe",
) -> None:
    """Start a stage's processes as run.launcher says: here (local, torchrun), or print what does (docker, kubernetes).

    With torchrun it is to be typed on each of run.nodes machines, in the same folder.
    The parameters are those of artifacts/params.yaml, what the last `make pipeline` was asked for.
    """
    if not layout.EFFECTIVE_PARAMS.exists():
        raise ArtifactError(f"{layout.EFFECTIVE_PARAMS}: not there; `make pipeline` writes it and prepares the text")
    from troupe.params import load_params
    from troupe.training.elsewhere import ABOUT_THE_MANIFEST, docker_command, image_for, stage_command, train_job

    run = load_params(layout.EFFECTIVE_PARAMS).run
    image = image or image_for(run)
    if run.launcher == "docker":
        print(shlex.join(docker_command(stage, run, image, Path.cwd())))
    elif run.launcher == "kubernetes":
        from ruamel.yaml import YAML

        print(ABOUT_THE_MANIFEST, end="")
        YAML().dump(train_job(stage, run, image, claim), sys.stdout)
    else:
        with workspace_lock():
            pass  # a pipeline that is at work here has the workspace to itself
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *stage_command(stage)])
