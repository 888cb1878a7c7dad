"""Our tokenizers in the form of Hugging Face transformers: tokenizer.json and tokenizer_config.json, the same ids."""

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from troupe.data.tokenizer import (
    GPT2_SPECIAL,
    BytePairTokenizer,
    CharTokenizer,
    PretrainedTokenizer,
    Tokenizer,
    to_printable,
)
from troupe.files import write_atomic, write_json

BYTES = [bytes([byte]) for byte in range(256)]


def write_tokenizer(folder: Path, tokenizer: Tokenizer, block_size: int) -> None:
    """Write what `AutoTokenizer.from_pretrained(folder)` reads.

    It gives the ids of `tokenizer`, except that ours merges nothing across the cuts of stretches of more than 16,384
    characters without a blank (data/stretches.py), and as every tokenizer of transformers takes "<|endoftext|>" in a
    text for GPT-2's end-of-text token, where there is one.
    """
    theirs = to_huggingface(tokenizer)
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": block_size}
    if isinstance(tokenizer, PretrainedTokenizer):
        if tokenizer.end_id is not None:
            text_of = {i: text for text, i in tokenizer.special.items()}
            config |= dict.fromkeys(("eos_token", "pad_token"), text_of.get(tokenizer.end_id))
    elif theirs.get_added_tokens_decoder():
        config |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), next(iter(GPT2_SPECIAL)))
    write_atomic(folder / "tokenizer.json", theirs.to_str(pretty=True).encode())
    write_json(folder / "tokenizer_config.json", {**config, "clean_up_tokenization_spaces": False})


def to_huggingface(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The same text-to-ids function as an object of the library `tokenizers`."""
    if isinstance(tokenizer, CharTokenizer):
        return _characters(tokenizer.characters)
    if isinstance(tokenizer, PretrainedTokenizer):
        return _pretrained(tokenizer)
    if not isinstance(tokenizer, BytePairTokenizer):
        return _byte_level(BYTES, cut=False)
    theirs = _byte_level(tokenizer.tokens, cut=True)
    if tokenizer.kind == "gpt2":
        theirs.add_special_tokens(list(GPT2_SPECIAL))
    return theirs


def _pretrained(tokenizer: PretrainedTokenizer) -> tokenizers.Tokenizer:
    """With special tokens and decoder, which ours does not need, and without our spelling of rare characters."""
    alone = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": i, "content": text, **alone} for text, i in sorted(tokenizer.special.items(), key=lambda of: of[1])]
    theirs = tokenizers.Tokenizer.from_str(json.dumps({**tokenizer.library, "added_tokens": added}))
    by_characters = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    theirs.decoder = by_characters if tokenizer.library["model"].get("byte_fallback") else decoders.ByteLevel()
    return theirs


def _byte_level(tokens: Sequence[bytes], cut: bool) -> tokenizers.Tokenizer:
    text_of = dict(zip(tokens, to_printable(tokens), strict=True))
    ids = {text: i for i, text in enumerate(text_of.values())}
    pairs = [(text_of[left], text_of[right]) for left, right in merges(tokens)]
    theirs = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=pairs))
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut)
    theirs.decoder = decoders.ByteLevel()
    return theirs


def _characters(characters: str) -> tokenizers.Tokenizer:
    """Characters, and for any other one its bytes: no merges, with a fallback to bytes."""
    texts = [*characters, *(f"<0x{byte:02X}>" for byte in range(256))]
    theirs = tokenizers.Tokenizer(models.BPE({text: i for i, text in enumerate(texts)}, [], byte_fallback=True))
    theirs.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return theirs


def merges(tokens: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The two tokens that each token longer than a byte is merged from: what is left of it when every merge of lower
    rank has been made."""
    rank_of = {token: rank for rank, token in enumerate(tokens)}
    for token in tokens:
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            pairs = [rank_of.get(left + right, len(tokens)) for left, right in pairwise(parts)]
            first = pairs.index(min(pairs))
            parts[first : first + 2] = [parts[first] + parts[first + 1]]
        if len(parts) == 2:
            yield parts[0], parts[1]
