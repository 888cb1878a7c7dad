"""Text to token ids: the path of the tokens stage against the batch calls of tiktoken and tokenizers.

Ours begins with corpus.txt on disk (digested as it is read, as always) and ends with the ids on disk. Theirs begin with
the same pieces in memory and end with their own objects in memory, so that what differs is in their favour.
"""

import random
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tiktoken
from tiktoken_ext.openai_public import r50k_pat_str as gpt2_pieces  # type: ignore[import-untyped]
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks.attention_step import seconds
from benchmarks.common import comparison, finish, interleaved, start
from studies.core.command import faults_in_one_line
from troupe.data.bpe import make_tokenizer
from troupe.data.corpus import Source, split_blocks, write_corpus
from troupe.data.dataset import load_ids, save_ids
from troupe.data.download import mirrored
from troupe.data.encoding import PIECE, cut_pieces, encode_pieces
from troupe.data.source import TINY_SHAKESPEARE, read_text
from troupe.data.tokenizer import BytePairTokenizer, Kind

LEARNED_TOKENS = 8192
PASSAGE = 2000  # words
Measure = Callable[[], float]


def main() -> None:
    """Time both vocabularies; MB/s is of UTF-8 text."""
    args = start("tokenisation", "Text to token ids", rounds=7)
    kinds: list[Kind] = ["bpe", "gpt2"] if mirrored("gpt2/vocab.bpe") else ["bpe"]
    with TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        text = write(corpus, megabytes=1 if args.quick else 38)  # seven tenths of it are the training split
        sections = []
        for kind in kinds:
            tokenizer = make_tokenizer(kind, text[: 2**20], LEARNED_TOKENS)
            assert isinstance(tokenizer, BytePairTokenizer)
            figures = interleaved(contestants(tokenizer, corpus, Path(folder, kind), args.threads), args)
            title = f"{kind}, {tokenizer.vocab_size:,} tokens"
            sections.append(comparison(title, figures, "MB/s", bases=["tiktoken encode_ordinary_batch"]))
    finish(
        args,
        sections,
        notes=[
            f"Passages of tiny Shakespeare in random order, some letters changed, in pieces of {PIECE:,} characters.",
            "troupe reads corpus.txt from disk, checks its digest and writes the ids to disk; the others begin and end "
            "in memory. The ids were compared and are equal.",
        ],
        packages=["tiktoken", "tokenizers", "numpy"],
    )


def contestants(tokenizer: BytePairTokenizer, corpus: Path, ids: Path, threads: int) -> dict[str, Measure]:
    """{name: one measurement in MB/s}; raises if the contestants do not agree on the ids."""
    pieces = list(cut_pieces(split_blocks(corpus, "train")))
    megabytes = sum(len(piece.encode()) for piece in pieces) / 1e6
    ranks = {token: rank for rank, token in enumerate(tokenizer.tokens)}
    peer = tiktoken.Encoding("peer", pat_str=gpt2_pieces, mergeable_ranks=ranks, special_tokens={})

    def ours() -> None:
        fresh = cut_pieces(split_blocks(corpus, "train"))
        save_ids(ids, "train", encode_pieces(tokenizer, fresh, threads), tokenizer.vocab_size)

    calls: dict[str, Callable[[], object]] = {
        "troupe, file to file": ours,
        "tiktoken encode_ordinary_batch": partial(peer.encode_ordinary_batch, pieces, num_threads=threads),
    }
    if tokenizer.kind == "gpt2":
        calls["tokenizers encode_batch_fast"] = partial(huggingface_gpt2().encode_batch_fast, pieces)
        encodings = huggingface_gpt2().encode_batch_fast(pieces[:2])
        assert [encoding.ids for encoding in encodings] == peer.encode_ordinary_batch(pieces[:2])
    ours()
    expected = chain.from_iterable(peer.encode_ordinary_batch(pieces, num_threads=threads))
    assert np.array_equal(load_ids(ids, "train"), np.fromiter(expected, np.uint32))
    return {name: partial(speed, call, megabytes) for name, call in calls.items()}


def speed(call: Callable[[], object], megabytes: float) -> float:
    """Megabytes of text per second of one call."""
    return megabytes / seconds(call)


def huggingface_gpt2() -> Tokenizer:
    """GPT-2's tokenizer in Hugging Face's library, from the files in TROUPE_MIRROR."""
    vocabulary, merges = mirrored("gpt2/encoder.json")[0], mirrored("gpt2/vocab.bpe")[0]
    tokenizer = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def write(corpus: Path, megabytes: int) -> str:
    """Write a corpus of varied text; returns the text."""
    words, rng, passages = read_text(TINY_SHAKESPEARE).split(" "), random.Random(0), []
    size = 0
    while size < megabytes * 1e6:
        first = rng.randrange(len(words) - PASSAGE)
        passage = " ".join(words[first : first + PASSAGE]).replace("e", rng.choice("eeeéa"))
        passages.append(passage + rng.choice([" ", "\n\n", " 日本 1623, "]))
        size += len(passages[-1])
    text = "".join(passages)
    content = text.encode()
    source = Source("files", [], len(content), sha256(content).hexdigest(), "public domain")
    write_corpus(corpus, [text], "made of tiny-shakespeare", source, block_bytes=4096)
    return text


if __name__ == "__main__":
    with faults_in_one_line():
        main()
