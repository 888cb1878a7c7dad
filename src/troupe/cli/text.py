"""`troupe generate`: text from a model."""

import codecs
import io
import secrets
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from troupe.cli.common import CHAMPION, ModelOption, app, open_model
from troupe.errors import ParamsError

if TYPE_CHECKING:
    from troupe.bundles.bundle import Bundle
    from troupe.decoding import Decoding

DEFAULTS = {"temperature": 0.8, "top_k": 50, "top_p": 0.95}  # of Decoding, where nothing else is said


@app.command()
def generate(
    prompt: Annotated[str, typer.Option(help="What the text begins with.")],
    model: ModelOption = CHAMPION,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to add.")] = 200,
    temperature: Annotated[float | None, typer.Option(help="Below 1 sharper, above 1 wilder (0.8).")] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k likeliest tokens; 0: from all (50).")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the likeliest that have this probability together (0.95).")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Draw from tokens this many times as likely as the likeliest (0).")
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1: tokens seen before become less likely (1).")
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Take the likeliest token instead of drawing.")] = False,
    stop: Annotated[bool, typer.Option(help="End where the model ends the text (<|endoftext|> of gpt2).")] = True,
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same text; without one, a fresh one.")
    ] = None,
) -> None:
    """Continue a prompt, token by token as the model makes them.

    A prompt longer than the model's context is continued from its end, and standard error says so. Told nothing about
    how to choose tokens, it chooses as `make study-decoding` has recommended for a registered model; else what is not
    given is as the help says in brackets.
    """
    if not prompt:
        raise ParamsError("--prompt is empty; give at least one character")
    if max_new_tokens < 1:
        raise ParamsError(f"--max-new-tokens must be at least 1, got {max_new_tokens}")
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    given |= {"repetition_penalty": repetition_penalty, "greedy": greedy or None}
    decoding = _decoding(model, {name: value for name, value in given.items() if value is not None})
    seed = secrets.randbits(63) if seed is None else seed
    _continue(open_model(model), prompt, max_new_tokens, decoding, seed, stop)


def _decoding(model: str, given: dict[str, Any]) -> "Decoding":
    """What was asked for over the defaults; nothing asked for, what is recommended for a registered model."""
    from troupe.decoding import Decoding

    if not given and model.startswith("models:"):
        from troupe.registry.recommendation import recommended_at

        if found := recommended_at(model):
            return found
    asked = DEFAULTS | given
    return Decoding(**asked | {"top_k": asked["top_k"] or None})


def _continue(bundle: "Bundle", prompt: str, n_new: int, decoding: "Decoding", seed: int, stop: bool) -> None:
    """Print the prompt and what follows, as it comes; a character that two tokens share waits for the second."""
    import torch

    from troupe.decoding import stream
    from troupe.seeding import derive_seed

    ids, block_size = bundle.tokenizer.encode(prompt), bundle.model.config.block_size
    if len(ids) > block_size:
        print(f"troupe: the prompt has {len(ids)} tokens; the model sees the last {block_size}", file=sys.stderr)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for a terminal that does not speak UTF-8
    sys.stdout.write(bundle.tokenizer.decode(ids))
    characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
    end_id = bundle.tokenizer.end_id if stop else None
    for next_B in stream(bundle.model, torch.tensor([ids]), n_new, decoding, [derive_seed(seed, "generate")], end_id):
        if (token := int(next_B)) != end_id:
            sys.stdout.write(characters.decode(bundle.tokenizer.decode_bytes([token])))
            sys.stdout.flush()
    sys.stdout.write(characters.decode(b"", final=True) + "\n")
