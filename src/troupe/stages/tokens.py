"""tokens: the tokenizer, learned from the training split only, and the token ids of every split."""

from troupe.data.batches import save_ids
from troupe.data.corpus import SPLITS, read_manifest, split_text
from troupe.data.tokenizer import make_tokenizer
from troupe.files import sha256_file, write_json
from troupe.layout import CORPUS, TOKENS
from troupe.params import Params
from troupe.stages.common import stage_main


def tokens(params: Params) -> None:
    """Write tokenizer.json, train.npy, validation.npy, test.npy and meta.json to artifacts/tokens."""
    manifest = read_manifest(CORPUS)
    texts = {split: split_text(CORPUS, split) for split in SPLITS}
    tokenizer = make_tokenizer(params.tokens.kind, texts["train"], params.tokens.vocab_size)
    tokenizer.save(TOKENS / "tokenizer.json")
    ids = {split: tokenizer.encode(text) for split, text in texts.items()}
    write_json(
        TOKENS / "meta.json",
        {
            "vocab_size": tokenizer.vocab_size,
            "tokens": {split: save_ids(TOKENS, split, ids[split], tokenizer.vocab_size) for split in SPLITS},
            "bytes": {split: manifest["splits"][split]["bytes"] for split in SPLITS},
            "test_sha256": manifest["splits"]["test"]["sha256"],
            "corpus_sha256": manifest["sha256"],
            "tokenizer_sha256": sha256_file(TOKENS / "tokenizer.json"),
        },
    )


if __name__ == "__main__":
    stage_main("tokens", tokens)
