"""Where a tokenizer comes from: byte-level byte-pair encoding learned from a text or GPT-2's, characters, or bytes.

Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units"; Radford et al. 2019 (GPT-2)
for merging bytes within the pieces that a regular expression cuts. Tokens are listed by id: first the 256 single bytes,
then one token per merge in the order in which merges are tried, so that the id is the merge's rank.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import models, pre_tokenizers, trainers

from troupe.data.download import fetch, mirrored
from troupe.data.stretches import cut_stretches
from troupe.data.tokenizer import (
    BytePairTokenizer,
    ByteTokenizer,
    CharTokenizer,
    Kind,
    Tokenizer,
    from_printable,
    printable_bytes,
)
from troupe.errors import ParamsError

GPT2_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe"
GPT2_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
LONGEST_LEARNED = 2**10  # characters: the library that learns removes a symbol from a word by moving all after it


def make_tokenizer(kind: Kind, train: str | Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of one kind; `bpe` and `chars` learn from `train`, only `bpe` heeds `vocab_size`.

    `train` is a text, or pieces of it that can be encoded one by one (data/encoding.py).
    """
    pieces = [train] if isinstance(train, str) else train
    match kind:
        case "bytes":
            return ByteTokenizer()
        case "chars":
            return CharTokenizer.of(pieces)
        case "bpe":
            return BytePairTokenizer("bpe", learn_tokens(pieces, vocab_size))
        case "gpt2":
            return BytePairTokenizer("gpt2", gpt2_tokens())
        case "pretrained":
            raise ParamsError("tokens.kind: pretrained comes with the weights that pretrain.init_from names")


def learn_tokens(pieces: Iterable[str], vocab_size: int) -> list[bytes]:
    """Learn at most `vocab_size` tokens from a text (fewer if no pair of it occurs twice any more).

    `pieces` of a text cut as in data/encoding.py give the same tokens as the whole of it. Pairs are not counted across
    the cuts that are made after every LONGEST_LEARNED characters of a stretch without a blank.
    """
    learner = LibraryTokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # all 256 bytes, so that any text can be encoded
        show_progress=False,
    )
    parts = (part for piece in pieces for part in cut_stretches(piece, LONGEST_LEARNED))
    learner.train_from_iterator(parts, trainer)
    ids = learner.get_vocab()
    return from_printable(sorted(ids, key=ids.__getitem__))


def gpt2_tokens() -> list[bytes]:
    """The 50,256 tokens of GPT-2 without its special one.

    From the folder in TROUPE_MIRROR, from that in TIKTOKEN_CACHE_DIR, or from the network.
    Raises CorpusError if none has the file or its digest is wrong.
    """
    advice = (
        "connect to the network, or name in TROUPE_MIRROR a folder that holds gpt2/vocab.bpe, or in TIKTOKEN_CACHE_DIR "
        "a tiktoken cache that holds it; or set tokens.kind to bpe, which needs no download"
    )
    copies = mirrored("gpt2/vocab.bpe") + _tiktoken_copies()
    lines = fetch(GPT2_URL, GPT2_SHA256, copies, advice).decode().splitlines()
    merges = from_printable(line.replace(" ", "") for line in lines[1:])  # the first line is a version
    return [bytes([byte]) for byte in printable_bytes()] + merges


def _tiktoken_copies() -> list[Path]:
    folder = os.environ.get("TIKTOKEN_CACHE_DIR")
    return [Path(folder, hashlib.sha1(GPT2_URL.encode()).hexdigest())] if folder else []
