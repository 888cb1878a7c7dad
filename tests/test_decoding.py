"""Laws of the filters and of the sampler, on a dense model and on one with experts."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from troupe.decoding import (
    Decoding,
    apply_temperature,
    generate,
    keep_top_k,
    keep_top_p,
    penalise_repetition,
    stream,
)
from troupe.errors import ParamsError
from troupe.models.gpt2 import GPT, GPTConfig, init_gpt2
from troupe.models.switchhead import SwitchHeadConfig, upcycle

CONFIG = GPTConfig(vocab_size=40, block_size=12, n_layer=2, n_head=2, n_embd=16, dropout=0.3)
GREEDY = Decoding(greedy=True)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dense() -> GPT:
    model = GPT(CONFIG)
    init_gpt2(model, rng())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=rng(parameter.numel()))
    return model.double().eval()


def with_experts() -> GPT:
    model = upcycle(dense(), SwitchHeadConfig(n_expert=4, top_k=2, router="sigmoid"), rng())
    with torch.no_grad():
        for parameter in model.parameters():  # away from the switch, so that routing matters
            parameter += 0.2 * torch.randn(parameter.shape, generator=rng(parameter.numel()), dtype=parameter.dtype)
    return model


@pytest.fixture(scope="module", params=[dense, with_experts], ids=["dense", "switchhead"])
def model(request: pytest.FixtureRequest) -> GPT:
    gpt: GPT = request.param()
    return gpt


def prompt(B: int = 3, T: int = 4) -> Tensor:
    return torch.randint(0, CONFIG.vocab_size, (B, T), generator=rng(T))


def generate_without_cache(model: GPT, ids_BT: Tensor, n_new: int) -> Tensor:
    """Greedy, the whole context through the model for every token; a full context restarts from its last half."""
    context = ids_BT[:, -CONFIG.block_size :]
    for _ in range(n_new):
        if context.size(1) > CONFIG.block_size:
            context = context[:, -(CONFIG.block_size // 2) :]
        next_B1 = model(context)[:, -1].argmax(-1, keepdim=True)
        context, ids_BT = (torch.cat([ids, next_B1], dim=1) for ids in (context, ids_BT))
    return ids_BT


@pytest.mark.parametrize("length", [1, 4, 11, 12, 13, 30])
@pytest.mark.parametrize("n_new", [1, 8, 30])
def test_cached_generation_equals_uncached_before_at_and_past_the_context(model: GPT, length: int, n_new: int) -> None:
    ids = prompt(T=length)
    generated = generate(model, ids, n_new, GREEDY, rng())
    assert generated.shape == (3, length + n_new)
    assert generated.tolist() == generate_without_cache(model, ids, n_new).tolist()


def test_a_long_prompt_counts_by_its_last_block(model: GPT) -> None:
    """But comes back whole."""
    long = prompt(T=30)
    full, last = (generate(model, ids, 5, GREEDY, rng()) for ids in (long, long[:, -CONFIG.block_size :]))
    assert full[:, :30].tolist() == long.tolist()
    assert full[:, 30:].tolist() == last[:, CONFIG.block_size :].tolist()


def test_streaming_yields_what_generate_returns(model: GPT) -> None:
    decoding = Decoding(temperature=0.9, top_k=10)
    streamed = torch.stack(list(stream(model, prompt(), 20, decoding, rng(5))), dim=1)
    assert streamed.tolist() == generate(model, prompt(), 20, decoding, rng(5))[:, 4:].tolist()


def test_no_new_tokens_give_the_prompt_back(model: GPT) -> None:
    assert generate(model, prompt(), 0, GREEDY, rng()).tolist() == prompt().tolist()


def test_an_empty_prompt_is_refused(model: GPT) -> None:
    with pytest.raises(ParamsError, match="the prompt is empty"):
        generate(model, prompt()[:, :0], 1, GREEDY, rng())


def test_the_generator_alone_decides_the_text(model: GPT) -> None:
    torch.manual_seed(1)
    first = generate(model, prompt(), 20, Decoding(), rng(5)).tolist()
    torch.manual_seed(2)
    assert generate(model, prompt(), 20, Decoding(), rng(5)).tolist() == first
    assert generate(model, prompt(), 20, Decoding(), rng(6)).tolist() != first


@pytest.mark.parametrize("decoding", [Decoding(temperature=1e-6), Decoding(top_k=1), Decoding(top_p=1e-9)], ids=repr)
def test_the_sharpest_sampling_is_greedy(model: GPT, decoding: Decoding) -> None:
    assert (
        generate(model, prompt(), 20, decoding, rng()).tolist() == generate(model, prompt(), 20, GREEDY, rng()).tolist()
    )


def test_generation_is_without_dropout_and_leaves_the_mode_as_it_was() -> None:
    model = dense().train()
    assert generate(model, prompt(), 8, GREEDY, rng()).tolist() == generate_without_cache(dense(), prompt(), 8).tolist()
    assert model.training


def test_generated_text_can_be_scored_with_gradients() -> None:
    """REINFORCE samples first and then scores with gradients, which tensors made in inference mode would refuse."""
    model = dense()
    model(generate(model, prompt(), 5, Decoding(), rng())).sum().backward()
    assert model.token_embedding.weight.grad is not None


def test_sampled_frequencies_follow_the_filtered_softmax() -> None:
    """Pearson's chi-square over 20,000 draws; for 9 degrees of freedom it exceeds 27.88 once in a thousand."""
    logits = 1.5 * torch.randn(12, generator=rng(3))
    decoding, n = Decoding(temperature=0.8, top_k=10), 20_000
    drawn = decoding.choose(logits.expand(n, -1), prompt(B=n), rng(4)).flatten()
    counts = torch.bincount(drawn, minlength=12)
    best = logits.topk(10).indices
    expected = n * (logits[best] / 0.8).softmax(0)
    assert counts.sum() == counts[best].sum() == n
    assert ((counts[best] - expected).square() / expected).sum() < 27.88


def test_the_model_itself_is_sampled_in_proportion() -> None:
    """The same for the next token of a model: the frequencies are those of its softmax."""
    model, ids, n = dense(), prompt(B=1), 20_000
    counts = torch.bincount(generate(model, ids.expand(n, -1), 1, Decoding(), rng())[:, -1], minlength=40)
    expected = n * model(ids)[0, -1].detach().softmax(0)
    common = expected > 5  # the usual rule for the test to hold
    statistic = ((counts - expected).square() / expected)[common].sum().item()
    degrees = int(common.sum()) - 1
    assert statistic < degrees + 4 * math.sqrt(2 * degrees)


logits_strategy = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=30).map(lambda x: torch.tensor([x]))


@given(logits_strategy, st.floats(0.01, 1))
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits: Tensor, p: float) -> None:
    kept = keep_top_p(logits, p).isfinite()[0]
    probabilities = logits.double().softmax(-1)[0]
    mass, least_kept = probabilities[kept].sum(), probabilities[kept].min()
    assert mass >= p - 1e-5
    assert mass - least_kept < p + 1e-5  # without its least likely member the set would not reach p
    assert (probabilities[~kept] <= least_kept + 1e-12).all()  # and no excluded token is likelier than a kept one


@given(logits_strategy, st.integers(1, 40))
def test_top_k_keeps_exactly_the_k_largest(logits: Tensor, k: int) -> None:
    kept = keep_top_k(logits, k).isfinite()[0]
    assert kept.sum() == min(k, logits.size(-1))
    assert (logits[0][~kept] <= logits[0][kept].min()).all()


@given(logits_strategy)
def test_filters_that_are_off_change_nothing(logits: Tensor) -> None:
    seen = torch.zeros(1, 1, dtype=torch.long)
    for same in (
        keep_top_p(logits, 1.0),
        keep_top_k(logits, logits.size(-1)),
        apply_temperature(logits, 1.0),
        penalise_repetition(logits, seen, 1.0),
        Decoding().filter(logits, seen),
    ):
        assert torch.equal(same, logits)


@given(logits_strategy, st.floats(0.05, 5), st.integers(1, 30))
def test_temperature_and_top_k_commute(logits: Tensor, temperature: float, k: int) -> None:
    one = keep_top_k(apply_temperature(logits, temperature), k)
    other = apply_temperature(keep_top_k(logits, k), temperature)
    assert torch.equal(one.softmax(-1).sort().values, other.softmax(-1).sort().values)


def test_temperature_by_hand() -> None:
    """At temperature 1/2 odds are squared: 1 to 3 becomes 1 to 9."""
    probabilities = apply_temperature(torch.tensor([[1.0, 3.0]]).log(), 0.5).softmax(-1)
    torch.testing.assert_close(probabilities, torch.tensor([[0.1, 0.9]]))


def test_top_p_by_hand() -> None:
    """Of 0.5, 0.3, 0.15, 0.05 the first two reach 0.8 and the first three are needed for 0.81."""
    logits = torch.tensor([[0.3, 0.05, 0.5, 0.15]]).double().log()
    assert keep_top_p(logits, 0.79).isfinite().tolist() == [[True, False, True, False]]
    assert keep_top_p(logits, 0.81).isfinite().tolist() == [[True, False, True, True]]


def test_repetition_by_hand() -> None:
    """Tokens 0 and 1 were seen: 2 is halved, -2 is doubled; a token seen twice is penalised once."""
    logits = torch.tensor([[2.0, -2.0, 2.0]])
    penalised = penalise_repetition(logits, torch.tensor([[0, 1, 1]]), 2.0)
    assert penalised.tolist() == [[1.0, -4.0, 2.0]]


def test_a_strong_penalty_ends_repetition() -> None:
    text = generate(dense(), prompt(B=4, T=1), 11, Decoding(greedy=True, repetition_penalty=1e6), rng())
    assert all(len(set(row)) == len(row) for row in text.tolist())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"temperature": math.nan}, "temperature must be above 0, got nan"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0, got 0.0"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        Decoding(**values)
