"""The model in the page: eight bits a weight, and JavaScript that computes what Python computes.

Shapes: B texts, T tokens, V vocabulary.
"""

import base64
import itertools
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.conftest import ROOT
from tests.evaluation.javascript import bound, greedy_text, in_float64, in_node, needs_node
from tests.models.test_ngrams import text
from troupe.bundles.bundle import Bundle
from troupe.data.bpe import make_tokenizer
from troupe.data.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer
from troupe.decoding import Decoding, generate
from troupe.evaluation import embedded
from troupe.evaluation.embedded import embed, pack, pack_tokenizer, quantise, quantised
from troupe.inspection.shapes import shapes_wanted
from troupe.judging.protocol import HeldOut
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, CausalSelfAttention
from troupe.models.mixing import Mixture, mixed
from troupe.models.ngrams import NGrams
from troupe.models.switchhead import SwitchHead, SwitchHeadConfig
from troupe.models.tilted import tilted
from troupe.params import load_params
from troupe.seeding import generator

EPS = torch.finfo(torch.float32).eps
EXPERTS = {
    "dense": None,
    "sigmoid": SwitchHeadConfig(3, 4, n_expert=4, top_k=2, router="sigmoid"),
    "softmax": SwitchHeadConfig(2, 6, n_expert=3, top_k=1, router="softmax"),
}


def model(experts: SwitchHeadConfig | None = None, vocab_size: int = 20, **config: Any) -> GPT:
    """Of trained size, so that every part matters."""
    dimensions = {"block_size": 10, "n_layer": 2, "n_head": 2, "n_embd": 12, "dropout": 0.1, **config}
    attention = partial(SwitchHead, experts=experts) if experts else CausalSelfAttention
    found = GPT(GPTConfig(vocab_size, **dimensions), attention)
    with torch.no_grad():
        for number, (name, parameter) in enumerate(found.named_parameters()):
            nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.5, generator=generator(number, "page"))
    return found.eval()


def ids(T: int, vocab_size: int = 20) -> Tensor:
    return torch.from_numpy(text(T, 9, vocab_size).astype(np.int64))


@given(st.integers(0, 2**32), st.floats(1e-30, 1e30), st.integers(1, 5), st.integers(1, 40))
def test_a_weight_is_off_by_half_a_step_at_most(seed: int, size: float, outputs: int, n: int) -> None:
    """Beside the roundings of w / scale and q * scale, which are at most 127 units each."""
    weight_OI = size * torch.randn(outputs, n, generator=torch.Generator().manual_seed(seed))
    found = quantise(weight_OI)
    off_OI = (found.matrix().double() - weight_OI.double()).abs()
    assert (off_OI <= found.scale_O1.double() * (0.5 + 127 * EPS)).all()
    assert (found.q_OI.abs().amax(1) == 127).all()
    again = quantise(found.matrix())
    assert torch.equal(again.q_OI, found.q_OI), "what is on the grid stays where it is"


def test_zeros_stay_zero_and_what_is_not_finite_is_refused() -> None:
    weight_OI = torch.tensor([[0.0, 0.0], [1.0, -2.0]])
    assert torch.equal(quantise(weight_OI).matrix()[0], torch.zeros(2))
    with pytest.raises(ValueError, match="not finite"):
        quantise(torch.tensor([[1.0, torch.inf]]))


def test_matrices_alone_are_rounded_and_routers_are_not() -> None:
    start = model(EXPERTS["sigmoid"], positions="rotary", norm="rms", conv=3, qk_norm=True)
    changed = {
        name
        for name, tensor in quantised(start).state_dict().items()
        if not torch.equal(tensor, start.state_dict()[name])
    }
    of_blocks = {"attention.query_key", "attention.value", "attention.output", "mlp.input", "mlp.output"}
    assert changed == {f"blocks.{n}.{part}.weight" for n in (0, 1) for part in of_blocks} | {"token_embedding.weight"}


@needs_node
def test_the_page_unpacks_the_very_weights_that_python_rounds_to() -> None:
    start = model(EXPERTS["sigmoid"])
    program = """
        const { tensors } = new exported.Transformer(given);
        const base64 = ({ data }) => Buffer.from(data.buffer).toString("base64");
        return Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, base64(tensor)]));
    """
    unpacked = in_node("transformer.js", program, pack(start))
    expected = quantised(start).state_dict()
    assert set(unpacked) == set(expected)
    for name, content in unpacked.items():
        assert base64.b64decode(content) == expected[name].numpy().astype("<f4").tobytes(), name


@needs_node
@pytest.mark.slow
@pytest.mark.parametrize("experts", EXPERTS.values(), ids=EXPERTS)
def test_logits_are_python_s_for_every_architecture(experts: SwitchHeadConfig | None) -> None:
    """Both compute in float64 with the same weights; how far roundings may take them, those of float32 show."""
    names = ("positions", "norm", "activation", "conv", "qk_norm", "bias")
    every = itertools.product(
        ("rotary", "learned"), ("rms", "layer"), ("gelu", "relu2", "swiglu"), (0, 3), (True, False), (True, False)
    )
    models = [model(experts, **dict(zip(names, values, strict=True))) for values in every]
    ids_T = ids(10)
    program = """return given.models.map((packed) => {
        const model = new exported.Transformer(packed);
        return given.ids.map((id) => Array.from(model.next(id)));
    })"""
    found = in_node("transformer.js", program, {"models": [pack(one) for one in models], "ids": ids_T.tolist()})
    for one, logits in zip(models, found, strict=True):
        with torch.no_grad():
            in_32, in_64 = (network(ids_T[None])[0].double() for network in (quantised(one), in_float64(one)))
        off_in_32 = (in_32 - in_64).abs().max().item()
        assert 0 < off_in_32 < 1e-3 * in_64.abs().max(), "float32 has chosen another expert: no measure of roundings"
        off = (torch.tensor(logits, dtype=torch.float64) - in_64).abs().max().item()
        assert off <= bound(off_in_32, longest_sum=48), one.config


@needs_node
@pytest.mark.parametrize("experts", EXPERTS.values(), ids=EXPERTS)
def test_greedy_text_is_python_s_for_a_hundred_tokens(
    experts: SwitchHeadConfig | None, record_property: Callable[[str, object], None]
) -> None:
    """The context is full many times over."""
    whole = model(experts, vocab_size=50, positions="rotary", norm="rms", activation="swiglu", conv=3, qk_norm=True)
    prompt = [3, 1, 4]
    program = """
        const model = new exported.Transformer(given.model);
        return [...exported.generate(model, given.prompt, 100, 0, null)];
    """
    found = in_node("transformer.js", program, {"model": pack(whole), "prompt": prompt})
    assert found == greedy_text(whole, prompt, 100)
    assert len(set(found)) > 5, "a text that repeats one token shows little"
    of_whole = generate(whole, torch.tensor([prompt]), 100, Decoding(greedy=True), [0])[0, len(prompt) :].tolist()
    alike = next((n for n, pair in enumerate(zip(found, of_whole, strict=True)) if pair[0] != pair[1]), 100)
    record_property("greedy tokens that are the unrounded model's too", alike)


@needs_node
def test_random_tokens_come_as_often_as_their_probabilities_say() -> None:
    """4000 draws; of each token within 5 standard deviations. The same seed draws the same, another others."""
    logits = [0.0, 1.0, -1.0, 2.0, -30.0]
    program = """return given.seeds.map((seed) => {
        const random = exported.randomNumbers(seed);
        return Array.from({ length: 4000 }, () => exported.choose(given.logits, 0.7, random));
    })"""
    one, same, other = in_node("transformer.js", program, {"logits": logits, "seeds": [1, 1, 2]})
    assert one == same != other
    p_V = (torch.tensor(logits) / 0.7).softmax(-1)
    count_V = torch.bincount(torch.tensor(one), minlength=5)
    assert ((count_V - 4000 * p_V).abs() <= 5 * (4000 * p_V * (1 - p_V)).sqrt() + 1e-3).all()


WORDS = "It's a test; they'll see 1234 naïve cafés,\n\n\tand 日本 😀!  Two  blanks \x85\ufeff\xa0x "
TOKENIZERS: dict[str, Tokenizer] = {
    "bytes": ByteTokenizer(),
    "chars": CharTokenizer("".join(sorted(set("It's a test é日\n")))),
    "bpe": make_tokenizer("bpe", WORDS * 3 + "see the sea there then " * 9, 330),
}


@needs_node
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_text_is_cut_into_python_s_tokens(kind: str) -> None:
    """Fixed texts, and a thousand random ones of characters that the expression treats differently."""
    tokenizer, rng = TOKENIZERS[kind], np.random.default_rng(0)
    characters = list("aeIst'lv1٣ \n\t\r\x0b\x1c\x85\xa0\u2028\u3000\ufeff\u180e.,-é日😀\u0301ⅷ²")
    texts = [WORDS, "", " ", "\n", "<|endoftext|>", *("".join(rng.choice(characters, n % 30)) for n in range(1000))]
    program = """
        const tokenizer = new exported.Tokenizer(given.tokenizer);
        return given.texts.map((text) => {
            const ids = tokenizer.encode(text);
            return [ids, Buffer.from(tokenizer.bytes(ids)).toString()];
        })"""
    found = in_node("tokenizer.js", program, {"tokenizer": pack_tokenizer(tokenizer), "texts": texts})
    for text_, (ids_, decoded) in zip(texts, found, strict=True):
        assert ids_ == tokenizer.encode(text_), repr(text_)
        assert decoded == text_


def bundle(network: GPT, tokenizer: Tokenizer) -> Bundle:
    return Bundle(network, tokenizer, {}, "")


def held_out(content: str, tokenizer: Tokenizer) -> HeldOut:
    return HeldOut(content.encode(), tokenizer.encode_array(content), None)  # type: ignore[arg-type]


def test_it_measures_what_rounding_costs_and_says_what_python_writes() -> None:
    tokenizer = TOKENIZERS["bpe"]
    network = model(EXPERTS["sigmoid"], tokenizer.vocab_size)
    test = held_out(WORDS * 4, tokenizer)
    found = embed("moe", bundle(network, tokenizer), test, 5, "It")
    assert (found.stage, found.tilted, found.refused) == ("moe", False, None)
    assert found.bits is not None
    assert found.greedy is not None
    assert len(found.greedy.ids) == 100
    exact = embed("moe", bundle(quantised(network), tokenizer), test, 5, "It")
    assert exact.bits is not None
    assert exact.bits.float32 == exact.bits.int8 == found.bits.int8 != found.bits.float32
    assert exact.greedy is not None
    assert exact.greedy.as_float32 == 100
    assert found.greedy.as_float32 <= 100


def test_of_a_tilted_model_it_takes_the_network_alone() -> None:
    network = model(vocab_size=256)
    whole = tilted(network, NGrams.counted(text(500, 1, 256), 3, 256))
    whole.tilt.data.fill_(0.3)
    test = held_out(WORDS, ByteTokenizer())
    found, alone = (embed("adversarial", bundle(one, ByteTokenizer()), test, 5, "It") for one in (whole, network))
    assert found.tilted
    assert found.data == alone.data
    assert found.bits == alone.bits


def test_what_params_yaml_asks_for_fits() -> None:
    params = load_params(ROOT / "params.yaml")
    for shape in shapes_wanted(params).values():
        assert len(json.dumps(pack(shape.build()))) < embedded.LIMIT


def test_what_does_not_fit_is_left_out_and_a_line_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    network, test = model(vocab_size=256), held_out(WORDS, ByteTokenizer())
    size = len(base64.b64encode(bytes(sum(weights.numel() for weights in network.parameters()))))
    for limit in (size - 4, size + 4):  # by the number of weights alone; with all that stands beside them
        monkeypatch.setattr(embedded, "LIMIT", limit)
        found = embed("pretrain", bundle(network, ByteTokenizer()), test, 5, "It")
        assert found.data is None
        assert found.refused is not None
        assert found.refused.startswith("at eight bits a weight it would add 0.0 MB to this page, more than")


def test_what_public_weights_bring_no_page_computes() -> None:
    network = GPT(GPTConfig(256, 16, 1, 2, 8, 0.0, n_kv_head=1))
    found = embed("pretrain", bundle(network, ByteTokenizer()), held_out(WORDS, ByteTokenizer()), 5, "It")
    assert found.data is None
    assert found.refused == "it has the shape or the tokenizer of public weights, which no page computes"


def test_what_mixes_counts_is_not_shown_as_its_network_alone() -> None:
    mixture = Mixture.counted(text(500, 1, 256), 3, ByteTokenizer())
    whole = mixed(model(vocab_size=256), mixture)
    found = embed("adversarial", bundle(whole, ByteTokenizer()), held_out(WORDS, ByteTokenizer()), 5, "It")
    assert (found.data, found.refused) == (None, "it mixes counts, which no page computes")
