"""Public weights: where those lie that a name stands for, and the tokenizer that they bring.

A tokenizer is taken as `tokens.kind: pretrained`: byte-pair encoding over bytes (GPT-2's way: SmolLM2, Qwen3) or over
characters with bytes for the rest (SentencePiece's: TinyLlama). It gives the ids that transformers gives for a text,
but so that every text comes back from its ids: no special token is found in a text or put before it, no blank is put
before it, and characters are not composed anew (Unicode's NFC). A byte that has no token (SmolLM2 lacks eight, which
hardly a text holds, and the library leaves them out) is written as a special token, which stands for nothing else in a
text. A tokenizer that cannot do so is refused.

Of the hub config.json, safetensors and vocabulary are taken, never a pickle; they go to its own cache (HF_HOME), where
other programs' downloads are found too.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from troupe.data.gguf import GGUF, is_gguf
from troupe.data.tokenizer import (
    CONTINUATION,
    FILE,
    UTF8_WIDER,
    PretrainedTokenizer,
    Tokenizer,
    load_tokenizer,
    printable_bytes,
)
from troupe.errors import ArtifactError
from troupe.files import read_json

GPT2_NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
OWNER_AND_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
HUB_FILES = ["config.json", "model*.safetensors", "model.safetensors.index.json", "vocab.json", "tokenizer.json"]
REMEDY = "connect to the network, or name a folder that holds config.json and model.safetensors"
CONFIG, VOCABULARY = "config.json", "vocab.json"
MOST_TOKENS = 2**24  # what is beyond is damage
NOT_OF_TEXT = (3, 4)  # token types of GGUF: control and user-defined
BLANK = "▁"  # SentencePiece's
BYTE_OF = {character: byte for byte, character in printable_bytes().items()}
UTF8 = [bytes([byte]) for byte in range(256) if byte not in (0xC0, 0xC1) and byte < 0xF5]  # that occur in a text
GPT2_PIECES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
QWEN2_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _sequence(*parts: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(parts)}


# How a text is cut before merging, by the name that GGUF files have for it (tokenizer.ggml.pre).
PIECES = {
    "gpt-2": GPT2_PIECES,
    "smollm": _sequence(DIGITS, GPT2_PIECES),
    "qwen2": _sequence(
        {"type": "Split", "pattern": {"Regex": QWEN2_PIECES}, "behavior": "Isolated", "invert": False},
        GPT2_PIECES | {"use_regex": False},
    ),
}


def cuts(pieces: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The parts of a pre_tokenizer, to be compared: without what changes no id, and with what a file may leave out."""
    parts = [{name: part[name] for name in part if name != "trim_offsets"} for part in _parts(pieces, "pretokenizers")]
    return [{"use_regex": True, **part} if part["type"] == "ByteLevel" else part for part in parts]


def find(name: str) -> Path:
    """The folder or GGUF file that a name stands for; one on disk comes before a name of the hub, which is fetched.

    Raises ArtifactError if there is none.
    """
    place = Path(name)
    if place.is_dir() or is_gguf(place):
        return place
    if not is_hub_name(name) or place.suffix == ".gguf":
        raise ArtifactError(
            f"pretrain.init_from {name!r}: no such folder or GGUF file; name one, scratch, gpt2 or "
            "owner/name[@revision]"
        )
    return fetch_from_hub(name)


def tokenizer_of(place: Path) -> Tokenizer:
    """The tokenizer of the weights in a folder (a bundle, or one of transformers) or in a GGUF file.

    Raises ArtifactError, naming what it is that it does, for one that is missing or that loses something of a text.
    """
    if is_gguf(place):
        file = GGUF.open(place)
        return _prepared(_of_gguf(file), file.config, place)
    config = read_json(place / CONFIG)
    if not isinstance(config, dict) or "model_type" not in config:
        return load_tokenizer(place / FILE)
    return _prepared(read_json(place / FILE), config, place / FILE)


def tokens_of(place: Path) -> list[bytes] | None:
    """The bytes of every id of public weights; None for a folder that brings no tokenizer. Raises as `tokenizer_of`."""
    if is_gguf(place) or (place / FILE).is_file():
        tokenizer = tokenizer_of(place)
    elif (place / VOCABULARY).is_file():  # of older versions of transformers, whose merges stand in another file
        model = {"type": "BPE", "vocab": read_json(place / VOCABULARY), "merges": []}
        library = {"model": model, "pre_tokenizer": GPT2_PIECES}
        tokenizer = _prepared(library, read_json(place / CONFIG), place / VOCABULARY)
    else:
        return None
    return [tokenizer.decode_bytes([i]) for i in range(tokenizer.vocab_size)]


def _of_gguf(file: GGUF) -> dict[str, Any]:
    """What a tokenizer.json would say."""
    given = {name.removeprefix("tokenizer.ggml."): value for name, value in file.fields.items()}
    for name, known in (("model", ["gpt2"]), ("pre", list(PIECES))):
        if given.get(name) not in known:
            raise ArtifactError(
                f"{file.path}: tokenizer.ggml.{name} is {given.get(name)!r:.60}; {', '.join(known)} is read: start "
                "from the folder with tokenizer.json that the file was made from"
            )
    given = {"merges": [], "token_type": []} | given  # what is empty is no key
    for name, kind in (("tokens", str), ("merges", str), ("token_type", int)):
        found = given.get(name)
        if not isinstance(found, list) or not all(isinstance(one, kind) for one in found):
            raise ArtifactError(f"{file.path}: tokenizer.ggml.{name} is {found!r:.60}, no array of {kind.__name__}")
    tokens, kinds = given["tokens"], given["token_type"]
    if kinds and len(kinds) != len(tokens):
        raise ArtifactError(
            f"{file.path}: tokenizer.ggml.token_type has {len(kinds)} entries for {len(tokens)} tokens; each has one"
        )
    merges = [merge.split(" ") for merge in given["merges"]]
    model = {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges}
    added = [{"content": tokens[i], "id": i} for i, kind in enumerate(kinds) if kind in NOT_OF_TEXT]
    return {"model": model, "pre_tokenizer": PIECES[given["pre"]], "added_tokens": added}


def _prepared(library: Any, config: Mapping[str, Any], place: Path) -> PretrainedTokenizer:
    """From the content of a tokenizer.json, for a model of that config.json."""
    try:
        return _lossless(library, config)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = str(error) if isinstance(error, ValueError) else f"not a tokenizer ({error!r})"
        raise ArtifactError(f"{place}: {reason}") from None


def _lossless(library: Mapping[str, Any], config: Mapping[str, Any]) -> PretrainedTokenizer:
    """Raises ValueError: what it is that keeps it from giving every text back."""
    model, added, n_ids = library["model"], library.get("added_tokens") or [], config["vocab_size"]
    if (kind := model.get("type", "BPE")) != "BPE":
        raise ValueError(f"its model is {kind}; BPE is read, nothing else")
    if type(n_ids) is not int or not 0 < n_ids <= MOST_TOKENS:
        raise ValueError(f"vocab_size is {n_ids!r}, no number of tokens")
    if model.get("dropout"):
        raise ValueError(f"its model has dropout {model['dropout']}: a text would have other ids each time")
    for affix in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(affix):
            raise ValueError(f"its model has {affix} {model[affix]!r}, which would stay in a text that comes back")
    special = {token["content"]: token["id"] for token in added}
    if (largest := max((*model["vocab"].values(), *special.values()), default=-1)) >= n_ids:
        raise ValueError(f"has a token of id {largest}, and vocab_size is {n_ids}: it belongs to another model")
    normalizer, pieces, spelt = _without_loss(library)
    over_bytes = not model.get("byte_fallback")
    bytes_of = _of_bytes if over_bytes else _of_characters
    of_text = {number: bytes_of(text) for text, number in model["vocab"].items()}
    found = {number: text.encode() for text, number in special.items()} | of_text
    tokens = [found.get(number, b"") for number in range(n_ids)]
    kept = {"version": "1.0", "normalizer": normalizer, "pre_tokenizer": pieces, "model": model}
    end = config.get("eos_token_id")
    end = end[0] if isinstance(end, list) and end else end
    if end is not None and type(end) is not int:
        raise ValueError(f"eos_token_id is {end!r:.60}, no id of a token")
    free = [number for number in special.values() if number != end]
    # a text is encoded by the vocabulary alone: a special token of one byte, in it or beside it, writes none
    written = {bytes_of(text) for text in model["vocab"] if not over_bytes or text in BYTE_OF}
    for byte in sorted(set(UTF8) - written):
        if not free or byte[0] in CONTINUATION:
            raise ValueError(f"has no token for the byte 0x{byte.hex()}, so that not every text has ids")
        tokens[free.pop()] = byte
        spelt += _beginning_with(byte[0])
    return PretrainedTokenizer(kept, tokens, special, end, f"[{spelt}]" if spelt else None)


def _beginning_with(byte: int) -> str:
    """The characters whose UTF-8 begins with a byte, as in a set of a regular expression."""
    n_others = 0 if byte < 0x80 else 1 if byte < 0xE0 else 2 if byte < 0xF0 else 3
    first = (byte & (0x7F, 0x1F, 0x0F, 0x07)[n_others]) << 6 * n_others
    last = min(first + 64**n_others - 1, 0x10FFFF)
    return f"\\U{max(first, UTF8_WIDER[n_others]):08x}-\\U{last:08x}"  # smaller ones have fewer bytes


def _without_loss(library: Mapping[str, Any]) -> tuple[Any, Any, str]:
    """Normaliser and cutting without what no text comes back from, and the character for blanks, if it has one."""
    normalizers = _parts(library.get("normalizer"), "normalizers")
    pieces = _parts(library.get("pre_tokenizer"), "pretokenizers")
    byte_level = any(part["type"] == "ByteLevel" for part in pieces)
    kept = []
    for part in normalizers:
        replaces = part["type"] == "Replace" and part["pattern"] == {"String": " "} and part["content"] == BLANK
        if replaces and not byte_level:
            kept.append(part)
        elif part["type"] != "NFC" and not (part["type"] == "Prepend" and part["prepend"] == BLANK):
            raise ValueError(f"its normalizer {part['type']} changes a text so that it does not come back")
    cut: list[Mapping[str, Any]] = []
    for part in pieces:
        if part["type"] == "Metaspace" and part["replacement"] == BLANK:
            cut.append({**part, "prepend_scheme": "never"})
        elif part["type"] in ("ByteLevel", "Digits", "Split") and not part.get("add_prefix_space"):
            if part.get("behavior") == "Removed":
                raise ValueError("its pre_tokenizer Split removes what it finds")
            cut.append(part)
        else:
            raise ValueError(f"its pre_tokenizer {part['type']} is not read")
    if byte_level == bool(library["model"].get("byte_fallback")):
        raise ValueError(
            "is neither over bytes (ByteLevel) nor over characters with bytes for the rest (byte_fallback)"
        )
    writes_blanks = bool(kept) or any(part["type"] == "Metaspace" for part in cut)
    normalizer = {"type": "Sequence", "normalizers": kept} if kept else None
    return normalizer, _sequence(*cut) if cut else None, BLANK if writes_blanks else ""


def _parts(one: Mapping[str, Any] | None, of: str) -> list[Mapping[str, Any]]:
    """Of a sequence, of a single one or of none."""
    if one is None:
        return []
    return list(one[of]) if one["type"] == "Sequence" else [one]


def _of_bytes(token: str) -> bytes:
    if BYTE_OF.keys() >= set(token):
        return bytes(BYTE_OF[character] for character in token)
    return token.encode()  # one that no bytes make: special


def _of_characters(token: str) -> bytes:
    if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
        return bytes.fromhex(token[3:5])
    text = token.replace(BLANK, " ")
    if re.search(r"\S ", text):
        raise ValueError(f"has a token, {token!r}, that goes from one word on to the next")
    return text.encode()


def is_hub_name(name: str) -> bool:
    """Whether a name is one of GPT-2's sizes or looks like "owner/name", either with or without "@revision"."""
    name = name.partition("@")[0]
    return name in GPT2_NAMES or OWNER_AND_NAME.fullmatch(name) is not None


def fetch_from_hub(name: str) -> Path:
    """The folder of a model's newest revision, or of the one after "@"; its name is the revision, a commit.

    Without a network, the newest that the cache holds. Raises ArtifactError, in one line, if there is none.
    """
    model, _, revision = name.partition("@")
    try:
        return Path(huggingface_hub.snapshot_download(model, revision=revision or None, allow_patterns=HUB_FILES))
    except HFValidationError as error:
        raise ArtifactError(f"{name}: no name of the Hugging Face hub: {_line(error)}") from None
    except LocalEntryNotFoundError:
        raise ArtifactError(f"{name}: no such folder, not in the cache, and no way to the hub; {REMEDY}") from None
    except HfHubHTTPError as error:
        raise ArtifactError(f"{name}: the Hugging Face hub refuses: {_line(error)}; {REMEDY}") from None
    except OSError as error:
        raise ArtifactError(f"{name}: cannot be downloaded ({type(error).__name__}); {REMEDY}") from None


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
