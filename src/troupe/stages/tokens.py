"""tokens: the tokenizer, learned from the training split only or that of public weights, and the ids of every split."""

from collections.abc import Iterable, Iterator

from troupe.data import stretches
from troupe.data.bpe import make_tokenizer
from troupe.data.corpus import SPLITS, Split, read_manifest, split_blocks
from troupe.data.dataset import META, TokenDataset, save_ids
from troupe.data.encoding import UP_TO_LAST_BLANK, UP_TO_LAST_CUT, cut_pieces, encode_pieces
from troupe.data.public import find, tokenizer_of
from troupe.data.room import check_tokens
from troupe.data.stretches import holds_stretch
from troupe.data.tokenizer import FILE, BytePairTokenizer, PretrainedTokenizer, Tokenizer
from troupe.errors import ArtifactError
from troupe.files import read_json, sha256_file, write_json
from troupe.layout import CORPUS, INITIAL, TOKENS
from troupe.params import Params, PretrainParams, TokensParams
from troupe.progress import with_progress
from troupe.stages.common import stage_main

LEARN_FROM = 2**28  # bytes of training text, spread over all of it: more changes a vocabulary little and takes long
LEARN_PIECE = 2**16  # characters; the library that learns holds 256 pieces


def tokens(params: Params) -> None:
    """Write tokenizer.json, meta.json and the ids of every split (train.npy, ...) to artifacts/tokens.

    Raises CorpusError if they are too few for a later stage, ArtifactError for public weights whose tokenizer is not
    read or has changed since stage inputs.
    """
    manifest = read_manifest(CORPUS)
    sizes = {split: manifest["splits"][split]["bytes"] for split in SPLITS}
    pretrained = params.tokens.kind == "pretrained"
    tokenizer = given(params.pretrain) if pretrained else learn(params.tokens, sizes["train"])
    tokenizer.save(TOKENS / FILE)
    if pretrained:
        require_same_as_inputs(params.pretrain.init_from)
    write_json(
        TOKENS / META,
        {
            "vocab_size": tokenizer.vocab_size,
            "tokens": {split: encode(tokenizer, split, sizes[split]) for split in SPLITS},
            "bytes": sizes,
            "test_sha256": manifest["splits"]["test"]["sha256"],
            "corpus_sha256": manifest["sha256"],
            "block_bytes": manifest["block_bytes"],
            "tokenizer_sha256": sha256_file(TOKENS / FILE),
        },
    )
    check_tokens(params, TokenDataset.open())


def given(params: PretrainParams) -> Tokenizer:
    """The tokenizer of the weights that `pretrain.init_from` names; artifacts/init.json has their digest."""
    return tokenizer_of(find(params.init_from))


def require_same_as_inputs(name: str) -> None:
    """Raise ArtifactError unless the tokenizer that was saved is the one that stage inputs digested: what it became
    since then would be cached under that digest."""
    if sha256_file(TOKENS / FILE) != read_json(INITIAL).get("tokenizer_sha256"):
        raise ArtifactError(
            f"pretrain.init_from {name}: its tokenizer is not the one that {INITIAL} has the digest of, it has changed "
            "since stage inputs; run again"
        )


def learn(params: TokensParams, n_bytes: int) -> Tokenizer:
    """The tokenizer, from the `n_bytes` of training text; `bpe` learns from LEARN_FROM of them."""
    text = with_progress("tokens: read", split_blocks(CORPUS, "train"), n_bytes)
    pieces = cut_pieces(text, LEARN_PIECE)
    return make_tokenizer(
        params.kind, spread(pieces, LEARN_FROM / n_bytes) if params.kind == "bpe" else pieces, params.vocab_size
    )


def spread(pieces: Iterable[str], share: float) -> Iterator[str]:
    """About this share of the pieces (all from 1 on), evenly spread over them."""
    return (piece for i, piece in enumerate(pieces) if int((i + 1) * share) > int(i * share))


def encode(tokenizer: Tokenizer, split: Split, n_bytes: int) -> int:
    """Write the ids of a split of `n_bytes`; returns how many there are."""
    text = with_progress(f"tokens: {split}", split_blocks(CORPUS, split), n_bytes)
    pieces = cut_pieces(text, cut=UP_TO_LAST_BLANK if isinstance(tokenizer, PretrainedTokenizer) else UP_TO_LAST_CUT)
    if isinstance(tokenizer, BytePairTokenizer | PretrainedTokenizer):
        pieces = with_cuts_reported(pieces, split)
    return save_ids(TOKENS, split, encode_pieces(tokenizer, pieces), tokenizer.vocab_size)


def with_cuts_reported(pieces: Iterable[str], split: Split) -> Iterator[str]:
    """The pieces; a line says if one holds a stretch in which every encoding cuts."""
    reported = False
    for piece in pieces:
        if not reported and holds_stretch(piece):
            reported = True
            where = f"every {stretches.LONGEST:,} characters of a stretch without a blank, or of blanks alone"
            print(f"tokens: {split}: cut after {where}: such long ones would take quadratic time", flush=True)
        yield piece


if __name__ == "__main__":
    stage_main("tokens", tokens)
