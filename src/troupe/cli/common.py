"""What the commands share: the application, types of options, and how a model or the parameters are named."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from troupe import layout
from troupe.errors import ArtifactError

if TYPE_CHECKING:
    from troupe.bundles.bundle import Bundle
    from troupe.params import Params

CHAMPION = "models:/troupe@champion"

app = typer.Typer(
    help="Use and look after the models that `make pipeline` makes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ModelOption = Annotated[str, typer.Option(help=f"A stage (pretrain, moe, adversarial), a folder, or e.g. {CHAMPION}.")]
Set = Annotated[str, typer.Option("--set", help='Parameters over params.yaml, e.g. "pretrain.steps=500 run.seed=7".')]
Profile = Annotated[str, typer.Option(help="A profile between params.yaml and --set, e.g. cpu-hours.")]


def parameters(overrides: str, profile: str) -> "Params":
    """params.yaml with the profile and the overrides of the environment and of the command laid over it."""
    from troupe.overlay import split_overrides
    from troupe.params import load_params
    from troupe.stages.common import overrides_from_environment, profile_from_environment

    both = [*overrides_from_environment(), *split_overrides(overrides)]
    return load_params(layout.PARAMS, both, profile or profile_from_environment())


def open_model(model: str) -> "Bundle":
    """The model of a stage, in a folder or in the registry; its weights are checked on the way."""
    if model.startswith("models:"):
        from troupe.registry import fetch

        return fetch.load(model)
    from troupe.bundles.architectures import load_bundle

    return load_bundle(folder_of(model))


def folder_of(model: str) -> Path:
    """The folder of a stage's model, or the one that is named. Raises ArtifactError if there is none."""
    folder = layout.model_dir(model) if model in layout.MODEL_STAGES else Path(model)
    if not folder.is_dir():
        known = ", ".join(layout.MODEL_STAGES)
        raise ArtifactError(
            f"{model}: no such model; name a stage ({known}; `make pipeline` makes them), a folder or {CHAMPION}"
        )
    return folder
