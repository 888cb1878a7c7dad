"""Our GPT-2 against the one of Hugging Face transformers: same weights, same logits, same continuation."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from troupe.decoding import Decoding, generate
from troupe.models.gpt2 import GPT, GPTConfig

SHAPES = [
    GPTConfig(vocab_size=97, block_size=32, n_layer=2, n_head=4, n_embd=48, dropout=0.1),
    GPTConfig(vocab_size=256, block_size=64, n_layer=3, n_head=2, n_embd=32, dropout=0.0),
]


def with_weights_of(reference: GPT2LMHeadModel, config: GPTConfig) -> GPT:
    """Copy transformers' weights across; its `Conv1D` holds matrices the other way round."""
    pairs = {
        "attn.c_attn": "attention.query_key_value",
        "attn.c_proj": "attention.output",
        "mlp.c_fc": "mlp.input",
        "mlp.c_proj": "mlp.output",
        "ln_1": "attention_norm",
        "ln_2": "mlp_norm",
        "transformer.wte": "token_embedding",
        "transformer.wpe": "position_embedding",
        "transformer.ln_f": "norm",
        "transformer.h": "blocks",
    }
    state = {}
    for name, tensor in reference.state_dict().items():
        matrix_of_conv = ".c_" in name and name.endswith("weight")
        for theirs, ours in pairs.items():
            name = name.replace(theirs, ours)
        state[name] = tensor.T if matrix_of_conv else tensor
    del state["lm_head.weight"]  # tied to the token embedding
    model = GPT(config)
    model.load_state_dict(state)
    return model.eval()


@pytest.fixture(scope="module", params=SHAPES, ids=["wide", "deep"])
def pair(request: pytest.FixtureRequest) -> tuple[GPT, GPT2LMHeadModel]:
    config: GPTConfig = request.param
    torch.manual_seed(0)
    reference = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.block_size,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_embd=config.n_embd,
            initializer_range=0.1,  # larger than GPT-2's, so that every part of the model moves the logits
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)  # transformers starts biases at zero, where a mistake would not show
    return with_weights_of(reference, config), reference


def test_same_logits(pair: tuple[GPT, GPT2LMHeadModel]) -> None:
    ours, reference = pair
    ids = torch.randint(0, ours.config.vocab_size, (3, ours.config.block_size))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), reference(ids).logits, atol=1e-5, rtol=0)


def test_same_gradients(pair: tuple[GPT, GPT2LMHeadModel]) -> None:
    ours, reference = pair
    ids = torch.randint(0, ours.config.vocab_size, (2, 9))
    for model, logits in ((ours, ours(ids)), (reference, reference(ids).logits)):
        model.zero_grad()
        logits.logsumexp(-1).sum().backward()
    torch.testing.assert_close(
        ours.token_embedding.weight.grad, reference.transformer.wte.weight.grad, atol=1e-4, rtol=1e-4
    )


def test_same_greedy_continuation(pair: tuple[GPT, GPT2LMHeadModel]) -> None:
    ours, reference = pair
    prompt = torch.randint(0, ours.config.vocab_size, (4, 5))
    n_new = ours.config.block_size - 5
    continued = generate(ours, prompt, n_new, Decoding(greedy=True), torch.Generator())
    expected = reference.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        min_new_tokens=n_new,
        max_new_tokens=n_new,
        pad_token_id=0,
    )
    assert continued.tolist() == expected.tolist()
