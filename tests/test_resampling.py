"""What is drawn among candidates, by hand; and the laws of writing with a bundle's sampler."""

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
import torch
from scipy import stats
from torch import Tensor

from tests.models.samplers import discriminator, sampler
from troupe import decoding as token_by_token
from troupe import resampling
from troupe.data.tokenizer import BytePairTokenizer, ByteTokenizer
from troupe.decoding import Decoding
from troupe.errors import ParamsError
from troupe.models.bundle import Bundle, Resampling
from troupe.models.config import GPTConfig
from troupe.models.discriminator import LSTMDiscriminator
from troupe.models.features import ReferenceFeatures
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.reader import Discriminator
from troupe.resampling import effective_candidates, resample, stream, write

PLAIN, GREEDY = Decoding(), Decoding(greedy=True)


@dataclass(frozen=True)
class Likes:
    """A discriminator that knows no more than how much it likes each token; it notes what it was given to read.
    All of it is evidence: what candidates share makes no difference."""

    score_V: Tensor
    read: list[list[int]]
    features: ReferenceFeatures = field(default_factory=lambda: discriminator().features)  # read 16 tokens

    def scores(self, ids_BT: Tensor, n_given: int | None = None) -> Tensor:
        assert n_given == 0
        self.read.extend(ids_BT.tolist())
        return self.score_V[ids_BT].sum(-1).float()


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(vocab_size: int, seed: int = 0) -> GPT:
    gpt = GPT(GPTConfig(vocab_size=vocab_size, block_size=16, n_layer=1, n_head=2, n_embd=8, dropout=0.3))
    init_gpt2(gpt, rng(seed))
    with torch.no_grad():
        gpt.token_embedding.weight.mul_(3)  # predictions that differ
    return gpt.double().eval()


def liking(score_V: Tensor, candidates: int, span: int = 1, context: int = 16) -> Bundle:
    """A model of as many tokens as there are scores, whose candidates are drawn by how much they are liked."""
    gpt = model(len(score_V))
    likes = cast("Discriminator", Likes(score_V, []))
    return Bundle(gpt, ByteTokenizer(), {}, "", Resampling(likes, candidates, span, context))


def what_was_read(bundle: Bundle) -> list[list[int]]:
    assert bundle.resampling is not None
    return cast("Likes", bundle.resampling.discriminator).read


def real_bundle(candidates: int = 4, span: int = 5, context: int = 12) -> Bundle:
    return Bundle(model(256), ByteTokenizer(), {}, "", sampler(candidates, span, context))


def prompt(N: int = 3, T: int = 4, vocab_size: int = 256) -> Tensor:
    return torch.randint(0, vocab_size, (N, T), generator=rng(T))


def test_a_score_far_above_the_others_decides() -> None:
    ids_NKT = torch.arange(6).reshape(2, 3, 1)
    assert resample(ids_NKT, torch.tensor([[0.0, 90.0, 0.0], [0.0, 0.0, 90.0]]), rng()).tolist() == [[1], [5]]


def test_effective_candidates_by_hand() -> None:
    """Even weights: all 4. Weights 1/2, 1/2, 0, 0: 2. The mean of the two rows: 3."""
    score_NK = torch.tensor([[7.0, 7.0, 7.0, 7.0], [1.0, 1.0, -90.0, -90.0]])
    assert effective_candidates(score_NK) == pytest.approx(3)


def next_token_law(gpt: GPT, ids_T: list[int]) -> Tensor:
    """q_V of the next token, from the model itself."""
    with torch.no_grad():
        q_V: Tensor = gpt(torch.tensor([ids_T]))[0, -1].softmax(-1)
    return q_V


def drawn_law(q_X: Tensor, score_X: Tensor, candidates: int) -> Tensor:
    """p_X of what is drawn: over all tuples of candidates, their probability times each one's share of the weight."""
    p_X, weight_X = torch.zeros_like(q_X), score_X.double().exp()
    for ids in itertools.product(range(len(q_X)), repeat=candidates):
        rows = list(ids)
        p_X.index_add_(0, torch.tensor(rows), q_X[rows].prod() * weight_X[rows] / weight_X[rows].sum())
    return p_X


def pvalue(counts_X: Tensor, p_X: Tensor) -> float:
    return float(stats.chisquare(counts_X.numpy(), (counts_X.sum() * p_X).numpy()).pvalue)


def test_of_two_candidates_with_known_scores_one_is_drawn_with_odds_of_the_difference() -> None:
    """Tokens 0 and 1 of a model, liked by 0 and ln 9: with q = P(1) and two candidates, P(draw 1) is
    q^2 + 2 q (1 - q) * 9/10."""
    bundle = liking(torch.tensor([0.0, math.log(9)]), candidates=2)
    q = next_token_law(bundle.model, [1, 0])[1].item()
    expected = q**2 + 2 * q * (1 - q) * 9 / 10
    assert abs(expected - q) > 0.05
    n = 4000
    drawn = write(bundle, torch.tensor([[1, 0]]).expand(n, 2), 1, PLAIN, range(n))[:, 2]
    assert pvalue(torch.bincount(drawn, minlength=2), torch.tensor([1 - expected, expected])) > 0.001


def test_pairs_follow_the_exact_law_and_many_candidates_the_target() -> None:
    """All texts of one span of two tokens out of three, their probability under the model from the model; with 2
    candidates the law is a sum over all pairs, with many it comes to p(x) proportional to q(x) exp(s(x))."""
    score_V = torch.tensor([0.9, -0.8, 0.0])
    bundle, n = liking(score_V, candidates=2, span=2), 4000
    gpt, pairs = bundle.model, list(itertools.product(range(3), repeat=2))
    q_X = torch.stack([next_token_law(gpt, [0])[a] * next_token_law(gpt, [0, a])[b] for a, b in pairs])
    score_X = torch.tensor([(score_V[a] + score_V[b]).item() for a, b in pairs])
    target_X = (q_X * score_X.double().exp()) / (q_X * score_X.double().exp()).sum()

    def counts(candidates: int) -> Tensor:
        many = replace(bundle, resampling=replace(bundle.resampling, candidates=candidates))  # type: ignore[type-var]
        ids_NT = write(many, torch.zeros(n, 1, dtype=torch.long), 2, PLAIN, range(n))
        return torch.bincount(3 * ids_NT[:, 1] + ids_NT[:, 2], minlength=9)

    two_X = counts(2)
    assert pvalue(two_X, drawn_law(q_X, score_X, 2)) > 0.001
    assert pvalue(two_X, q_X) < 1e-6
    away = [(counts_X / n - target_X).abs().sum().item() / 2 for counts_X in (counts(1), two_X, counts(32))]
    assert away[0] > 0.15
    assert away[1] < 0.75 * away[0]
    assert away[2] < 0.03  # of which 4000 draws alone make up about 0.02


@pytest.mark.parametrize("stop_id", [None, 7])
def test_a_text_is_the_same_alone_in_a_batch_and_at_any_place_of_it(stop_id: int | None) -> None:
    """Five prompts over three spans, the last one shorter, past the context."""
    bundle, ids_NT, seeds = real_bundle(), prompt(N=5), [31, 32, 33, 34, 35]
    together = write(bundle, ids_NT, 13, PLAIN, seeds, stop_id)
    assert len({tuple(row) for row in together.tolist()}) == 5
    for row in range(5):
        alone = write(bundle, ids_NT[row : row + 1], 13, PLAIN, seeds[row : row + 1], stop_id)
        assert alone[0].tolist() == together[row, : alone.size(1)].tolist()
    places = [3, 0, 4, 1, 2]
    moved = write(bundle, ids_NT[places], 13, PLAIN, [seeds[row] for row in places], stop_id)
    assert moved.tolist() == together[places].tolist()


def test_the_memory_that_there_is_does_not_change_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three candidates at a time, across the borders of texts, give what all at once give."""
    bundle, seeds = real_bundle(), [1, 2, 3]
    whole = write(bundle, prompt(), 8, PLAIN, seeds)
    asked: list[int] = []

    def noting(gpt: GPT, ids_BT: Tensor, *others: object) -> Tensor:
        asked.append(len(ids_BT))
        return token_by_token.generate(gpt, ids_BT, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(resampling, "side_by_side", lambda config: 3)
    monkeypatch.setattr(resampling, "generate", noting)
    assert write(bundle, prompt(), 8, PLAIN, seeds).equal(whole)
    assert asked == [3, 3, 3, 3] * 2


def test_no_more_prompts_are_laid_out_than_are_written_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 3 texts with 4 candidates each 5 at a time: each candidate after its own text, with its own seed."""
    asked: list[tuple[list[int], int]] = []

    def noting(gpt: GPT, ids_BT: Tensor, n_new: int, way: Decoding, seeds: list[int], stop: int) -> Tensor:
        asked.append((ids_BT[:, 0].tolist(), len(set(seeds))))
        return token_by_token.generate(gpt, ids_BT, n_new, way, seeds, stop)

    monkeypatch.setattr(resampling, "side_by_side", lambda config: 5)
    monkeypatch.setattr(resampling, "generate", noting)
    write(real_bundle(), torch.tensor([[1, 9], [2, 9], [3, 9]]), 5, PLAIN, [1, 2, 3])
    assert asked == [([1, 1, 1, 1, 2], 5), ([2, 2, 2, 3, 3], 5), ([3, 3], 2)]


def test_one_seed_gives_one_text_and_another_another() -> None:
    bundle = real_bundle()
    torch.manual_seed(1)
    first = write(bundle, prompt(), 12, PLAIN, [1, 2, 3])
    torch.manual_seed(2)
    assert write(bundle, prompt(), 12, PLAIN, [1, 2, 3]).equal(first)
    other = write(bundle, prompt(), 12, PLAIN, [1, 2, 4])
    assert other[:2].equal(first[:2])
    assert not other[2].equal(first[2])


def test_candidates_of_one_text_and_spans_of_one_text_differ() -> None:
    """Equal prompts with equal scores: twelve candidates in three spans have random numbers of their own."""
    bundle = liking(torch.zeros(256), candidates=4, span=5)
    write(bundle, prompt(N=1), 15, PLAIN, [3])
    spans = [tuple(row[-5:]) for row in what_was_read(bundle)]
    assert len(set(spans)) == len(spans) == 12


def test_without_a_sampler_with_one_candidate_and_greedily_it_is_plain_generation() -> None:
    bundle = real_bundle()
    way_it_writes = bundle.resampling
    assert way_it_writes is not None
    ids_NT, seeds, way = prompt(), [1, 2, 3], Decoding(temperature=0.9, top_k=40)
    plain = token_by_token.generate(bundle.model, ids_NT, 14, way, seeds, 7)
    for same in (replace(bundle, resampling=None), replace(bundle, resampling=replace(way_it_writes, candidates=1))):
        assert write(same, ids_NT, 14, way, seeds, 7).equal(plain)
    assert not write(bundle, ids_NT, 14, way, seeds, 7).equal(plain)
    greedy = token_by_token.generate(bundle.model, ids_NT, 14, GREEDY, seeds)
    assert write(bundle, ids_NT, 14, GREEDY, seeds).equal(greedy)


def test_streaming_yields_what_write_returns_and_a_longer_text_begins_as_a_shorter_one_at_whole_spans() -> None:
    bundle, seeds = real_bundle(), [1, 2, 3]
    whole = write(bundle, prompt(), 12, PLAIN, seeds)
    assert whole.shape == (3, 16)
    assert torch.stack([*stream(bundle, prompt(), 12, PLAIN, seeds)], dim=1).equal(whole[:, 4:])
    assert write(bundle, prompt(), 10, PLAIN, seeds).equal(whole[:, :14])
    assert write(bundle, prompt(), 0, PLAIN, seeds).equal(prompt())


def test_the_discriminator_reads_the_span_and_what_stands_before_it_as_far_as_the_context_goes() -> None:
    bundle = liking(torch.zeros(8), candidates=2, span=4, context=7)
    ids_1T = write(bundle, torch.tensor([[1, 2]]), 10, PLAIN, [0])
    texts = what_was_read(bundle)
    assert [len(text) for text in texts] == [6, 6, 7, 7, 7, 7]
    assert ids_1T[0, :6].tolist() in texts[:2]
    assert ids_1T[0, 3:10].tolist() in texts[2:4]
    assert ids_1T[0, 5:].tolist() in texts[4:]


def test_what_is_chosen_does_not_depend_on_how_the_text_before_it_is_spelt() -> None:
    """Nine bytes that the tokenizer spells as three tokens, or these three: to the discriminator it is one text, and
    all of the span is evidence. The generator is one that takes no notice: every token is as likely."""
    tokenizer = BytePairTokenizer("bpe", [*(bytes([byte]) for byte in range(256)), b"th", b"the"])
    gpt = model(tokenizer.vocab_size)
    torch.nn.init.zeros_(gpt.token_embedding.weight)
    bundle = Bundle(gpt, tokenizer, {}, "", Resampling(discriminator(tokenizer=tokenizer), 8, span=3, context=16))
    one, other = (
        write(bundle, torch.tensor([ids]).expand(40, -1), 3, PLAIN, range(40))[:, -3:]
        for ids in (list(b"thethethe"), tokenizer.encode("thethethe"))
    )
    assert one.equal(other)
    assert len({tuple(row) for row in one.tolist()}) == 40


def test_a_text_ends_where_its_candidate_ended_and_is_scored_up_to_there() -> None:
    """Token 0 ends a text: nothing follows it, in this span or a later one; the discriminator does not read it."""
    bundle = liking(torch.zeros(4), candidates=3, span=4, context=16)
    ids_NT = prompt(N=40, T=3, vocab_size=3) + 1
    written = write(bundle, ids_NT, 12, PLAIN, range(40), 0)[:, 3:].tolist()
    ends = [row.index(0) if 0 in row else len(row) for row in written]
    assert all(set(row[end:]) <= {0} for row, end in zip(written, ends, strict=True))
    assert min(ends) < 4 < max(ends)
    read = what_was_read(bundle)
    assert all(0 not in text for text in read)
    assert {len(text) for text in read} > {3, 7}
    running = [sum(end >= first for end in ends) for first in (0, 4, 8)]
    assert len(read) == 3 * sum(running)  # nobody writes on at a text that has ended


@dataclass(frozen=True)
class Strict:
    """A critic that is indifferent to all but bytes of U+FFFD, which hardly ever pass."""

    def embed(self, ids_BT: Tensor, features_BTF: Tensor) -> Tensor:
        return ids_BT

    def prefix_scores(self, ids_BT: Tensor, n_given: int | None = None) -> Tensor:
        return -9.0 * (ids_BT == 0xEF).cumsum(1)


def test_a_span_that_ends_inside_a_character_is_as_welcome_as_one_that_ends_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Candidates of spaces and Cyrillic letters of two bytes, cut after 7: of a critic that has nothing against either
    those that end inside a letter are drawn as often as they are written."""
    candidates: list[list[int]] = []

    def cyrillic(gpt: GPT, ids_MT: Tensor, n_new: int, way: Decoding, seeds: list[int], stop: int) -> Tensor:
        for seed in seeds:
            picked = torch.randint(0, 3, (n_new,), generator=rng(seed)).tolist()
            candidates.append(list("".join(" жщ"[i] for i in picked).encode()[:n_new]))
        return torch.cat([ids_MT, torch.tensor(candidates[-len(seeds) :])], dim=1)

    monkeypatch.setattr(resampling, "generate", cyrillic)
    reader = replace(discriminator(), critic=cast("LSTMDiscriminator", Strict()))
    bundle = Bundle(model(256), ByteTokenizer(), {}, "", Resampling(reader, 4, span=7, context=12))
    drawn_N7 = write(bundle, torch.tensor([list("ю да".encode())]).expand(1000, -1), 7, PLAIN, range(1000))[:, -7:]
    among, drawn = ((ids[:, -1] >= 0xC0).double().mean().item() for ids in (torch.tensor(candidates), drawn_N7))
    assert 0.3 < among < 0.5
    assert drawn == pytest.approx(among, abs=0.05)  # three standard errors


def test_texts_that_have_ended_are_read_from_the_same_token_on() -> None:
    """Of a prompt of 6 and a span of 4 the last 7 are read: whoever ends early is not shown more of the prompt."""
    bundle = liking(torch.zeros(8), candidates=64, span=4, context=7)
    write(bundle, torch.tensor([[6, 5, 4, 3, 2, 1]]), 4, PLAIN, [0], 0)
    assert {tuple(text[:3]) for text in what_was_read(bundle)} == {(3, 2, 1)}
    assert {len(text) for text in what_was_read(bundle)} == {3, 4, 5, 6, 7}


def test_a_batch_ends_with_the_longest_of_its_texts() -> None:
    bundle = liking(torch.zeros(2), candidates=2, span=3)
    ids_NT = torch.ones(4, 1, dtype=torch.long)
    written = write(bundle, ids_NT, 400, PLAIN, range(4), 0)
    assert written.size(1) < 100
    assert (written[:, -1] == 0).all()
    assert (written[:, -2] != 0).any()


def test_a_favourite_is_written_oftener_at_any_temperature() -> None:
    for way in (PLAIN, Decoding(temperature=0.7, top_k=3)):
        share = {}
        for liked in (0.0, 3.0):
            bundle = liking(torch.tensor([0.0, liked, 0.0, 0.0]), candidates=8, span=2)
            share[liked] = (write(bundle, prompt(N=60, vocab_size=4), 6, way, range(60))[:, 4:] == 1).double().mean()
        assert share[3.0] > share[0.0] + 0.2


def test_bad_requests_are_those_of_plain_generation() -> None:
    with pytest.raises(ParamsError, match="the prompt is empty"):
        write(real_bundle(), prompt()[:, :0], 3, PLAIN, [1, 2, 3])
    with pytest.raises(ValueError, match="2 seeds for 3 sequences"):
        write(real_bundle(), prompt(), 3, PLAIN, [1, 2])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"candidates": 0}, "candidates must be 1 to 1024, got 0"),
        ({"candidates": 1025}, "candidates must be 1 to 1024, got 1025"),
        ({"span": 0}, "span must be at least 1 and below context"),
        ({"span": 12}, r"span must be at least 1 and below context \(12\), got 12"),
        ({"context": 17}, r"context \(17\) must not exceed the 16 tokens that the references read"),
    ],
)
def test_a_sampler_out_of_range_is_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        real_bundle(**values)
