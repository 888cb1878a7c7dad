"""Laws of the filters and of the sampler, on a dense model and on one with experts."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from troupe.conversion.attention import convert
from troupe.decoding import (
    Decoding,
    apply_temperature,
    draw,
    generate,
    keep_min_p,
    keep_top_p,
    likeliest,
    penalise_repetition,
    stream,
    uniforms,
)
from troupe.errors import ArtifactError, ParamsError
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.switchhead import SwitchHeadConfig

CONFIG = GPTConfig(vocab_size=40, block_size=12, n_layer=2, n_head=2, n_embd=16, dropout=0.3)
MODERN = replace(CONFIG, positions="rotary", norm="rms", qk_norm=True, activation="relu2", bias=False)
GREEDY = Decoding(greedy=True)
SEEDS = [11, 12, 13]
SHARPEST = [Decoding(temperature=1e-6), Decoding(temperature=1e-30), Decoding(top_k=1), Decoding(top_p=1e-9)]
SHARPEST += [Decoding(min_p=1.0)]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dense(config: GPTConfig = CONFIG) -> GPT:
    model = GPT(config)
    init_gpt2(model, rng())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=rng(parameter.numel()))
    return model.double().eval()


def modern() -> GPT:
    return dense(MODERN)


def with_experts(config: GPTConfig = CONFIG) -> GPT:
    model = convert(
        dense(config), SwitchHeadConfig(config.n_head, 8, n_expert=4, top_k=2, router="sigmoid"), "exact", rng()
    )
    with torch.no_grad():
        for parameter in model.parameters():  # away from the switch, so that routing matters
            parameter += 0.2 * torch.randn(parameter.shape, generator=rng(parameter.numel()), dtype=parameter.dtype)
    return model


def modern_with_experts() -> GPT:
    return with_experts(MODERN)


@pytest.fixture(
    scope="module", params=[dense, with_experts, modern, modern_with_experts], ids=lambda make: make.__name__
)
def model(request: pytest.FixtureRequest) -> GPT:
    gpt: GPT = request.param()
    return gpt


def prompt(B: int = 3, T: int = 4) -> Tensor:
    return torch.randint(0, CONFIG.vocab_size, (B, T), generator=rng(T))


def generate_without_cache(model: GPT, ids_BT: Tensor, n_new: int) -> Tensor:
    """Greedy, the whole context through the model for every token; a full context restarts from its last half."""
    block_size = model.config.block_size
    context = ids_BT[:, -block_size:]
    for _ in range(n_new):
        if context.size(1) > block_size:
            context = context[:, -max(1, block_size // 2) :]
        next_B1 = model(context)[:, -1].argmax(-1, keepdim=True)
        context, ids_BT = (torch.cat([ids, next_B1], dim=1) for ids in (context, ids_BT))
    return ids_BT


@pytest.mark.parametrize("length", [1, 4, 11, 12, 13, 30])
@pytest.mark.parametrize("n_new", [1, 8, 30])
def test_cached_generation_equals_uncached_before_at_and_past_the_context(model: GPT, length: int, n_new: int) -> None:
    ids = prompt(T=length)
    generated = generate(model, ids, n_new, GREEDY, SEEDS)
    assert generated.shape == (3, length + n_new)
    assert generated.tolist() == generate_without_cache(model, ids, n_new).tolist()


@pytest.mark.parametrize("length", [1, 4, 30])
def test_cached_logits_equal_uncached_logits_in_single_precision(model: GPT, length: int) -> None:
    """All that the sampler sees, over three contexts: each window through the model at once gives the same."""
    model, half, block = copy.deepcopy(model).float(), CONFIG.block_size // 2, CONFIG.block_size
    cached: list[Tensor] = []
    model.register_forward_hook(lambda _module, _ids, logits_BTV: cached.append(logits_BTV[:, -1]))
    ids = generate(model, prompt(T=length), 3 * block, Decoding(), SEEDS)
    start, watched = max(0, length - block), cached.copy()
    for end, logits_BV in enumerate(watched, length):
        start = end - half if end - start > block else start
        torch.testing.assert_close(logits_BV, model(ids[:, start:end])[:, -1], atol=1e-5, rtol=0)


def test_a_long_prompt_counts_by_its_last_block(model: GPT) -> None:
    """But comes back whole."""
    long = prompt(T=30)
    full, last = (generate(model, ids, 5, GREEDY, SEEDS) for ids in (long, long[:, -CONFIG.block_size :]))
    assert full[:, :30].tolist() == long.tolist()
    assert full[:, 30:].tolist() == last[:, CONFIG.block_size :].tolist()


def test_streaming_yields_what_generate_returns(model: GPT) -> None:
    decoding = Decoding(temperature=0.9, top_k=10)
    streamed = torch.stack(list(stream(model, prompt(), 20, decoding, SEEDS)), dim=1)
    assert streamed.tolist() == generate(model, prompt(), 20, decoding, SEEDS)[:, 4:].tolist()


def test_no_new_tokens_give_the_prompt_back(model: GPT) -> None:
    assert generate(model, prompt(), 0, GREEDY, SEEDS).tolist() == prompt().tolist()


def test_an_empty_prompt_is_refused(model: GPT) -> None:
    with pytest.raises(ParamsError, match="the prompt is empty"):
        generate(model, prompt()[:, :0], 1, GREEDY, SEEDS)


def test_every_sequence_needs_a_seed(model: GPT) -> None:
    with pytest.raises(ValueError, match="2 seeds for 3 sequences"):
        generate(model, prompt(), 1, Decoding(), SEEDS[:2])


def test_the_seeds_alone_decide_the_text(model: GPT) -> None:
    torch.manual_seed(1)
    first = generate(model, prompt(), 20, Decoding(), SEEDS).tolist()
    torch.manual_seed(2)
    assert generate(model, prompt(), 20, Decoding(), SEEDS).tolist() == first
    other = generate(model, prompt(), 20, Decoding(), [21, *SEEDS[1:]]).tolist()
    assert other[0] != first[0]
    assert other[1:] == first[1:]


@pytest.mark.parametrize("decoding", [Decoding(), Decoding(1.2, 0.8, 20, 0.9, 0.02)], ids=["plain", "filtered"])
def test_a_sequence_is_the_same_alone_in_a_batch_and_at_any_place_of_it(model: GPT, decoding: Decoding) -> None:
    """Five different prompts, past the context; in double precision, so that no draw hangs on rounding."""
    ids_BT, seeds = prompt(B=5), [31, 32, 33, 34, 35]
    together = generate(model, ids_BT, 30, decoding, seeds)
    assert len({tuple(row) for row in together[:, 4:].tolist()}) == 5
    for row in range(5):
        alone = generate(model, ids_BT[row : row + 1], 30, decoding, seeds[row : row + 1])
        assert alone[0].tolist() == together[row].tolist()
    places = [3, 0, 4, 1, 2]
    moved = generate(model, ids_BT[places], 30, decoding, [seeds[row] for row in places])
    assert moved.tolist() == together[places].tolist()


def test_a_longer_text_begins_as_a_shorter_one(model: GPT) -> None:
    long = generate(model, prompt(), 25, Decoding(), SEEDS)
    assert generate(model, prompt(), 7, Decoding(), SEEDS).tolist() == long[:, :11].tolist()


def test_random_numbers_are_uniform_and_independent_of_neighbours() -> None:
    """Of 400,000 numbers, the mean within 5 standard errors; different seeds and places uncorrelated."""
    u_BN = uniforms(range(400), 1000)
    assert u_BN.min() >= 0
    assert u_BN.max() < 1
    error = 5 / math.sqrt(u_BN.numel())
    centred = (u_BN - 0.5) * math.sqrt(12)  # of variance 1
    assert centred.mean().abs() < error
    assert (centred[1:] * centred[:-1]).mean().abs() < error
    assert (centred[:, 1:] * centred[:, :-1]).mean().abs() < error


def stopped_by_hand(free: list[list[int]], stop: int) -> list[list[int]]:
    """Every row up to its first stop token, which fills it up to where the last one stops."""
    lengths = [row.index(stop) + 1 if stop in row else len(row) for row in free]
    return [row[:n] + [stop] * (max(lengths) - n) for row, n in zip(free, lengths, strict=True)]


@pytest.mark.parametrize("everyone", [True, False], ids=["all stop", "not all stop"])
def test_a_sequence_that_has_drawn_the_stop_token_goes_on_with_nothing_else(model: GPT, everyone: bool) -> None:
    """Otherwise the texts are the same; generation ends with the longest of them, or after n_new tokens."""
    free = generate(model, prompt(), 40, Decoding(), SEEDS)[:, 4:].tolist()
    stop = next(token for token in free[0] if all(token in row for row in free) == everyone)
    stopped = generate(model, prompt(), 40, Decoding(), SEEDS, stop)[:, 4:].tolist()
    assert stopped == stopped_by_hand(free, stop)
    assert (len(stopped[0]) < 40) == everyone
    assert stopped != [row[: len(stopped[0])] for row in free]


def test_a_stop_token_in_the_prompt_stops_nothing(model: GPT) -> None:
    free = generate(model, prompt(), 20, Decoding(), SEEDS)
    stop = int(free[0, 0])
    assert generate(model, prompt(), 20, Decoding(), SEEDS, stop)[:, 4:].tolist() == stopped_by_hand(
        free[:, 4:].tolist(), stop
    )


def test_a_context_of_one_token_slides_too() -> None:
    model = GPT(replace(CONFIG, block_size=1)).double().eval()
    assert generate(model, prompt(), 4, GREEDY, SEEDS).tolist() == generate_without_cache(model, prompt(), 4).tolist()


@pytest.mark.parametrize("decoding", SHARPEST, ids=repr)
def test_the_sharpest_sampling_is_greedy(model: GPT, decoding: Decoding) -> None:
    sharpest, greedy = (generate(model, prompt(), 20, way, SEEDS).tolist() for way in (decoding, GREEDY))
    assert sharpest == greedy


def test_generation_is_without_dropout_and_leaves_the_mode_as_it_was() -> None:
    model = dense().train()
    assert generate(model, prompt(), 8, GREEDY, SEEDS).tolist() == generate_without_cache(dense(), prompt(), 8).tolist()
    assert model.training


def test_generated_text_can_be_scored_with_gradients() -> None:
    """REINFORCE samples first and then scores with gradients, which tensors made in inference mode would refuse."""
    model = dense()
    model(generate(model, prompt(), 5, Decoding(), SEEDS)).sum().backward()
    assert model.token_embedding.weight.grad is not None


def test_sampled_frequencies_follow_the_filtered_softmax() -> None:
    """Pearson's chi-square over 20,000 draws; for 9 degrees of freedom it exceeds 27.88 once in a thousand."""
    logits = 1.5 * torch.randn(12, generator=rng(3))
    decoding, n = Decoding(temperature=0.8, top_k=10), 20_000
    drawn = decoding.choose(logits.expand(n, -1), prompt(B=n), uniforms([4], n).T).flatten()
    counts = torch.bincount(drawn, minlength=12)
    best = logits.topk(10).indices
    expected = n * (logits[best] / 0.8).softmax(0)
    assert counts.sum() == counts[best].sum() == n
    assert ((counts[best] - expected).square() / expected).sum() < 27.88


def test_the_model_itself_is_sampled_in_proportion() -> None:
    """The same for the next token of a model: the frequencies are those of its softmax."""
    model, ids, n = dense(), prompt(B=1), 20_000
    counts = torch.bincount(generate(model, ids.expand(n, -1), 1, Decoding(), range(n))[:, -1], minlength=40)
    expected = n * model(ids)[0, -1].detach().softmax(0)
    common = expected > 5  # the usual rule for the test to hold
    statistic = ((counts - expected).square() / expected)[common].sum().item()
    degrees = int(common.sum()) - 1
    assert statistic < degrees + 4 * math.sqrt(2 * degrees)


def keep_top_k(logits_BV: Tensor, k: int) -> Tensor:
    """What `likeliest` finds as a filter, to be held against the others."""
    logits_BK, ids_BK = likeliest(logits_BV, k)
    return torch.full_like(logits_BV, -torch.inf).scatter(-1, ids_BK, logits_BK)


logits_strategy = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=30).map(lambda x: torch.tensor([x]))


@given(logits_strategy)
def test_top_p_never_keeps_nothing(logits: Tensor) -> None:
    assert keep_top_p(logits, 5e-324).isfinite().sum() == 1


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
    assert likeliest(logits, k)[1].diff().gt(0).all()  # in the order of their ids
    assert (logits[0][~kept] <= logits[0][kept].min()).all()


@given(logits_strategy)
def test_filters_that_are_off_change_nothing(logits: Tensor) -> None:
    for same in (
        keep_top_p(logits, 1.0),
        keep_top_k(logits, logits.size(-1)),
        keep_min_p(logits, 0.0),
        penalise_repetition(logits, torch.zeros(1, 1, dtype=torch.long), 1.0),
    ):
        assert torch.equal(same, logits)


@given(logits_strategy, st.floats(0.01, 1))
def test_min_p_keeps_exactly_the_tokens_within_its_share_of_the_likeliest(logits: Tensor, p: float) -> None:
    kept = keep_min_p(logits, p).isfinite()[0]
    share = (logits.double() - logits.double().amax()).exp()[0]
    assert kept[logits.argmax()]
    assert (share[kept] >= p * (1 - 1e-4)).all()
    assert (share[~kept] < p * (1 + 1e-4)).all()


TRUNCATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "top-k": lambda logits: keep_top_k(logits, 3),
    "top-p": lambda logits: keep_top_p(logits, 0.7),
    "min-p": lambda logits: keep_min_p(logits, 0.2),
}
apart = st.lists(st.integers(-15, 15), min_size=1, max_size=20, unique=True)  # no ties, no borders within rounding
apart_strategy = apart.map(lambda x: torch.tensor([x]) * 0.7371)


@pytest.mark.parametrize("truncate", TRUNCATIONS.values(), ids=TRUNCATIONS)
@given(apart_strategy, st.integers(-50, 50), st.randoms(use_true_random=False))
def test_truncation_keeps_logits_as_they_are_and_heeds_neither_their_zero_nor_their_order(
    truncate: Callable[[Tensor], Tensor], logits: Tensor, shift: int, random: Random
) -> None:
    kept = truncate(logits).isfinite()
    assert truncate(logits)[kept].tolist() == logits[kept].tolist()
    assert kept[0, logits.argmax()]
    assert truncate(logits + shift).isfinite().equal(kept)
    order = random.sample(range(logits.size(-1)), logits.size(-1))
    assert truncate(logits[:, order]).isfinite().equal(kept[:, order])


@pytest.mark.parametrize("truncate", TRUNCATIONS.values(), ids=TRUNCATIONS)
@given(apart_strategy)
def test_truncation_keeps_a_prefix_of_the_tokens_by_likelihood(
    truncate: Callable[[Tensor], Tensor], logits: Tensor
) -> None:
    """So of any two truncations one keeps a part of what the other keeps."""
    kept = truncate(logits).isfinite()[0, logits[0].argsort(descending=True)].tolist()
    assert kept == sorted(kept, reverse=True)


@given(apart_strategy, st.floats(0.01, 1))
def test_top_k_and_min_p_commute_and_repeat_to_no_effect(logits: Tensor, p: float) -> None:
    one = keep_min_p(keep_top_k(logits, 3), p)
    assert one.equal(keep_top_k(keep_min_p(logits, p), 3))
    assert one.equal(keep_min_p(keep_top_k(one, 3), p))


@given(apart_strategy, st.integers(1, 40), st.floats(0.01, 1), st.floats(0, 1), st.floats(0, 1, exclude_max=True))
def test_choosing_among_the_likeliest_is_choosing_among_all_with_the_others_ruled_out(
    logits: Tensor, k: int, top_p: float, min_p: float, uniform: float
) -> None:
    number = torch.tensor([[uniform]], dtype=torch.float64)
    filtered = keep_min_p(keep_top_p(keep_top_k(logits, k), top_p), min_p)
    chosen = Decoding(top_k=k, top_p=top_p, min_p=min_p).choose(logits, torch.zeros(1, 0), number)
    probabilities = filtered.double().softmax(-1)[0]
    assert probabilities[chosen] > 0
    assert probabilities[:chosen].sum() <= uniform + 1e-6
    assert probabilities[: chosen + 1].sum() > uniform - 1e-6
    greedy = Decoding(top_k=k, top_p=top_p, min_p=min_p, greedy=True).choose(logits, torch.zeros(1, 0), number)
    assert logits[0, greedy] == logits.max()


@given(apart_strategy, st.integers(-20, 20), st.floats(0.05, 5))
def test_temperature_scales_differences_and_nothing_else(logits: Tensor, shift: int, temperature: float) -> None:
    """log p(i) - log p(j) is (logit i - logit j) / temperature, wherever the zero of the logits lies."""
    scaled = apply_temperature(logits + shift, temperature)
    torch.testing.assert_close(scaled - scaled[:, :1], (logits - logits[:, :1]) / temperature, atol=2e-3, rtol=1e-4)


@given(apart_strategy, st.floats(0.05, 5), st.integers(1, 30))
def test_temperature_and_top_k_commute(logits: Tensor, temperature: float, k: int) -> None:
    one = keep_top_k(apply_temperature(logits, temperature), k)
    other = apply_temperature(keep_top_k(logits, k), temperature)
    assert one.equal(other)


@given(apart_strategy)
def test_towards_zero_temperature_leaves_the_likeliest_alone_and_towards_infinity_all_alike(logits: Tensor) -> None:
    cold, hot = (apply_temperature(logits, temperature).softmax(-1)[0] for temperature in (1e-30, 1e6))
    assert cold.tolist() == [float(i == logits.argmax()) for i in range(len(cold))]
    torch.testing.assert_close(hot, torch.full_like(hot, 1 / len(hot)), atol=1e-4, rtol=1e-4)


@given(logits_strategy, st.floats(1.01, 10), st.data())
def test_a_penalty_lowers_what_was_seen_and_is_undone_by_its_inverse(
    logits: Tensor, penalty: float, data: st.DataObject
) -> None:
    token = st.integers(0, logits.size(-1) - 1)
    seen = torch.tensor([data.draw(st.lists(token, min_size=1, max_size=9))])
    penalised = penalise_repetition(logits, seen, penalty)
    unseen = [i for i in range(logits.size(-1)) if i not in seen[0]]
    assert penalised[:, unseen].equal(logits[:, unseen])
    assert (penalised[:, seen[0]] <= logits[:, seen[0]]).all()
    torch.testing.assert_close(penalise_repetition(penalised, seen, 1 / penalty), logits)


@given(apart_strategy, st.floats(0, 1, exclude_max=True))
def test_a_draw_inverts_the_cumulative_distribution(logits: Tensor, uniform: float) -> None:
    logits = keep_top_k(logits, 5)
    token = int(draw(logits, torch.tensor([[uniform]], dtype=torch.float64)))
    probabilities = logits.double().softmax(-1)[0]
    assert probabilities[token] > 0
    assert probabilities[:token].sum() <= uniform + 1e-6
    assert probabilities[: token + 1].sum() > uniform - 1e-6


def test_draws_by_hand() -> None:
    """Of 1/4, 0, 1/2, 1/4 the borders are at 1/4 and 3/4, and each belongs to the token that begins there."""
    logits = torch.tensor([1.0, 0.0, 2.0, 1.0]).log().expand(6, -1)
    numbers = torch.tensor([[0.0], [0.2499], [0.25], [0.7499], [0.75], [1 - 2**-53]], dtype=torch.float64)
    assert draw(logits, numbers).flatten().tolist() == [0, 0, 2, 2, 3, 3]


@pytest.mark.parametrize("decoding", [Decoding(), Decoding(top_k=2), Decoding(top_p=0.9), GREEDY], ids=str)
@pytest.mark.parametrize("logits", [[math.nan] * 3, [math.inf] * 3, [-math.inf] * 3, [0.0, math.nan, 1.0]], ids=str)
def test_logits_that_are_no_distribution_are_refused(decoding: Decoding, logits: list[float]) -> None:
    rows = torch.tensor([[1.0, 2.0, 3.0], logits])
    with pytest.raises(ArtifactError, match="gives no probabilities"):
        decoding.choose(rows, torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 1, dtype=torch.float64))


@given(apart_strategy, st.floats(0, 1, exclude_max=True))
def test_without_filters_tokens_are_drawn_from_the_logits_as_they_are(logits: Tensor, uniform: float) -> None:
    number = torch.tensor([[uniform]], dtype=torch.float64)
    assert Decoding().choose(logits, torch.zeros(1, 0), number).equal(draw(logits, number))


def test_min_p_by_hand() -> None:
    """Of 0.5, 0.3, 0.15, 0.05 with 0.25: at least 0.125, so the first three; with 0.59 the first two, with 0.61 one."""
    logits = torch.tensor([[0.3, 0.05, 0.5, 0.15]]).double().log()
    assert keep_min_p(logits, 0.25).isfinite().tolist() == [[True, False, True, True]]
    assert keep_min_p(logits, 0.59).isfinite().tolist() == [[True, False, True, False]]
    assert keep_min_p(logits, 0.61).isfinite().tolist() == [[False, False, True, False]]


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
    text = generate(dense(), prompt(B=4, T=1), 11, Decoding(greedy=True, repetition_penalty=1e6), range(4))
    assert all(len(set(row)) == len(row) for row in text.tolist())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"temperature": 1e-300}, "temperature must be above 0, got 1e-300"),
        ({"temperature": math.nan}, "temperature must be above 0, got nan"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"temperature": math.inf}, "temperature must be above 0, got inf"),
        ({"min_p": -0.1}, "min_p must be from 0 to 1, got -0.1"),
        ({"min_p": math.nan}, "min_p must be from 0 to 1, got nan"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0, got 0.0"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        Decoding(**values)
