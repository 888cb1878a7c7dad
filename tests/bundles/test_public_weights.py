"""Public weights of the shapes of Llama and Qwen3: what is refused by name, GGUF files, memory, the line to paste."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.conftest import GPT2, small
from troupe.bundles.export import export_model
from troupe.bundles.export_gguf import export_gguf
from troupe.bundles.huggingface import import_model, read_config
from troupe.bundles.huggingface_tokenizer import to_huggingface
from troupe.bundles.initial import find_initial, load_initial, require_agreement, require_memory, tokenizer_digest
from troupe.bundles.shapes import shape_for
from troupe.data.bpe import make_tokenizer
from troupe.data.public import PIECES, cuts, tokenizer_of
from troupe.errors import ArtifactError, ParamsError
from troupe.files import sha256_file
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2

TOKENS = make_tokenizer("bpe", "the cat sat on the mat and the rat sat on the hat " * 20, 270)
GATED: dict[str, Any] = {"positions": "rotary", "norm": "rms", "activation": "swiglu", "bias": False}
LLAMA = GPTConfig(
    TOKENS.vocab_size, 32, n_layer=2, n_head=6, n_embd=24, dropout=0.0, n_kv_head=2, mlp_width=32,
    rotary_base=5e4, norm_eps=1e-5, **GATED,
)  # fmt: skip
QWEN3 = GPTConfig(
    TOKENS.vocab_size, 32, n_layer=2, n_head=4, n_embd=16, dropout=0.0, n_kv_head=2, head_width=6, mlp_width=24,
    qk_norm=True, tied=False, norm_eps=1e-6, **GATED,
)  # fmt: skip
SHAPES = {"llama": LLAMA, "qwen3": QWEN3}
every_shape = pytest.mark.parametrize("family", SHAPES)


def model_of(config: GPTConfig) -> GPT:
    model = GPT(config)
    init_gpt2(model, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    return model.eval()


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    export_model(tmp_path / "given", model_of(SHAPES[getattr(request, "param", "llama")]), TOKENS)
    return tmp_path / "given"


def assert_same(one: GPT, other: GPT) -> None:
    assert one.config == other.config
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def edited(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "gemma3"),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("quantization_config", {"bits": 4}),
        ("rope_interleaved", True),
        ("num_key_value_heads", 4),
        ("num_attention_heads", 0),
        ("head_dim", 3),
        ("rms_norm_eps", -1.0),
        ("num_hidden_layers", 3),
    ],
)
def test_what_the_model_has_not_is_refused_by_its_name(folder: Path, field: str, value: object) -> None:
    edited(folder, **{field: value})
    with pytest.raises(ArtifactError) as refusal:
        import_model(folder)
    message = str(refusal.value)
    assert "\n" not in message
    named = {"num_key_value_heads": "num_key_value_heads", "head_dim": "positions is rotary"}.get(field, field)
    assert named in message


@pytest.mark.parametrize(
    ("rope", "named"),
    [
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_type is 'llama3'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type is 'yarn'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
    ],
)
def test_other_rotations_are_refused_wherever_they_stand(folder: Path, rope: dict[str, Any], named: str) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("rope_parameters")
    path.write_text(json.dumps(config | rope))
    with pytest.raises(ArtifactError, match=named):
        import_model(folder)


@pytest.mark.parametrize("scaling", [{"rope_type": "linear", "factor": 4.0}, {"rope_type": "default"}, {}, None])
def test_of_both_places_the_rotation_is_read_from_the_one_that_transformers_takes(
    folder: Path, scaling: dict[str, Any] | None
) -> None:
    edited(folder, rope_scaling=scaling)
    theirs = AutoConfig.from_pretrained(folder).rope_parameters
    if theirs["rope_type"] == "default":
        assert read_config(folder).rotary_base == theirs["rope_theta"]
    else:
        with pytest.raises(ArtifactError, match="rope_type is 'linear'"):
            read_config(folder)


@pytest.mark.parametrize("folder", ["qwen3"], indirect=True)
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types has 'sliding_attention'"),
    ],
)
def test_sliding_windows_are_refused(folder: Path, fields: dict[str, Any], named: str) -> None:
    edited(folder, **fields)
    with pytest.raises(ArtifactError, match=named):
        import_model(folder)


def test_biases_beside_the_described_tensors_are_refused(folder: Path) -> None:
    """As Qwen2 has them, whose config.json does not say so."""
    path = folder / "model.safetensors"
    save_file(load_file(path) | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(24)}, path)
    with pytest.raises(ArtifactError, match=r"layers\.0\.self_attn\.q_proj\.bias is no part of Llama"):
        import_model(folder)


def test_where_older_versions_of_transformers_put_the_base_is_read_too(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("rope_parameters")
    path.write_text(json.dumps(config | {"rope_scaling": None}))
    assert read_config(folder) == LLAMA


@every_shape
def test_the_line_to_paste_makes_the_parameters_agree(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what params.yaml has no word for comes with the weights, into the model and into what is written of it."""
    monkeypatch.chdir(tmp_path)
    export_model(tmp_path / "given", model_of(SHAPES[family]), TOKENS)
    initial = find_initial("given")
    with pytest.raises(ParamsError) as refusal:
        require_agreement(initial, small(*GPT2.split()))
    setting = str(refusal.value).split('SET="')[1].rstrip('"').split()
    assert setting[0] == "tokens.kind=pretrained"
    require_agreement(initial, small(*GPT2.split(), *setting, "pretrain.init_from=given", "model.block_size=16"))
    tokenizer_of(Path("given")).save(Path("tokenizer.json"))
    assert sha256_file(Path("tokenizer.json")) == tokenizer_digest(initial)
    shorter = load_initial(initial, Path("tokenizer.json"), block_size=8, dropout=0.5)
    assert shorter.config == GPTConfig(**{**SHAPES[family].dimensions(), "block_size": 8, "dropout": 0.5})
    assert shorter.training
    ids_BT = torch.randint(0, TOKENS.vocab_size, (2, 8))
    with torch.no_grad():
        assert torch.equal(shorter.eval()(ids_BT), import_model(Path("given"))(ids_BT))


def test_tokens_of_other_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    initial = find_initial(str(folder))
    make_tokenizer("bpe", "another text about other things, again and again " * 20, 270).save(tmp_path / "bpe.json")
    with pytest.raises(ArtifactError, match=r"it knows \d+ tokens|its tokens are not those"):
        load_initial(initial, tmp_path / "bpe.json", 8, 0.0)
    edited(folder, vocab_size=200)
    with pytest.raises(ArtifactError, match=r"has a token of id \d+, and vocab_size is 200: it belongs to another"):
        tokenizer_of(folder)


def test_weights_that_no_training_here_could_hold_are_refused_before_anything_is_trained(folder: Path) -> None:
    initial = find_initial(str(folder))
    require_memory(initial)
    large = GPTConfig(2**17, 2**10, n_layer=500, n_head=64, n_embd=2**13, dropout=0.0, **GATED)
    with pytest.raises(ParamsError, match=r"takes at least \d+\.\d GB of memory, and here are \d+\.\d GB") as refusal:
        require_memory(type(initial)(initial.name, initial.place, None, "", large))
    assert "\n" not in str(refusal.value)


def written(path: Path, config: GPTConfig, change: Callable[[Any], None] = lambda writer: None) -> GPT:
    """A GGUF file as llama.cpp's converter writes it, and the model in it."""
    import gguf

    kind, model = ("qwen3" if config.qk_norm else "llama"), model_of(config)
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.block_size)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.n_head)
    writer.add_head_count_kv(config.n_kv_head)
    writer.add_key_length(config.attention_width // config.n_head)
    writer.add_value_length(config.attention_width // config.n_head)
    writer.add_rope_freq_base(config.rotary_base)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    library = json.loads(to_huggingface(TOKENS).to_str())["model"]
    tokens = sorted(library["vocab"], key=library["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges([" ".join(pair) for pair in library["merges"]])
    change(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind.upper()], config.n_layer)
    for name, tensor in shape_for(config).their_tensors(model).items():
        array, heads = tensor.numpy(), {"q_proj": config.n_head, "k_proj": config.n_kv_head}.get(name.split(".")[-2])
        if kind == "llama" and heads:  # LlamaModel.permute of convert_hf_to_gguf.py
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        whole = name if name == "lm_head.weight" else f"model.{name}"
        found = names.get_name(whole, try_suffixes=(".weight",))
        writer.add_tensor(str(found), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@every_shape
def test_a_gguf_file_holds_the_model_that_was_written(family: str, tmp_path: Path) -> None:
    """Its rows put back in transformers' order, its tokenizer the same."""
    pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    model = written(path, SHAPES[family])
    assert_same(import_model(path), model)
    assert tokenizer_digest(find_initial(str(path)))
    text = "the cat sat 😀 on <|endoftext|>\x04\n\n  a mat "
    assert tokenizer_of(path).encode(text) == TOKENS.encode(text)
    assert tokenizer_of(path).decode(TOKENS.encode(text)) == text


@every_shape
@pytest.mark.parametrize("kind", ["bpe", "bytes", "pretrained"])
@pytest.mark.filterwarnings("ignore")  # of transformers' reader
def test_an_exported_gguf_file_is_read_by_transformers_and_by_us(family: str, kind: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    tokenizer = make_tokenizer("bytes", "", 0) if kind == "bytes" else TOKENS
    if kind == "pretrained":
        export_model(tmp_path / "given", model_of(SHAPES[family]), TOKENS)
        tokenizer = tokenizer_of(tmp_path / "given")
    ours = model_of(replace(SHAPES[family], vocab_size=tokenizer.vocab_size))
    export_gguf(tmp_path / "out", ours, tokenizer)
    assert_same(import_model(tmp_path / "out/model.gguf"), ours)
    text = "the cat sat 😀 on\n\n  a mat "
    assert tokenizer_of(tmp_path / "out/model.gguf").encode(text) == tokenizer.encode(text)
    heads = ours.config.attention_width // ours.config.n_head  # transformers 5.24 takes 128 in every Qwen3 file
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", gguf_file="model.gguf", head_dim=heads).eval()
    ids_BT = torch.randint(0, tokenizer.vocab_size, (2, 20))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids_BT).logits, ours(ids_BT), atol=1e-4, rtol=1e-5)
    assert (tmp_path / "out/Modelfile").read_text().startswith("FROM ./model.gguf\n")
    with pytest.raises(ArtifactError, match="exists already"):
        export_gguf(tmp_path / "out", ours, tokenizer)


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("field", ["trim_offsets", "use_regex"])
def test_what_changes_no_id_keeps_no_tokenizer_from_a_gguf_file(pieces: str, field: str, tmp_path: Path) -> None:
    """Qwen's tokenizer.json has `trim_offsets` false, and one of GPT-2's may lack `use_regex`, which is true then."""
    pytest.importorskip("gguf")
    export_model(tmp_path / "given", model_of(LLAMA), TOKENS)
    path = tmp_path / "given/tokenizer.json"
    content = json.loads(path.read_text())
    *before, byte_level = cuts(PIECES[pieces])
    if field == "use_regex" and byte_level["use_regex"]:
        del byte_level["use_regex"]
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*before, byte_level | {"trim_offsets": False}]}
    path.write_text(json.dumps(content))
    tokenizer = tokenizer_of(tmp_path / "given")
    export_gguf(tmp_path / "out", model_of(LLAMA), tokenizer)
    text = "the cat's 12 😀\n\n  a mat "
    assert tokenizer_of(tmp_path / "out/model.gguf").encode(text) == tokenizer.encode(text)


def test_what_a_gguf_file_has_no_place_for_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    characters = make_tokenizer("chars", "the cat", 0)
    with pytest.raises(ArtifactError, match="a place for tokenizers over bytes"):
        export_gguf(tmp_path / "out", model_of(replace(LLAMA, vocab_size=characters.vocab_size)), characters)
    with pytest.raises(ArtifactError, match=r"not GPT-2's"):
        export_gguf(tmp_path / "out", GPT(GPTConfig(TOKENS.vocab_size, 16, 1, 2, 8, 0.0)), TOKENS)
    with pytest.raises(ArtifactError, match="an n_embd that n_head divides"):
        export_model(tmp_path / "out", GPT(replace(LLAMA, n_embd=25, head_width=4)), TOKENS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda writer: writer.add_sliding_window(128), r"llama\.attention\.sliding_window is 128, which is not read"),
        (lambda writer: writer.add_attn_logit_softcapping(30.0), r"llama\.attn_logit_softcapping is 30\.0"),
        (lambda writer: writer.add_expert_count(8), r"llama\.expert_count is 8"),
        (lambda writer: writer.add_rope_dimension_count(2), r"llama\.rope\.dimension_count is 2, heads are 4 wide"),
        (lambda writer: writer.add_tensor("blk.0.attn_q.bias", np.zeros(24, np.float32)), r"q_proj\.bias is no part"),
        (lambda writer: writer.add_tensor("rope_freqs.weight", np.ones(2, np.float32)), r"rope_freqs\.weight is no"),
    ],
)
def test_what_a_gguf_file_asks_for_beyond_the_model_is_refused_by_name(
    change: Callable[[Any], None], named: str, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    written(tmp_path / "model.gguf", LLAMA, change)
    with pytest.raises(ArtifactError, match=named) as refusal:
        find_initial(str(tmp_path / "model.gguf"))
    assert "\n" not in str(refusal.value)


def test_a_gguf_file_of_another_architecture_is_refused(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "gemma3")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ArtifactError, match=r"general\.architecture is 'gemma3'; llama, qwen3 are read"):
        find_initial(str(tmp_path / "model.gguf"))


@pytest.mark.parametrize("kept", [0.0, 0.0001, 0.02, 0.5, 0.999])
def test_a_truncated_gguf_file_is_one_line(kept: float, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    written(path, LLAMA)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ArtifactError, match="not a whole GGUF file of a model") as refusal:
        find_initial(str(path))
    assert "\n" not in str(refusal.value)


def test_without_the_package_a_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ParamsError, match=r"read by the package gguf: pip install 'troupe\[gguf\]'"):
        find_initial(str(tmp_path / "model.gguf"))
    with pytest.raises(ArtifactError, match="no such folder or GGUF file"):
        find_initial(str(tmp_path / "another.gguf"))
