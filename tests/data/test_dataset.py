"""Tokens on disk opened: what stage `tokens` has written, as one typed value."""

import json

import pytest

from troupe.data.corpus import SPLITS, split_blocks
from troupe.data.dataset import META, TokenDataset
from troupe.errors import ArtifactError
from troupe.files import sha256_file
from troupe.layout import CORPUS, TOKENS
from troupe.params import Params


def test_it_holds_what_the_stage_wrote(workspace: Params) -> None:
    data = TokenDataset.open()
    manifest = json.loads((CORPUS / "manifest.json").read_text())
    assert data.vocab_size == json.loads((TOKENS / META).read_text())["vocab_size"]
    assert (data.corpus_sha256, data.block_bytes) == (manifest["sha256"], workspace.data.block_bytes)
    assert data.test_sha256 == manifest["splits"]["test"]["sha256"]
    for split in SPLITS:
        text = "".join(split_blocks(CORPUS, split))
        assert data.tokenizer.decode(data.ids(split).tolist()) == text
        assert (data.n_tokens[split], data.n_bytes[split]) == (len(data.shards(split)), len(text.encode()))
        assert data.bytes_per_token(split) == data.n_bytes[split] / data.n_tokens[split]


def test_its_files_are_all_that_its_splits_are_made_of(workspace: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    (TOKENS / "train-001.npy").write_bytes((TOKENS / "train.npy").read_bytes())
    names = [path.name for path in TokenDataset.open().files("train", "critic")]
    assert names == ["meta.json", "tokenizer.json", "train-001.npy", "train.npy", "critic.npy"]
    assert all(sha256_file(path) for path in TokenDataset.open().files(*SPLITS))


def test_what_is_missing_or_of_another_time_is_one_line(workspace: Params) -> None:
    meta = json.loads((TOKENS / META).read_text())
    for broken in ({name: value for name, value in meta.items() if name != "test_sha256"}, []):
        (TOKENS / META).write_text(json.dumps(broken))
        with pytest.raises(ArtifactError, match=r"meta\.json: not what stage tokens writes \(.*\); run it again"):
            TokenDataset.open()
    (TOKENS / META).unlink()
    with pytest.raises(ArtifactError, match=r"meta\.json: no such file"):
        TokenDataset.open()
