"""What is drawn among candidates, by hand; and the laws of writing span by span."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
import torch
from scipy import stats
from torch import Tensor

from studies.adversarial import resampling as resampling
from studies.adversarial.resampling import Resampling, effective_candidates, write
from tests.models.discriminators import discriminator
from troupe import decoding as token_by_token
from troupe.data.tokenizer import BytePairTokenizer
from troupe.decoding import Decoding
from troupe.errors import ParamsError
from troupe.models.config import GPTConfig
from troupe.models.discriminator import LSTMDiscriminator
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.reader import Discriminator, ReferenceFeatures
from troupe.seeding import derive_seed

PLAIN = Decoding()


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


@dataclass(frozen=True)
class Chosen:
    """A model and how a discriminator chooses among what it writes."""

    model: GPT
    how: Resampling

    def write(self, ids_NT: Tensor, n_new: int, decoding: Decoding, seeds: Sequence[int]) -> Tensor:
        return write(self.model, self.how, ids_NT, n_new, decoding, seeds)

    def among(self, candidates: int) -> "Chosen":
        return replace(self, how=replace(self.how, candidates=candidates))

    @property
    def read(self) -> list[list[int]]:
        return cast("Likes", self.how.discriminator).read


def liking(score_V: Tensor, candidates: int, span: int = 1, context: int = 16) -> Chosen:
    """A model of as many tokens as there are scores, whose candidates are drawn by how much they are liked."""
    likes = cast("Discriminator", Likes(score_V, []))
    return Chosen(model(len(score_V)), Resampling(likes, candidates, span, context))


def real_writer(candidates: int = 4, span: int = 5, context: int = 12) -> Chosen:
    return Chosen(model(256), Resampling(discriminator(), candidates, span, context))


def prompt(N: int = 3, T: int = 4, vocab_size: int = 256) -> Tensor:
    return torch.randint(0, vocab_size, (N, T), generator=rng(T))


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
    chosen = liking(torch.tensor([0.0, math.log(9)]), candidates=2)
    q = next_token_law(chosen.model, [1, 0])[1].item()
    expected = q**2 + 2 * q * (1 - q) * 9 / 10
    assert abs(expected - q) > 0.05
    n = 4000
    drawn = chosen.write(torch.tensor([[1, 0]]).expand(n, 2), 1, PLAIN, range(n))[:, 2]
    assert pvalue(torch.bincount(drawn, minlength=2), torch.tensor([1 - expected, expected])) > 0.001


def test_pairs_follow_the_exact_law_and_many_candidates_the_target() -> None:
    """All texts of one span of two tokens out of three, their probability under the model from the model; with 2
    candidates the law is a sum over all pairs, with many it comes to p(x) proportional to q(x) exp(s(x))."""
    score_V = torch.tensor([0.9, -0.8, 0.0])
    chosen, n = liking(score_V, candidates=2, span=2), 4000
    gpt, pairs = chosen.model, list(itertools.product(range(3), repeat=2))
    q_X = torch.stack([next_token_law(gpt, [0])[a] * next_token_law(gpt, [0, a])[b] for a, b in pairs])
    score_X = torch.tensor([(score_V[a] + score_V[b]).item() for a, b in pairs])
    target_X = (q_X * score_X.double().exp()) / (q_X * score_X.double().exp()).sum()

    def counts(candidates: int) -> Tensor:
        ids_NT = chosen.among(candidates).write(torch.zeros(n, 1, dtype=torch.long), 2, PLAIN, range(n))
        return torch.bincount(3 * ids_NT[:, 1] + ids_NT[:, 2], minlength=9)

    two_X = counts(2)
    assert pvalue(two_X, drawn_law(q_X, score_X, 2)) > 0.001
    assert pvalue(two_X, q_X) < 1e-6
    away = [(counts_X / n - target_X).abs().sum().item() / 2 for counts_X in (counts(1), two_X, counts(32))]
    assert away[0] > 0.15
    assert away[1] < 0.75 * away[0]
    assert away[2] < 0.03  # of which 4000 draws alone make up about 0.02


def test_a_text_is_the_same_alone_in_a_batch_and_at_any_place_of_it() -> None:
    """Five prompts over three spans, the last one shorter, past the context."""
    chosen, ids_NT, seeds = real_writer(), prompt(N=5), [31, 32, 33, 34, 35]
    together = chosen.write(ids_NT, 13, PLAIN, seeds)
    assert len({tuple(row) for row in together.tolist()}) == 5
    for row in range(5):
        alone = chosen.write(ids_NT[row : row + 1], 13, PLAIN, seeds[row : row + 1])
        assert alone[0].tolist() == together[row].tolist()
    places = [3, 0, 4, 1, 2]
    moved = chosen.write(ids_NT[places], 13, PLAIN, [seeds[row] for row in places])
    assert moved.tolist() == together[places].tolist()


def test_the_memory_that_there_is_does_not_change_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three candidates at a time, across the borders of texts, give what all at once give."""
    chosen, seeds = real_writer(), [1, 2, 3]
    whole = chosen.write(prompt(), 8, PLAIN, seeds)
    asked: list[int] = []

    def noting(gpt: GPT, ids_BT: Tensor, *others: object) -> Tensor:
        asked.append(len(ids_BT))
        return token_by_token.generate(gpt, ids_BT, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(resampling, "side_by_side", lambda model: 3)
    monkeypatch.setattr(resampling, "generate", noting)
    assert chosen.write(prompt(), 8, PLAIN, seeds).equal(whole)
    assert asked == [3, 3, 3, 3] * 2


def test_no_more_prompts_are_laid_out_than_are_written_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 3 texts with 4 candidates each 5 at a time: each candidate after its own text, with its own seed."""
    asked: list[tuple[list[int], int]] = []

    def noting(gpt: GPT, ids_BT: Tensor, n_new: int, way: Decoding, seeds: list[int]) -> Tensor:
        asked.append((ids_BT[:, 0].tolist(), len(set(seeds))))
        return token_by_token.generate(gpt, ids_BT, n_new, way, seeds)

    monkeypatch.setattr(resampling, "side_by_side", lambda model: 5)
    monkeypatch.setattr(resampling, "generate", noting)
    real_writer().write(torch.tensor([[1, 9], [2, 9], [3, 9]]), 5, PLAIN, [1, 2, 3])
    assert asked == [([1, 1, 1, 1, 2], 5), ([2, 2, 2, 3, 3], 5), ([3, 3], 2)]


def test_one_seed_gives_one_text_and_another_another() -> None:
    chosen = real_writer()
    torch.manual_seed(1)
    first = chosen.write(prompt(), 12, PLAIN, [1, 2, 3])
    torch.manual_seed(2)
    assert chosen.write(prompt(), 12, PLAIN, [1, 2, 3]).equal(first)
    other = chosen.write(prompt(), 12, PLAIN, [1, 2, 4])
    assert other[:2].equal(first[:2])
    assert not other[2].equal(first[2])


def test_candidates_of_one_text_and_spans_of_one_text_differ() -> None:
    """Equal prompts with equal scores: twelve candidates in three spans have random numbers of their own."""
    chosen = liking(torch.zeros(256), candidates=4, span=5)
    chosen.write(prompt(N=1), 15, PLAIN, [3])
    spans = [tuple(row[-5:]) for row in chosen.read]
    assert len(set(spans)) == len(spans) == 12


def test_candidates_and_choices_draw_from_the_seeds_of_their_spans() -> None:
    """So a study that is repeated writes what it wrote."""
    chosen = real_writer(candidates=3)
    written = chosen.write(prompt(N=1), 10, PLAIN, [7])
    for number, end in enumerate((9, 14)):
        seed = derive_seed(7, "span", number)
        seeds, before_3T = [derive_seed(seed, "candidate", k) for k in range(3)], written[:, : end - 5].expand(3, -1)
        ids_3T = token_by_token.generate(chosen.model, before_3T, 5, PLAIN, seeds)
        score_13 = chosen.how.discriminator.scores(ids_3T[:, -12:], n_given=0).double().unsqueeze(0)
        drawn = int(token_by_token.draw(score_13, token_by_token.uniforms([derive_seed(seed, "choice")], 1)))
        assert written[0, :end].equal(ids_3T[drawn])


def test_with_one_candidate_it_is_plain_generation() -> None:
    chosen = real_writer()
    ids_NT, seeds, way = prompt(), [1, 2, 3], Decoding(temperature=0.9, top_k=40)
    plain = token_by_token.generate(chosen.model, ids_NT, 14, way, seeds)
    assert chosen.among(1).write(ids_NT, 14, way, seeds).equal(plain)
    assert not chosen.write(ids_NT, 14, way, seeds).equal(plain)


def test_a_longer_text_begins_as_a_shorter_one_at_whole_spans() -> None:
    chosen, seeds = real_writer(), [1, 2, 3]
    whole = chosen.write(prompt(), 12, PLAIN, seeds)
    assert whole.shape == (3, 16)
    assert chosen.write(prompt(), 10, PLAIN, seeds).equal(whole[:, :14])
    assert chosen.write(prompt(), 0, PLAIN, seeds).equal(prompt())


def test_the_discriminator_reads_the_span_and_what_stands_before_it_as_far_as_the_context_goes() -> None:
    chosen = liking(torch.zeros(8), candidates=2, span=4, context=7)
    ids_1T = chosen.write(torch.tensor([[1, 2]]), 10, PLAIN, [0])
    texts = chosen.read
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
    chosen = Chosen(gpt, Resampling(discriminator(tokenizer=tokenizer), 8, span=3, context=16))
    one, other = (
        chosen.write(torch.tensor([ids]).expand(40, -1), 3, PLAIN, range(40))[:, -3:]
        for ids in (list(b"thethethe"), tokenizer.encode("thethethe"))
    )
    assert one.equal(other)
    assert len({tuple(row) for row in one.tolist()}) == 40


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

    def cyrillic(gpt: GPT, ids_MT: Tensor, n_new: int, way: Decoding, seeds: list[int]) -> Tensor:
        for seed in seeds:
            picked = torch.randint(0, 3, (n_new,), generator=rng(seed)).tolist()
            candidates.append(list("".join(" жщ"[i] for i in picked).encode()[:n_new]))
        return torch.cat([ids_MT, torch.tensor(candidates[-len(seeds) :])], dim=1)

    monkeypatch.setattr(resampling, "generate", cyrillic)
    reader = replace(discriminator(), critic=cast("LSTMDiscriminator", Strict()))
    chosen = Chosen(model(256), Resampling(reader, 4, span=7, context=12))
    drawn_N7 = chosen.write(torch.tensor([list("ю да".encode())]).expand(1000, -1), 7, PLAIN, range(1000))[:, -7:]
    among, drawn = ((ids[:, -1] >= 0xC0).double().mean().item() for ids in (torch.tensor(candidates), drawn_N7))
    assert 0.3 < among < 0.5
    assert drawn == pytest.approx(among, abs=0.05)  # three standard errors


def test_a_favourite_is_written_oftener_at_any_temperature() -> None:
    for way in (PLAIN, Decoding(temperature=0.7, top_k=3)):
        share = {}
        for liked in (0.0, 3.0):
            chosen = liking(torch.tensor([0.0, liked, 0.0, 0.0]), candidates=8, span=2)
            share[liked] = (chosen.write(prompt(N=60, vocab_size=4), 6, way, range(60))[:, 4:] == 1).double().mean()
        assert share[3.0] > share[0.0] + 0.2


def test_bad_requests_are_those_of_plain_generation() -> None:
    with pytest.raises(ParamsError, match="the prompt is empty"):
        real_writer().write(prompt()[:, :0], 3, PLAIN, [1, 2, 3])
    with pytest.raises(ValueError, match="2 seeds for 3 sequences"):
        real_writer().write(prompt(), 3, PLAIN, [1, 2])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"candidates": 0}, "candidates must be at least 1, got 0"),
        ({"span": 0}, "span must be at least 1 and below context"),
        ({"span": 12}, r"span must be at least 1 and below context \(12\), got 12"),
        ({"context": 17}, r"context \(17\) must not exceed the 16 tokens that the references read"),
    ],
)
def test_a_sampler_out_of_range_is_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        real_writer(**values)
