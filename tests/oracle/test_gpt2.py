"""Our GPT-2 against the one of Hugging Face transformers, read from its folders and written for it to open."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from troupe.bundles.export import export_model
from troupe.bundles.huggingface import import_model
from troupe.data.bpe import make_tokenizer
from troupe.data.tokenizer import Kind
from troupe.decoding import Decoding, generate
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT
from troupe.training.loop import cross_entropy

SHAPES = {
    "three heads": GPTConfig(vocab_size=97, block_size=32, n_layer=2, n_head=3, n_embd=48, dropout=0.1),
    "seven heads": GPTConfig(vocab_size=301, block_size=17, n_layer=1, n_head=7, n_embd=35, dropout=0.0),
    "deep": GPTConfig(vocab_size=256, block_size=64, n_layer=5, n_head=2, n_embd=32, dropout=0.0),
}
TEXT = "The cat sat on the mat; the hat, the rat.\n\n  Größe 42 naïve cafés 😀 don't " * 20
Pair = tuple[GPT, GPT2LMHeadModel]


def reference_model(config: GPTConfig, seed: int = 0) -> GPT2LMHeadModel:
    """A GPT-2 of transformers with random weights, larger than GPT-2's, so that every part of it moves the logits."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.block_size,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_embd=config.n_embd,
            resid_pdrop=config.dropout,
            initializer_range=0.1,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or ".ln_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))  # from zeros and ones, where a mistake hides
    return model.eval()


def imported(config: GPTConfig, folder: Path) -> Pair:
    """theirs -> save_pretrained -> ours."""
    reference = reference_model(config)
    reference.save_pretrained(folder)
    ours = import_model(folder)
    assert ours.config == config
    return ours, reference


def exported(config: GPTConfig, folder: Path) -> Pair:
    """ours -> export_model -> from_pretrained. The tokenizer, beside the point here, does not match."""
    torch.manual_seed(1)
    ours = GPT(config).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.1)
    export_model(folder, ours, make_tokenizer("bytes", "", 0))
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    assert isinstance(theirs, GPT2LMHeadModel)
    return ours, theirs.eval()


@pytest.fixture(scope="module", params=SHAPES)
def config(request: pytest.FixtureRequest) -> GPTConfig:
    return SHAPES[request.param]


@pytest.fixture(scope="module", params=[imported, exported], ids=["imported", "exported"])
def pair(request: pytest.FixtureRequest, config: GPTConfig, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    made: Pair = request.param(config, tmp_path_factory.mktemp("pair"))
    return made


def test_same_logits_and_loss(pair: Pair) -> None:
    ours, theirs = pair
    ids = torch.randint(0, ours.config.vocab_size, (3, ours.config.block_size))
    with torch.no_grad():
        answer = theirs(ids, labels=ids)
        torch.testing.assert_close(ours(ids), answer.logits, atol=1e-5, rtol=0)
        loss = cross_entropy(ours, ids[:, :-1], ids[:, 1:], torch.no_grad)
    assert loss.item() == pytest.approx(answer.loss.item(), abs=1e-5)


def test_same_gradients(pair: Pair) -> None:
    ours, theirs = pair
    ids = torch.randint(0, ours.config.vocab_size, (2, 9))
    for model, logits in ((ours, ours(ids)), (theirs, theirs(ids).logits)):
        model.zero_grad()
        logits.logsumexp(-1).sum().backward()
    torch.testing.assert_close(
        ours.token_embedding.weight.grad, theirs.transformer.wte.weight.grad, atol=1e-4, rtol=1e-4
    )


def test_same_greedy_continuation(pair: Pair) -> None:
    ours, theirs = pair
    prompt = torch.randint(0, ours.config.vocab_size, (4, 5))
    n_new = ours.config.block_size - 5
    continued = generate(ours, prompt, n_new, Decoding(greedy=True), range(4))
    expected = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        min_new_tokens=n_new,
        max_new_tokens=n_new,
        pad_token_id=0,
    )
    assert continued.tolist() == expected.tolist()


@given(
    n_head=st.integers(1, 5),
    head_width=st.integers(1, 6),
    n_layer=st.integers(1, 3),
    vocab_size=st.integers(1, 40),
    block_size=st.integers(2, 12),
    seed=st.integers(0, 99),
)
@settings(max_examples=15)
def test_any_shape_comes_back_to_the_bit(
    n_head: int,
    head_width: int,
    n_layer: int,
    vocab_size: int,
    block_size: int,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """theirs -> ours -> theirs: the same logits on the way, the same weights, bit for bit, at the end."""
    folder = tmp_path_factory.mktemp("round")
    reference = reference_model(GPTConfig(vocab_size, block_size, n_layer, n_head, n_head * head_width, 0.0), seed)
    reference.save_pretrained(folder / "theirs")
    ours = import_model(folder / "theirs")
    ids = torch.randint(0, vocab_size, (2, block_size))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), reference(ids).logits, atol=1e-5, rtol=0)
    export_model(folder / "ours", ours, make_tokenizer("bytes", "", 0))
    weights = [load_file(folder / whose / "model.safetensors") for whose in ("theirs", "ours")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("kind", ["bytes", "chars", "bpe"])
def test_the_exported_tokenizer_gives_the_same_ids_and_the_same_text_back(kind: Kind, tmp_path: Path) -> None:
    ours = make_tokenizer(kind, TEXT, 400)
    export_model(tmp_path, GPT(GPTConfig(ours.vocab_size, 4096, 1, 1, 4, 0.0)), ours)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("", " x", TEXT, "日本語 \x00\t\r\n  ½ don'T <|endoftext|> e\u0301"):
        assert theirs.encode(text) == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text
