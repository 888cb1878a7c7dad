"""A description with one damaged field is refused in one line that names its file, or it is a model all the same."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.bundles.test_public_weights import LLAMA, written
from troupe.bundles.architectures import load_bundle
from troupe.bundles.bundle import save_bundle
from troupe.bundles.export import export_model
from troupe.bundles.huggingface import import_model
from troupe.bundles.initial import find_initial
from troupe.conversion.attention import convert
from troupe.data.public import tokenizer_of
from troupe.data.tokenizer import ByteTokenizer
from troupe.errors import ArtifactError, TroupeError
from troupe.inspection.shapes import shape_in
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT
from troupe.models.mixing import Mixture, mixed
from troupe.models.ngrams import NGrams
from troupe.models.switchhead import SwitchHeadConfig
from troupe.models.tilted import tilted

CONFIG = GPTConfig(vocab_size=256, block_size=16, n_layer=2, n_head=2, n_embd=8, dropout=0.1)
GROUPED = replace(
    CONFIG, positions="rotary", norm="rms", activation="swiglu", qk_norm=True, bias=False, n_kv_head=1, tied=False
)
EXPERTS = SwitchHeadConfig(n_head=2, head_width=4, n_expert=3, top_k=2, router="sigmoid")
MISSING = "(missing)"
DAMAGE = st.one_of(
    st.sampled_from([None, True, False, "", "8", "gelu", [], {}, [8], {"n_embd": 8}, MISSING]),
    st.sampled_from([float("nan"), float("inf"), -0.5, 0.5, 8.0, 1e300]),
    st.sampled_from([0, 1, -1, 2, 3, 10**6, 10**9, 10**15, 10**30, -(10**30)]),
)
Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A folder of each kind, to be copied."""
    root = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    dense = GPT(CONFIG)
    export_model(root / "huggingface", dense, ByteTokenizer())
    export_model(root / "qwen3", GPT(GROUPED), ByteTokenizer())
    save_bundle(root / "dense", dense, ByteTokenizer(), {"stage": "pretrain"})
    experts = convert(dense, EXPERTS, "exact", torch.Generator().manual_seed(1))
    save_bundle(root / "tilted", tilted(experts, NGrams.counted(np.arange(50) % 7, 2, 256)), ByteTokenizer(), {})
    mixture = Mixture.counted(np.arange(50) % 7, 2, ByteTokenizer())
    save_bundle(root / "mixed", mixed(experts, mixture), ByteTokenizer(), {})
    return lambda name: root / name


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a tree of JSON, the inner ones' too."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [found for key, value in items for found in [(*path, key), *places(value, (*path, key))]]


def damaged(tree: Any, path: tuple[Any, ...], value: object) -> Any:
    """A copy with another value at one place, or without it."""
    tree = json.loads(json.dumps(tree))
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    if value == MISSING:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return tree


def fault(read: Callable[[Path], object], folder: Path) -> str | None:
    """What is said of a folder; None if it is read."""
    try:
        read(folder)
        return None
    except TroupeError as error:
        return str(error)


@pytest.mark.parametrize("kind", ["huggingface", "qwen3", "dense", "tilted", "mixed"])
@given(data=st.data())
def test_one_damaged_field_is_one_line(kind: str, data: st.DataObject, whole: Folder) -> None:
    folder = whole(kind)
    path = folder / "config.json"
    content = path.read_text()
    tree = json.loads(content)
    path.write_text(json.dumps(damaged(tree, data.draw(st.sampled_from(places(tree))), data.draw(DAMAGE))))
    readers: list[Callable[[Path], object]] = [lambda folder: find_initial(str(folder)), shape_in]
    readers += [import_model, tokenizer_of] if kind in ("huggingface", "qwen3") else [load_bundle]
    try:
        for read in readers:
            said = fault(read, folder)
            assert said is None or ("\n" not in said and str(folder) in said)
    finally:
        path.write_text(content)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("n_layer", "2", "n_layer is '2': Input should be a valid integer"),
        ("n_layer", 0, "n_layer is 0: Input should be greater than or equal to 1"),
        ("n_layer", 3, "n_layer is 3, the weights are of 2 layers"),
        ("n_head", 0, "n_head is 0: Input should be greater than or equal to 1"),
        ("n_head", 3, "n_embd (8) must be divisible by n_head (3)"),
        ("n_embd", None, "n_embd is None: Input should be a valid integer"),
        ("n_positions", -16, "n_positions is -16: Input should be greater than or equal to 1"),
        ("n_positions", 32, "wpe.weight is (16, 8), which config.json does not describe"),
        ("resid_pdrop", float("nan"), "resid_pdrop is nan: Input should be a finite number"),
        ("activation_function", "swish", "activation_function is 'swish'; GPT-2 has 'gelu_new'"),
    ],
)
def test_the_line_names_the_field_before_anything_is_trained(
    field: str, value: object, says: str, whole: Folder, tmp_path: Path
) -> None:
    shutil.copytree(whole("huggingface"), tmp_path / "given")
    path = tmp_path / "given/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ArtifactError) as refused:
        find_initial(str(tmp_path / "given"))
    assert says in str(refused.value)


def test_weights_that_were_cut_short_are_refused_before_anything_is_trained(whole: Folder, tmp_path: Path) -> None:
    shutil.copytree(whole("huggingface"), tmp_path / "given")
    path = tmp_path / "given/model.safetensors"
    for size in (0, 7, 100, path.stat().st_size - 1):
        path.write_bytes((whole("huggingface") / "model.safetensors").read_bytes()[:size])
        with pytest.raises(ArtifactError, match=r"model\.safetensors: not the safetensors of a model") as refused:
            find_initial(str(tmp_path / "given"))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("llama.attention.head_count", 0, "llama.attention.head_count is 0, no number above zero"),
        ("llama.attention.head_count", [6, 6], "llama.attention.head_count is [6, 6], no number above zero"),
        ("llama.attention.head_count_kv", 4, "num_key_value_heads"),
        ("llama.embedding_length", "24", "llama.embedding_length is '24', no number above zero"),
        ("llama.attention.layer_norm_rms_epsilon", float("nan"), "llama.attention.layer_norm_rms_epsilon is nan"),
        ("tokenizer.ggml.pre", ["gpt-2"], "tokenizer.ggml.pre is ['gpt-2']; gpt-2, smollm, qwen2 is read"),
        ("tokenizer.ggml.token_type", [1] * 271, "tokenizer.ggml.token_type has 271 entries for 270 tokens"),
        ("tokenizer.ggml.token_type", 1, "tokenizer.ggml.token_type is 1, no array of int"),
        ("tokenizer.ggml.tokens", [1, 2, 3], "tokenizer.ggml.tokens is [1, 2, 3], no array of str"),
        ("tokenizer.ggml.merges", "t h", "tokenizer.ggml.merges is 't h', no array of str"),
        ("tokenizer.ggml.eos_token_id", "1", "eos_token_id is '1', no id of a token"),
    ],
)
def test_a_damaged_key_of_a_gguf_file_is_one_line(key: str, value: Any, says: str, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"

    def damage(writer: Any) -> None:
        for of_file in writer.kv_data:
            of_file.pop(key, None)
        of = gguf.GGUFValueType.ARRAY if isinstance(value, list) else gguf.GGUFValueType.get_type(value)
        writer.add_key_value(key, value, of)

    written(path, LLAMA, damage)
    said = fault(lambda file: find_initial(str(file)), path) or fault(tokenizer_of, path)
    assert said is not None
    assert said.startswith(f"{path}: ")
    assert says in said
    assert "\n" not in said


@pytest.mark.parametrize("content", ["{}", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_a_broken_index_of_shards_is_one_line(content: str, whole: Folder, tmp_path: Path) -> None:
    shutil.copytree(whole("huggingface"), tmp_path / "given")
    (tmp_path / "given/model.safetensors.index.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"index\.json: weight_map does not name the file"):
        find_initial(str(tmp_path / "given"))
