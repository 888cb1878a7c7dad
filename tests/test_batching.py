"""A text of a batch that others join and leave is the text that `decoding.stream` writes alone."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.test_decoding import CONFIG, MODERN, dense, modern, modern_with_experts, rng, with_experts
from troupe.batching import Batch, Text, rows_at_once
from troupe.decoding import Decoding, generate, side_by_side
from troupe.errors import ArtifactError, ParamsError
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT
from troupe.models.layers import KVCache, LayerCache
from troupe.models.ngrams import NGrams
from troupe.models.tilted import tilted

DECODINGS = [
    Decoding(),
    Decoding(greedy=True),
    Decoding(temperature=0.7, top_k=10, top_p=0.9),
    Decoding(repetition_penalty=1.5, min_p=0.01),
]


def with_convolutions() -> GPT:
    return dense(replace(MODERN, conv=4, activation="swiglu"))


def tilted_by_ngrams() -> GPT:
    counted = torch.randint(0, CONFIG.vocab_size, (4000,), generator=rng(5)).sort().values  # with repeated n-grams
    model = tilted(with_convolutions(), NGrams.counted(counted.numpy(), 5, CONFIG.vocab_size).double())
    with torch.no_grad():
        model.tilt.copy_(0.3 * torch.randn(9, generator=rng(6)))
    return model.double()


def with_shared_keys() -> GPT:
    return dense(replace(MODERN, n_kv_head=1, tied=False))


MODELS = [dense, with_experts, modern, modern_with_experts, with_convolutions, with_shared_keys, tilted_by_ngrams]


@pytest.fixture(scope="module", params=MODELS, ids=lambda make: make.__name__)
def model(request: pytest.FixtureRequest) -> GPT:
    gpt: GPT = request.param()
    return gpt


def text(number: int) -> Text:
    """One of many prompts, lengths, ways of decoding and seeds, from one token to past the context of 12."""
    length, n_new = (1, 3, 12, 7, 30, 11)[number % 6], (9, 30, 2, 14)[number % 4]
    ids = torch.randint(0, CONFIG.vocab_size, (length,), generator=rng(number)).tolist()
    return Text(ids, n_new, DECODINGS[number % len(DECODINGS)], seed=100 + number)


def alone(model: GPT, one: Text, seed: int) -> list[int]:
    ids_1T = torch.tensor([one.ids[: one.n_prompt]])
    written: list[int] = generate(model, ids_1T, one.n_new, one.decoding, [seed])[0].tolist()
    return written


def test_a_text_is_the_same_whoever_joins_and_leaves_beside_it(model: GPT) -> None:
    batch, texts, step = Batch(model), [text(number) for number in range(14)], 0
    joining = {0: texts[:1], 1: texts[1:6], 4: texts[6:9], 5: texts[9:13], 40: texts[13:]}  # 40: after an empty time
    while step <= 40 or len(batch):
        for one in joining.get(step, []):
            batch.add(one)
        if len(batch):
            for one in batch.step()[0]:
                if one.is_full:
                    batch.remove(one)
        step += 1
    batch.close()
    for number, one in enumerate(texts):
        assert one.ids == alone(model, one, 100 + number), number


def test_one_that_is_removed_leaves_the_others_as_they_were(model: GPT) -> None:
    batch, texts = Batch(model), [text(number) for number in (1, 5, 9, 13)]
    for one in texts:
        batch.add(one)
    batch.remove(texts[3])  # before it was read
    for _ in range(3):
        batch.step()
    batch.remove(texts[0])
    batch.remove(texts[0])  # twice is once
    while len(batch):
        for one in batch.step()[0]:
            if one.is_full:
                batch.remove(one)
    assert (texts[0].n_written, texts[3].n_written) == (3, 0)
    for number, one in ((5, texts[1]), (9, texts[2])):
        assert one.ids == alone(model, one, 100 + number)


def test_logits_of_a_step_are_those_that_its_tokens_were_drawn_from() -> None:
    model = modern()
    batch, texts = Batch(model), [Text([1, 2, 3][:n], 4, Decoding(greedy=True), 0) for n in (1, 2, 3)]
    for one in texts:
        batch.add(one)
    for _ in range(4):
        found, logits_BV = batch.step()
        assert found == texts
        assert [one.ids[-1] for one in texts] == logits_BV.argmax(-1).tolist()
        for one, logits_V in zip(texts, logits_BV, strict=True):
            torch.testing.assert_close(logits_V, model(torch.tensor([one.ids[:-1]]))[0, -1], atol=1e-10, rtol=0)


def test_a_batch_gives_the_model_back() -> None:
    model = dense()
    batch = Batch(model)
    assert all(module._compiled_call_impl is not None for module in model.modules())
    batch.close()
    assert all(module._compiled_call_impl is None for module in model.modules())


def test_an_empty_prompt_and_damaged_weights_are_refused() -> None:
    with pytest.raises(ParamsError, match="the prompt is empty"):
        Text([], 1, Decoding(), 0)
    model = dense()
    with torch.no_grad():
        model.norm.weight.fill_(torch.nan)
    batch = Batch(model)
    batch.add(text(1))
    with pytest.raises(ArtifactError, match="gives no probabilities"):
        batch.step()


@pytest.mark.parametrize(
    ("layers", "rows"), [(4, 32), (12, 14), (48, 1)], ids=["the default", "GPT-2", "larger than a gigabyte a text"]
)
def test_as_many_texts_as_find_room(layers: int, rows: int) -> None:
    sizes = {4: (128, 192), 12: (1024, 768), 48: (4096, 1600)}
    block_size, width = sizes[layers]
    with torch.device("meta"):
        model = GPT(GPTConfig(50_257, block_size, layers, 4, width, 0.0))
    assert rows_at_once(model, most=32) == rows


def experts_from_shared_keys() -> GPT:
    """Of four heads that share one of keys and values."""
    return with_experts(replace(CONFIG, n_head=4, head_width=8, n_kv_head=1))


@pytest.mark.parametrize("make", [*MODELS, experts_from_shared_keys], ids=lambda make: make.__name__)
def test_room_is_reckoned_with_what_layers_cache(make: Callable[[], GPT], monkeypatch: pytest.MonkeyPatch) -> None:
    model, extend, widths = make(), LayerCache.extend, set()

    def noting(cache: LayerCache, k_BHTK: Tensor, v_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        widths.update(one_BHTK.size(1) * one_BHTK.size(3) for one_BHTK in (k_BHTK, v_BHTK))
        return extend(cache, k_BHTK, v_BHTK)

    monkeypatch.setattr(LayerCache, "extend", noting)
    model(torch.zeros(1, 2, dtype=torch.long), KVCache(model.config.n_layer, 2))
    assert widths == {model.cache_width}
    a_text = model.config.block_size * 2 * model.config.n_layer * model.cache_width
    logits = model.config.block_size * model.config.vocab_size
    assert rows_at_once(model, most=2**28) == 2**28 // a_text
    assert side_by_side(model) == 2**28 // (a_text + logits)
