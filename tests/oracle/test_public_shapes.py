"""Our model against Llama and Qwen3 of Hugging Face transformers, read from their folders and written for them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from troupe.bundles.export import export_model
from troupe.bundles.huggingface import import_model
from troupe.conversion.attention import convert
from troupe.data.bpe import make_tokenizer
from troupe.decoding import Decoding, generate
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.switchhead import SwitchHeadConfig

FAMILIES = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
families = pytest.mark.parametrize("family", FAMILIES)
SHAPE = {"n_kv": 3, "shared": 3, "head_width": 8, "width": 5, "n_layer": 2, "hidden": 56, "vocab_size": 97}


def theirs(family: str, tied: bool, base: float, *, seed: int = 0, **shape: int) -> Any:
    """Random weights, larger than usual, so that every part of a model moves the logits."""
    torch.manual_seed(seed)
    config, build = FAMILIES[family]
    model = build(
        config(
            vocab_size=shape["vocab_size"],
            hidden_size=shape["n_kv"] * shape["shared"] * shape["width"],  # of Llama it must be a multiple of the heads
            intermediate_size=shape["hidden"],
            num_hidden_layers=shape["n_layer"],
            num_attention_heads=shape["n_kv"] * shape["shared"],
            num_key_value_heads=shape["n_kv"],
            head_dim=shape["head_width"],
            max_position_embeddings=64,
            rms_norm_eps=1e-4,
            rope_parameters={"rope_type": "default", "rope_theta": base},
            tie_word_embeddings=tied,
            initializer_range=0.15,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))  # from ones, where a mistake hides
    return model.eval()


@families
@given(
    n_kv=st.integers(1, 3),
    shared=st.integers(1, 3),
    head_width=st.integers(1, 5).map(lambda half: 2 * half),
    width=st.integers(1, 9),
    hidden=st.integers(1, 40),
    n_layer=st.integers(1, 3),
    tied=st.booleans(),
    base=st.sampled_from([500.0, 10_000.0, 1e6]),
    seed=st.integers(0, 99),
)
@settings(max_examples=12)
def test_any_shape_comes_back_to_the_bit(
    family: str, tied: bool, base: float, seed: int, tmp_path_factory: pytest.TempPathFactory, **shape: int
) -> None:
    """theirs -> ours -> theirs: the same logits on the way, the same weights, bit for bit, at the end."""
    folder, reference = tmp_path_factory.mktemp("round"), theirs(family, tied, base, seed=seed, vocab_size=31, **shape)
    reference.save_pretrained(folder / "theirs")
    ours = import_model(folder / "theirs")
    ids = torch.randint(0, 31, (2, 24))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), reference(ids).logits, atol=1e-4, rtol=1e-5)
    export_model(folder / "ours", ours, make_tokenizer("bytes", "", 0))
    weights = [load_file(folder / whose / "model.safetensors") for whose in ("theirs", "ours")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@families
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_same_greedy_tokens_after_import_and_after_export(family: str, tied: bool, tmp_path: Path) -> None:
    """Generation goes token by token through the cache, in which only the shared heads lie."""
    reference = theirs(family, tied, 1e4, **SHAPE)
    reference.save_pretrained(tmp_path / "theirs")
    ours = import_model(tmp_path / "theirs")
    export_model(tmp_path / "ours", ours, make_tokenizer("bytes", "", 0))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    prompt_BT = torch.randint(0, 97, (3, 5))
    written = generate(ours, prompt_BT, 50, Decoding(greedy=True), range(3)).tolist()
    for model in (reference, again):
        expected = model.generate(
            prompt_BT, attention_mask=torch.ones_like(prompt_BT), do_sample=False, max_new_tokens=50, pad_token_id=0
        )
        assert expected.tolist() == written


@families
def test_gradients_are_the_same(family: str, tmp_path: Path) -> None:
    reference = theirs(family, False, 1e4, **SHAPE)
    reference.save_pretrained(tmp_path)
    ours, ids_BT = import_model(tmp_path), torch.randint(0, 97, (2, 9))
    assert ours.head is not None
    for logits_BTV in (ours(ids_BT), reference(ids_BT).logits):
        logits_BTV.logsumexp(-1).sum().backward()  # type: ignore[no-untyped-call]
    keys = ours.blocks[0].get_parameter("attention.query_key_value.weight").grad
    assert keys is not None
    attention = reference.model.layers[0].self_attn
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    expected = torch.cat([projection.weight.grad for projection in projections])
    torch.testing.assert_close(keys, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.head.weight.grad, reference.lm_head.weight.grad, atol=1e-4, rtol=1e-4)


@families
def test_experts_are_grown_from_shared_heads_without_a_jump(family: str, tmp_path: Path) -> None:
    reference = theirs(family, True, 1e4, **SHAPE)
    reference.save_pretrained(tmp_path)
    ids_BT = torch.randint(0, 97, (2, 30))
    experts = SwitchHeadConfig(9, 8, n_expert=3, top_k=2, router="sigmoid")
    with torch.no_grad():
        grown = convert(import_model(tmp_path), experts, "exact", torch.Generator().manual_seed(0))
        torch.testing.assert_close(grown(ids_BT), reference(ids_BT).logits, atol=1e-4, rtol=1e-5)


def test_the_default_recipe_without_convolutions_is_a_qwen3(tmp_path: Path) -> None:
    """Its epsilon, MLP and head width are among what Qwen3 can be told."""
    config = GPTConfig(
        vocab_size=256, block_size=96, n_layer=3, n_head=4, n_embd=48, dropout=0.1,
        positions="rotary", norm="rms", activation="swiglu", qk_norm=True, bias=False,
    )  # fmt: skip
    ours = GPT(config)
    init_gpt2(ours, torch.Generator().manual_seed(0))
    export_model(tmp_path / "out", ours.eval(), make_tokenizer("bytes", "", 0))
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert isinstance(reference, Qwen3ForCausalLM)
    ids_BT = torch.randint(0, 256, (2, 96))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids_BT), reference(ids_BT).logits, atol=1e-5, rtol=1e-5)
    again = import_model(tmp_path / "out").config
    assert again == GPTConfig(**{**config.dimensions(), "dropout": 0.0})
