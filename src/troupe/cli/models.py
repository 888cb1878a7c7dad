"""`troupe verify | describe | export | params | profiles`: look at a model or at the parameters."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from troupe import layout
from troupe.cli.common import CHAMPION, ModelOption, Profile, Set, app, folder_of, open_model, parameters
from troupe.errors import ParamsError

if TYPE_CHECKING:
    from troupe.inspection.shapes import Shape
    from troupe.params import Params, TrainParams


@app.command()
def verify(model: Annotated[str, typer.Argument(help=f"A stage, a folder, or e.g. {CHAMPION}.")]) -> None:
    """Check that a model's files are the ones that were written or registered."""
    bundle = open_model(model)
    print(f"{model}: whole, sha256 {bundle.sha256}")


@app.command("describe")
def describe_model(
    model: Annotated[
        str,
        typer.Option(
            help=f"A stage, a folder (also Hugging Face's), a GGUF file, gpt2, {CHAMPION}; else what --set says."
        ),
    ] = "",
    overrides: Set = "",
    profile: Profile = "",
    batch: Annotated[int, typer.Option(min=0, help="Sequences; 0: the batch_size of its stage.")] = 0,
    context: Annotated[int, typer.Option(min=0, help="Tokens; 0: all that the model can see.")] = 0,
    vocab: Annotated[int, typer.Option(min=0, help="Size of the vocabulary; 0: what tokens.kind gives.")] = 0,
) -> None:
    """Print a model's parts, work per token and memory. Without --model: those that params.yaml asks for, unbuilt."""
    wanted = parameters(overrides, profile)
    from rich.console import Console

    from troupe.inspection.shapes import shapes_wanted
    from troupe.inspection.tables import describe

    if model and vocab:
        raise ParamsError(f"--vocab {vocab}: {model} has its own; leave one of the two out")
    for name, shape in ({model: _shape(model)} if model else shapes_wanted(wanted, vocab)).items():
        seen = context or shape.block_size
        if seen > shape.block_size:
            raise ParamsError(f"--context {seen}: {name} sees {shape.block_size} tokens")
        describe(name, shape.build, _training(wanted, shape), batch or _batch(wanted, shape), seen, Console())


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    model: ModelOption = "pretrain",
    form: Annotated[
        Literal["huggingface", "gguf"], typer.Option("--format", help="For transformers, or a GGUF file.")
    ] = "huggingface",
) -> None:
    """Write a model of the shape of GPT-2, Llama or Qwen3 for transformers; of the last two as a GGUF file, too."""
    bundle = open_model(model)
    from troupe.bundles.export import export_model
    from troupe.conversion.attention import folded
    from troupe.models.tilted import Tilted, untilted

    network = folded(untilted(bundle.model) if isinstance(bundle.model, Tilted) else bundle.model)
    if form == "gguf":
        from troupe.bundles.export_gguf import export_gguf

        export_gguf(folder, network, bundle.tokenizer)
    else:
        export_model(folder, network, bundle.tokenizer)
    if isinstance(bundle.model, Tilted):
        print(f"{model}: its tilt and its n-grams stay behind; what is exported is its network alone")
    if form == "gguf":
        print(f"{folder}: model.gguf, and a Modelfile for `ollama create NAME -f {folder / 'Modelfile'}`")
    else:
        print(f"{folder}: open it with transformers' AutoModelForCausalLM.from_pretrained({str(folder)!r})")


@app.command()
def params(overrides: Set = "", profile: Profile = "") -> None:
    """Check params.yaml and print it, with a profile and overrides laid over it."""
    from ruamel.yaml import YAML

    YAML().dump(parameters(overrides, profile).model_dump(), sys.stdout)


def _training(params: "Params", shape: "Shape") -> "TrainParams | None":
    """The section of a stage that trains by likelihood."""
    return {"pretrain": params.pretrain, "moe": params.moe}.get(shape.stage)


def _batch(params: "Params", shape: "Shape") -> int:
    """Sequences that the model's stage takes at once: the adversarial one, those of its method that takes most."""
    if training := _training(params, shape):
        return training.batch_size
    from troupe.adversarial.texts import AT_ONCE

    methods = params.adversarial.active().values()
    return max((getattr(one, "batch_size", AT_ONCE) for one in methods), default=AT_ONCE)


def _shape(model: str) -> "Shape":
    """The shape of a model of troupe's or of public weights; only the registry's are read whole for it."""
    from troupe.data.gguf import is_gguf
    from troupe.data.public import fetch_from_hub, is_hub_name
    from troupe.inspection import shapes

    if model.startswith("models:"):
        return shapes.shape_of(open_model(model).config)
    if is_gguf(Path(model)):
        return shapes.shape_in(Path(model))
    if is_hub_name(model) and not Path(model).is_dir():
        return shapes.shape_in(fetch_from_hub(model))
    return shapes.shape_in(folder_of(model))


@app.command()
def profiles() -> None:
    """List the profiles: what each is, how long it takes on which hardware, and what comes out."""
    from troupe.overlay import profiles as known

    for name, about in known(layout.PARAMS).items():
        print(f"  {name:<12} {about.get('what', '')}".rstrip())
        if {"time", "hardware", "figure", "measured"} <= about.keys():
            print(f"{'':15}{about['time']} on {about['hardware']}; {about['figure']} ({about['measured']})")
