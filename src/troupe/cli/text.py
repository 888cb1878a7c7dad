"""`troupe generate`: text from a model."""

import codecs
import io
import secrets
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from troupe.cli.common import CHAMPION, ModelOption, app, open_model
from troupe.errors import ParamsError

if TYPE_CHECKING:
    from troupe.bundles.bundle import Bundle
    from troupe.decoding import Decoding


@app.command()
def generate(
    prompt: Annotated[str, typer.Option(help="What the text begins with.")],
    model: ModelOption = CHAMPION,
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
    """Continue a prompt, token by token as the model makes them.

    A prompt longer than the model's context is continued from its end, and standard error says so.
    """
    if not prompt:
        raise ParamsError("--prompt is empty; give at least one character")
    if max_new_tokens < 1:
        raise ParamsError(f"--max-new-tokens must be at least 1, got {max_new_tokens}")
    from troupe.decoding import Decoding

    decoding = Decoding(repetition_penalty, temperature, top_k or None, top_p, min_p, greedy)
    _continue(open_model(model), prompt, max_new_tokens, decoding, secrets.randbits(63) if seed is None else seed, stop)


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
