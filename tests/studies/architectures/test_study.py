"""Four architectures: what is taken out of windows, by hand; what each may see, by laws; all of it at tiny size."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from studies.architectures.__main__ import main
from studies.architectures.anatomy import dependence, parameters_by_part, relative_buckets, writing_costs
from studies.architectures.arms import factor, measure
from studies.architectures.families import BERT, FAMILIES, GPT2, T5, Family
from studies.architectures.page import judged
from studies.architectures.settings import Common
from studies.architectures.spans import Words, draw_places, draw_spans, masked, span_targets, spans_of, without_spans
from studies.core.statistics import Estimate
from studies.core.text import Text
from tests.studies.whole import run_study, shipped, write_text
from troupe.seeding import generator

V, T, B = 20, 12, 3
WORDS = Words(V)


def common(**shape: int) -> Common:
    tree = shipped("architectures")
    small = {"context": T, "width": 16, "heads": 2, "layers": 2, "hidden": 32, "hidden_of_two": 24} | shape
    values = {name: tree[name] for name in Common.model_fields} | {"spans": 2, "span_length": 2, "lengths": [2, 4]}
    return Common.model_validate(values | {"shape": tree["shape"] | small, "ranked": 2, "held_out": 3})


def windows(seed: int = 0) -> Tensor:
    return torch.randint(V, (B, T), generator=generator(seed, "windows"))


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    """One of the four, small, with random weights, without dropout."""
    torch.manual_seed(1)
    found = FAMILIES[request.param](WORDS, common())
    found.model.eval()
    return found


def test_spans_by_hand() -> None:
    ids_BT, start_BN = torch.arange(10)[None], torch.tensor([[1, 6]])
    first, second = WORDS.sentinels[:2].tolist()
    assert without_spans(ids_BT, start_BN, 2, WORDS.sentinels).tolist() == [[0, first, 3, 4, 5, second, 8, 9]]
    assert spans_of(ids_BT, start_BN, 2).tolist() == [[[1, 2], [6, 7]]]
    assert span_targets(ids_BT, start_BN, 2, WORDS).tolist() == [[first, 1, 2, second, 6, 7, WORDS.end]]


def test_spans_stand_apart_and_nothing_else_is_lost() -> None:
    """Put back into what is left, the spans give the window; over many draws every place is sometimes in one."""
    n, L = 200, 3
    ids_BT = torch.randint(V, (n, T), generator=generator(1, "ids"))
    start_BN = draw_spans(ids_BT, 2, L, generator(2, "spans"))
    assert (start_BN[:, 0] >= 0).all()
    assert (start_BN[:, 1] - start_BN[:, 0] > L).all()
    assert (start_BN[:, 1] + L <= T).all()
    left_BS = without_spans(ids_BT, start_BN, L, WORDS.sentinels)
    for ids_T, left_S, spans_NL in zip(ids_BT, left_BS, spans_of(ids_BT, start_BN, L), strict=True):
        named = dict(zip(WORDS.sentinels.tolist(), spans_NL.tolist(), strict=False))
        assert [word for one in left_S.tolist() for word in named.get(one, [one])] == ids_T.tolist()
    reached = {place for start in start_BN.flatten().tolist() for place in range(start, start + L)}
    assert reached == set(range(T))


def test_masks_fall_on_different_places_in_the_shares_of_bert() -> None:
    n, N = 4000, 3
    ids_BT = torch.zeros(n, T, dtype=torch.long)
    place_BN = draw_places(ids_BT, N, generator(3, "places"))
    assert all(len(set(places)) == N for places in place_BN.tolist())
    held = masked(ids_BT, place_BN, WORDS, generator(4, "mask"))
    share = (held == WORDS.mask).sum().item() / (n * N)
    assert share == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / (n * N)))  # four standard errors
    others = held.scatter(1, place_BN, 0)
    assert torch.equal(others, ids_BT), "what was not chosen is as it was"


def test_ids_of_models_are_none_of_the_text_s_and_none_twice() -> None:
    own = [WORDS.pad, WORDS.mask, WORDS.begin, WORDS.end, *WORDS.sentinels.tolist()]
    assert sorted(own) == list(range(V, WORDS.all))


def test_all_have_as_many_parameters_within_five_per_cent() -> None:
    tree = shipped("architectures")
    sizes = Common.model_validate({name: tree[name] for name in Common.model_fields})
    words = Words(tree["tokens"]["vocab_size"])
    counts = [sum(parameters_by_part(one(words, sizes).model).values()) for one in FAMILIES.values()]
    assert max(counts) / min(counts) < 1.05


def test_every_parameter_is_of_one_part(family: Family) -> None:
    found = parameters_by_part(family.model)
    assert sum(found.values()) == sum(parameter.numel() for parameter in family.model.parameters())
    assert ("cross-attention" in found) == (family.name in ("BART", "T5"))
    assert found["attention"] >= 4 * 16 * 16 * 2
    assert found["norms"] > 0


def test_what_outputs_depend_on(family: Family) -> None:
    causal = torch.ones(T, T).tril().int().tolist()
    everything = torch.ones(T, T).int().tolist()
    expected = {
        "GPT-2": {"its input": causal},
        "BERT": {"its input": everything},
        **{name: {"encoder's input": everything, "decoder's input": causal} for name in ("BART", "T5")},
    }
    assert dependence(family, windows()[0]) == expected[family.name]


@torch.no_grad()
def test_a_gap_is_filled_without_looking_into_it(family: Family) -> None:
    """The law that a measure of infilling stands on. GPT-2, from the left, must not see what follows either."""
    ids_BT, start_B = windows(), torch.tensor([1, 5, 8])
    found = family.fill_span(ids_BT, start_B, 3)
    place_BL = start_B[:, None] + torch.arange(3)
    assert torch.equal(found, family.fill_span(ids_BT.scatter(1, place_BL, 7), start_B, 3))
    assert torch.equal(family.fill(ids_BT, start_B), family.fill(ids_BT.scatter(1, start_B[:, None], 7), start_B))
    if isinstance(family, GPT2):
        after_BT = torch.arange(T) > start_B[:, None]
        assert torch.equal(found, family.fill_span(torch.where(after_BT, 3, ids_BT), start_B, 3))
    assert found.max() < V, "only words of the text"


@torch.no_grad()
def test_a_continuation_is_scored_without_seeing_it(family: Family) -> None:
    """The first predicted word's probability does not hang on the words after it: nats of longer texts only grow."""
    ids_BT, P = windows(), 5
    if isinstance(family, BERT):
        assert family.continuation(ids_BT, P) is None
        return
    whole, shorter = family.continuation(ids_BT, P), family.continuation(ids_BT[:, :-1], P)
    last = family.continuation(torch.cat([ids_BT[:, :-1], (ids_BT[:, -1:] + 1) % V], dim=1), P)
    assert whole is not None
    assert shorter is not None
    assert (whole > shorter).all()
    assert last is not None
    assert ((whole - shorter > 0) & (last - shorter > 0)).all()


@torch.no_grad()
def test_gpt2_s_continuations_follow_the_chain_rule_and_its_ranking_is_bayes() -> None:
    torch.manual_seed(1)
    one = GPT2(WORDS, common())
    one.model.eval()
    ids_BT = windows()
    logp_BTV = one.model(ids_BT).logits[..., :V].log_softmax(-1)  # among the words of the text
    total_B = -logp_BTV[:, :-1].gather(2, ids_BT[:, 1:, None]).sum((1, 2))
    middle = T // 2
    first_B = -logp_BTV[:, : middle - 1].gather(2, ids_BT[:, 1:middle, None]).sum((1, 2))
    torch.testing.assert_close(one.continuation(ids_BT, middle), total_B - first_B, rtol=1e-5, atol=1e-5)
    place = 4
    by_hand = []
    for word in range(V):
        other_BT = ids_BT.clone()
        other_BT[:, place] = word
        by_hand.append(one.continuation(other_BT, 1))
    assert torch.equal(one.fill(ids_BT, torch.full((B,), place)), torch.stack(by_hand).argmin(0))


@torch.no_grad()
def test_bert_s_pseudo_likelihood_of_a_model_that_knows_nothing() -> None:
    torch.manual_seed(1)
    one = BERT(WORDS, common())
    one.model.eval()
    one.model.cls.predictions.decoder.weight.zero_()
    assert one.pseudo_nats(windows()).tolist() == pytest.approx([T * math.log(V)] * B, rel=1e-5)


def test_tasks_of_a_model_that_knows_nothing(family: Family) -> None:
    """The likeliest of equal words is the first; a text costs the same for every word."""
    ids = windows().flatten().numpy().astype("uint16")
    text = Text(
        V, {"train": ids, "validation": ids, "test": ids}, dict.fromkeys(("train", "validation", "test"), 2 * len(ids))
    )  # type: ignore[arg-type]
    if family.name == "BERT":
        family.model.cls.predictions.decoder.weight.data.zero_()
    else:
        family.model.get_output_embeddings().weight.data.zero_()
    with torch.no_grad():
        found = measure(family, text, common(), seed=1)
    if family.generates:
        assert found["continuation"] == pytest.approx(math.log2(V) / 2, rel=1e-5), "two bytes a token"
    else:
        assert found["pseudo"] == pytest.approx(math.log2(V) / 2, rel=1e-5)
    assert found["windows"] == B
    rng = generator(1, "study", "gaps")
    place_B = torch.randint(1, T - 2, (B,), generator=rng)
    assert found["span"] == float((spans_of(windows(), place_B[:, None], 2) == 0).float().mean())


def test_t5_buckets_are_fine_near_and_coarse_far() -> None:
    torch.manual_seed(1)
    bucket_TT = torch.tensor(relative_buckets(T5(WORDS, common()), 64))
    near, far = bucket_TT[0, :8], bucket_TT[0, 32:]
    assert near.unique().numel() == 8
    assert far.unique().numel() < 8
    assert bucket_TT.diagonal().unique().numel() == 1
    assert bucket_TT[0, 1] != bucket_TT[1, 0], "what stands before has offsets of its own"


def test_a_token_costs_an_encoder_decoder_of_equal_size_less_work() -> None:
    torch.manual_seed(1)
    sizes, prompt_P = common(layers=4), windows()[0, :2]
    macs = {
        name: [cost["macs"] for cost in writing_costs(one(WORDS, sizes), prompt_P, [2, 8])]
        for name, one in FAMILIES.items()
    }
    assert macs["BERT"] == []
    assert macs["BART"][1] < macs["GPT-2"][1]


def test_the_rate_rises_and_falls_to_nothing() -> None:
    factors = [factor(step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == factors[10] == 1.0
    assert factors[-1] == pytest.approx(1 / 90)


@pytest.mark.parametrize(
    ("change", "side", "verdict"),
    [
        (Estimate(-0.2, 0.1), -1, "confirmed"),
        (Estimate(-0.2, 0.1), 1, "refuted"),
        (Estimate(0.2, 0.3), 1, "unclear"),
        (Estimate(0.0, 0.0), 1, "unclear"),
        (Estimate(0.2, None), 1, "unclear"),
    ],
)
def test_the_rule_of_the_verdicts(change: Estimate, side: int, verdict: str) -> None:
    assert judged(change, side) == verdict


@pytest.mark.slow
def test_the_whole_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "text.txt", 3000)
    tree = shipped("architectures") | {"quick": {}, "held_out": 4, "ranked": 1, "lengths": [2, 3]}
    tree["data"] |= {"source": "text.txt", "block_bytes": 256}
    tree["tokens"]["vocab_size"] = 300
    tree["shape"] |= {"context": 16, "width": 16, "heads": 2, "layers": 2, "hidden": 32, "hidden_of_two": 24}
    tree["training"] |= {"steps": 3, "batch_size": 2}
    titles = ["Tasks", "Made of", "What writing costs", "What each can and cannot", "Structure"]
    found = run_study("architectures", main, tree, titles, tmp_path, monkeypatch, seeds=2)
    assert {name for name, _ in found} == set(FAMILIES)
    assert found["BERT", 1]["writing"] == []
    assert found["T5", 2]["buckets"]
    assert found["GPT-2", 1]["tasks"]["continuation"] != found["GPT-2", 2]["tasks"]["continuation"]
