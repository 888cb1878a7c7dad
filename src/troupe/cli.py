"""The command `troupe`: generate text, look at and change what is registered, check parameters.

What takes seconds to import (torch, mlflow) is imported by the commands that need it, so that `troupe --help` is quick.
"""

import codecs
import io
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from troupe import stopping

if STARTED := __name__ == "__main__" or Path(sys.argv[0]).name == "troupe":
    stopping.end_at_once("troupe")

import typer

from troupe import environment, layout
from troupe.errors import ArtifactError, ParamsError, TroupeError
from troupe.lock import workspace_lock

if TYPE_CHECKING:
    from troupe.decoding import Decoding
    from troupe.inspection.shapes import Shape
    from troupe.models.bundle import Bundle
    from troupe.params import Params
    from troupe.registry.versions import Version

REFUSED = 3  # exit status of a promotion that the gate has refused
CHAMPION = "models:/troupe@champion"

app = typer.Typer(
    help="Use and look after the models that `make pipeline` makes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[str, typer.Option(help=f"A stage (pretrain, moe, adversarial), a folder, or e.g. {CHAMPION}.")]
Set = Annotated[str, typer.Option("--set", help='Parameters over params.yaml, e.g. "pretrain.steps=500 run.seed=7".')]
Profile = Annotated[str, typer.Option(help="A profile between params.yaml and --set, e.g. cpu-hours.")]


def main() -> None:
    """The entry point: one line on standard error and an exit status for what a user can mend."""
    environment.prepare()
    if STARTED:
        stopping.as_usual("troupe")
    try:
        app()
    except TroupeError as error:
        print(f"troupe: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


@app.command()
def generate(
    prompt: Annotated[str, typer.Option(help="What the text begins with.")],
    model: Model = CHAMPION,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to add.")] = 200,
    temperature: Annotated[float, typer.Option(help="Below 1 sharper, above 1 wilder.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Draw from the k likeliest tokens; 0: from all.")] = 50,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest that have this probability together.")] = 0.95,
    min_p: Annotated[float, typer.Option(help="Draw from tokens this many times as likely as the likeliest.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: tokens seen before become less likely.")] = 1.0,
    greedy: Annotated[bool, typer.Option("--greedy", help="Take the likeliest token instead of drawing.")] = False,
    stop: Annotated[bool, typer.Option(help="End where the model ends the text (<|endoftext|> of gpt2).")] = True,
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same text; without one, a fresh one.")
    ] = None,
) -> None:
    """Continue a prompt, token by token as the model makes them, or span by span where a sampler chooses.

    A prompt longer than the model's context is continued from its end, and standard error says so.
    """
    if not prompt:
        raise ParamsError("--prompt is empty; give at least one character")
    if max_new_tokens < 1:
        raise ParamsError(f"--max-new-tokens must be at least 1, got {max_new_tokens}")
    from troupe.decoding import Decoding

    decoding = Decoding(repetition_penalty, temperature, top_k or None, top_p, min_p, greedy)
    _continue(_open(model), prompt, max_new_tokens, decoding, secrets.randbits(63) if seed is None else seed, stop)


@app.command()
def promote(
    overrides: Set = "",
    profile: Profile = "",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="As if there were no champion: for text or a judge that has changed.")
    ] = False,
) -> None:
    """Put the candidate in reports/metrics.json through the gate; exit status 3 if it is refused.

    By the rule of the run that measured it, unless parameters are given.
    """
    rule = _judged_params(overrides, profile).promote
    from troupe.registry import release

    with workspace_lock():
        decision = release.promote(rule, fresh)
    what = f"{decision.stage} ({decision.candidate.uri})"
    if decision.released:
        what += f", now champion as {decision.released.uri}"
    refused = decision.verdict.outcome == "refused"
    out = sys.stderr if refused else sys.stdout
    print(f"{decision.verdict.outcome}: {what}", *decision.verdict.reasons, sep="\n  ", file=out)
    if refused:
        raise SystemExit(REFUSED)


@app.command()
def rollback() -> None:
    """Make the previous champion the champion again; a second rollback undoes the first."""
    from troupe.registry import release

    with workspace_lock():
        now, before = release.rollback()
    print(f"champion is {now.uri} again, previous is {before.uri}")


@app.command()
def versions() -> None:
    """List what is registered: versions, aliases, figures on test text, verdicts."""
    from troupe.registry.versions import table

    rows = [_row(version) for version in table()]
    header = ("model", "version", "alias", "bits/byte", "judge", "verdict", "weights", "commit", "run")
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command()
def verify(model: Annotated[str, typer.Argument(help=f"A stage, a folder, or e.g. {CHAMPION}.")]) -> None:
    """Check that a model's files are the ones that were written or registered."""
    bundle = _open(model)
    print(f"{model}: whole, sha256 {bundle.sha256}{' with its sampler' if bundle.resampling else ''}")


@app.command("describe")
def describe_model(
    model: Annotated[
        str, typer.Option(help=f"A stage, a folder (also Hugging Face's), gpt2, {CHAMPION}; else what --set says.")
    ] = "",
    overrides: Set = "",
    profile: Profile = "",
    batch: Annotated[int, typer.Option(min=0, help="Sequences; 0: the batch_size of its stage.")] = 0,
    context: Annotated[int, typer.Option(min=0, help="Tokens; 0: all that the model can see.")] = 0,
    vocab: Annotated[int, typer.Option(min=0, help="Size of the vocabulary; 0: what tokens.kind gives.")] = 0,
) -> None:
    """Print a model's parts, work per token and memory. Without --model: those that params.yaml asks for, unbuilt."""
    parameters = _params(overrides, profile)
    from rich.console import Console

    from troupe.inspection.shapes import shapes_wanted
    from troupe.inspection.tables import describe

    if model and vocab:
        raise ParamsError(f"--vocab {vocab}: {model} has its own; leave one of the two out")
    for name, shape in ({model: _shape(model)} if model else shapes_wanted(parameters, vocab)).items():
        seen = context or shape.block_size
        if seen > shape.block_size:
            raise ParamsError(f"--context {seen}: {name} sees {shape.block_size} tokens")
        of = getattr(parameters, shape.stage)
        describe(name, shape.build, of, batch or of.batch_size, seen, Console())


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    model: Model = "pretrain",
) -> None:
    """Write a model with GPT-2's architecture as a folder for transformers."""
    bundle = _open(model)
    from troupe.models.huggingface import export_gpt2

    export_gpt2(folder, bundle.model, bundle.tokenizer)
    if bundle.resampling:
        print(f"{model}: its sampler is not exported; {folder} writes token by token", file=sys.stderr)
    print(f"{folder}: open it with transformers' AutoModelForCausalLM.from_pretrained({str(folder)!r})")


@app.command()
def params(overrides: Set = "", profile: Profile = "") -> None:
    """Check params.yaml and print it, with a profile and overrides laid over it."""
    from ruamel.yaml import YAML

    YAML().dump(_params(overrides, profile).model_dump(), sys.stdout)


@app.command()
def serve(
    model: Annotated[str, typer.Option(help="A registered model.")] = CHAMPION,
    host: Annotated[str, typer.Option(help="Any but loopback needs TROUPE_SERVE_TOKEN, a password.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 5001,
    waiting: Annotated[int, typer.Option(min=1, help="Texts in the queue, beyond which a client gets 429.")] = 64,
    seconds: Annotated[float, typer.Option(min=0.1, help="Until an answer must be done.")] = 120.0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; more than 1 for models of 50M parameters.")] = 1,
) -> None:
    """Answer over HTTP: OpenAI's /v1/completions, MLflow's /invocations, /health, /metrics, and a page to try it at /.

    A new version at the same alias is taken up while it runs.
    """
    from troupe.serving.run import serve as run
    from troupe.serving.scheduler import Limits

    run(model, host, port, Limits(waiting=waiting, seconds=seconds, threads=threads))


def _params(overrides: str, profile: str) -> "Params":
    from troupe.overlay import split_overrides
    from troupe.params import load_params
    from troupe.stages.common import overrides_from_environment, profile_from_environment

    both = [*overrides_from_environment(), *split_overrides(overrides)]
    return load_params(layout.PARAMS, both, profile or profile_from_environment())


def _judged_params(overrides: str, profile: str) -> "Params":
    """Those of the run whose figures are judged, unless others are asked for."""
    from troupe.params import load_params
    from troupe.stages.common import overrides_from_environment, profile_from_environment

    others = overrides or profile or overrides_from_environment() or profile_from_environment()
    known = layout.EFFECTIVE_PARAMS.exists() and not others
    return load_params(layout.EFFECTIVE_PARAMS) if known else _params(overrides, profile)


def _shape(model: str) -> "Shape":
    """The shape of a model of troupe's or of a GPT-2 of Hugging Face's; only the registry's are read whole for it."""
    from troupe.inspection import shapes
    from troupe.models import hub

    if model.startswith("models:"):
        return shapes.shape_of(_open(model).config)
    if hub.is_hub_name(model) and not Path(model).is_dir():
        return shapes.shape_in(hub.fetch(model))
    return shapes.shape_in(_folder(model))


def _open(model: str) -> "Bundle":
    """The model of a stage, in a folder or in the registry; its weights are checked on the way."""
    if model.startswith("models:"):
        from troupe.registry import fetch

        return fetch.load(model)
    from troupe.models.bundle import load_bundle

    return load_bundle(_folder(model))


def _folder(model: str) -> Path:
    """The folder of a stage's model, or the one that is named. Raises ArtifactError if there is none."""
    folder = layout.model_dir(model) if model in layout.MODEL_STAGES else Path(model)
    if not folder.is_dir():
        known = ", ".join(layout.MODEL_STAGES)
        raise ArtifactError(
            f"{model}: no such model; name a stage ({known}; `make pipeline` makes them), a folder or {CHAMPION}"
        )
    return folder


def _continue(bundle: "Bundle", prompt: str, n_new: int, decoding: "Decoding", seed: int, stop: bool) -> None:
    """Print the prompt and what follows, as it comes; a character that two tokens share waits for the second."""
    import torch

    from troupe.resampling import stream
    from troupe.seeding import derive_seed

    ids, block_size = bundle.tokenizer.encode(prompt), bundle.model.config.block_size
    if len(ids) > block_size:
        print(f"troupe: the prompt has {len(ids)} tokens; the model sees the last {block_size}", file=sys.stderr)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for a terminal that does not speak UTF-8
    sys.stdout.write(bundle.tokenizer.decode(ids))
    characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
    end_id = bundle.tokenizer.end_id if stop else None
    for next_B in stream(bundle, torch.tensor([ids]), n_new, decoding, [derive_seed(seed, "generate")], end_id):
        if (token := int(next_B)) != end_id:
            sys.stdout.write(characters.decode(bundle.tokenizer.decode_bytes([token])))
            sys.stdout.flush()
    sys.stdout.write(characters.decode(b"", final=True) + "\n")


def _row(version: "Version") -> tuple[str, ...]:
    tags = version.tags
    figures = [_figure(tags.get(name, "")) for name in ("test_bpb", "judge_accuracy")]
    short = [tags.get(name, "")[:12] for name in ("weights_sha256", "git_commit")]
    aliases = " ".join(version.aliases)
    return (version.name, version.number, aliases, *figures, tags.get("verdict", ""), *short, tags.get("run_id", ""))


def _figure(text: str) -> str:
    """Of a tag, which someone may have written by hand."""
    try:
        return f"{float(text):.4f}"
    except ValueError:
        return text


if __name__ == "__main__":
    main()
