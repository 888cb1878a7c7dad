"""What a discriminator reads of a text: as the tokenizer spells it, and in its scores to the last token."""

import pytest
import torch
from torch import Tensor

from tests.models.discriminators import BYTES, discriminator
from troupe.data.tokenizer import BytePairTokenizer
from troupe.models.reader import Discriminator, Read, canonical, scores, spelt

TOKENIZER = BytePairTokenizer("bpe", [*(bytes([byte]) for byte in range(256)), b"th", b"the"])
TEXTS = ["the path, the theatre", "bath the moth or that", "a then there the them", "no such word, as here"]


def ids_of(text: str, T: int = 16) -> Tensor:
    return torch.tensor([TOKENIZER.encode(text)[:T]])


def in_bytes(text: str, T: int = 16) -> Tensor:
    return torch.tensor([list(text.encode())[:T]])


@pytest.fixture
def reader() -> Discriminator:
    return discriminator(tokenizer=TOKENIZER)


def test_what_a_discriminator_learns_from_is_spelt_as_the_tokenizer_spells() -> None:
    """Tokens 256 "th" and 257 "the"; of 16 tokens 14 are read. Spelt in single bytes, texts are read as real ones."""
    text = "the theatre, then the path"
    real_T, bytes_T = TOKENIZER.encode(text)[:16], list(text.encode())
    assert len(real_T) == 16
    assert canonical(TOKENIZER, torch.tensor([real_T])).tolist() == [real_T[:14]]
    spelt_T = canonical(TOKENIZER, torch.tensor([bytes_T]))[0].tolist()
    assert len(spelt_T) == 26 - 26 // 8
    known = TOKENIZER.encode(text)
    assert spelt_T == known + known[-1:] * (len(spelt_T) - len(known))


def test_spelt_texts_keep_their_length() -> None:
    """In 3 bytes each: "the" is one token, "tho" two, "abc" three."""
    ids_BL, length_B = spelt(TOKENIZER, torch.cat([in_bytes(word) for word in ("the", "tho", "abc")]))
    assert ids_BL.tolist() == [[257, 257, 257], [256, ord("o"), ord("o")], [*b"abc"]]
    assert length_B.tolist() == [1, 2, 3]


def test_a_text_is_scored_to_its_last_token(reader: Discriminator) -> None:
    """In training the last 2 of 16 tokens are not read; a score is of them too."""
    text = "no such word as"
    one_1T, other_1T = (ids_of(f"{text}{last}") for last in "xy")
    assert one_1T.shape == (1, 16)
    assert one_1T[0, :-1].equal(other_1T[0, :-1])
    assert not reader.scores(one_1T).isclose(reader.scores(other_1T), atol=1e-3)
    learned = [scores(reader.critic, reader.read(ids_1T)) for ids_1T in (one_1T, other_1T)]
    assert learned[0].equal(learned[1])


def test_a_score_is_the_critics_of_what_it_reads(reader: Discriminator) -> None:
    ids_1T = ids_of(TEXTS[0])
    x_1TX = reader.critic.embed(*Read.of(ids_1T, reader.features))
    torch.testing.assert_close(reader.scores(ids_1T), reader.critic.score(x_1TX))
    for n_given in (0, 5):
        told_1 = reader.critic.prefix_scores(x_1TX, n_given)[:, -1]
        torch.testing.assert_close(reader.scores(ids_1T, n_given), told_1)
    assert not reader.scores(ids_1T, 0).isclose(reader.scores(ids_1T, 5), atol=1e-3)


def test_a_text_scores_the_same_however_it_is_spelt(reader: Discriminator) -> None:
    for text in TEXTS:
        known_1T = torch.tensor([TOKENIZER.encode(text[:16])])
        torch.testing.assert_close(reader.scores(in_bytes(text)), reader.scores(known_1T), atol=1e-5, rtol=1e-5)


def test_texts_of_unequal_spelling_score_together_as_alone(reader: Discriminator) -> None:
    """More of them than are held at a time."""
    ids_BT = torch.cat([in_bytes(text) for text in TEXTS] * 70)
    assert {*spelt(TOKENIZER, ids_BT)[1].tolist()} == {10, 12, 16}
    alone_B = torch.cat([reader.scores(in_bytes(text)) for text in TEXTS] * 70)
    torch.testing.assert_close(reader.scores(ids_BT), alone_B, atol=1e-5, rtol=1e-5)


def test_of_a_longer_text_the_last_tokens_are_read(reader: Discriminator) -> None:
    text = "and so on it goes, as it must, to "
    ids_1T = ids_of(text + TEXTS[3], T=99)
    assert ids_1T.size(1) > 2 * reader.features.context
    assert reader.scores(ids_1T).equal(reader.scores(ids_1T[:, -reader.features.context :]))
    assert reader.read(ids_1T).ids_NT.equal(ids_1T[:, -16:-2])


def test_half_a_character_at_either_end_makes_no_difference_to_a_score() -> None:
    """Cyrillic letters, two bytes each: whoever stops between the two is scored as if at the last whole letter."""
    reader = discriminator()
    letters = "привет".encode()
    whole = reader.scores(torch.tensor([list(letters)]), 0)
    for half in (b"\xd0", b"\xd1", b"\xe2\x82", b"\xf0\x9f\x98"):
        assert reader.scores(torch.tensor([list(letters + half)]), 0).equal(whole)
        assert reader.scores(torch.tensor([list(half[1:] + letters)]), 0).equal(whole)
    assert not reader.scores(torch.tensor([list(letters + b"!")]), 0).equal(whole)


def test_of_a_text_that_is_half_a_character_one_token_is_read() -> None:
    ids_BL, length_B = spelt(BYTES, torch.tensor([[0xE2, 0x82], [0x82, 0xAC], [*b"ab"]]))
    assert ids_BL.tolist() == [[0xE2, 0xE2], [0x82, 0x82], [*b"ab"]]
    assert length_B.tolist() == [1, 1, 2]


def test_what_is_spelt_longer_than_the_context_is_read_as_far_as_it_goes(reader: Discriminator) -> None:
    """Single bytes of no character: each becomes a replacement character, three bytes."""
    ids_1T = torch.full((1, 16), 0xFF)
    assert spelt(TOKENIZER, ids_1T)[1].item() == 48
    read_1T = torch.tensor([TOKENIZER.encode("\ufffd" * 16)[:16]])
    x_1TX = reader.critic.embed(*Read.of(read_1T, reader.features))
    torch.testing.assert_close(reader.scores(ids_1T), reader.critic.score(x_1TX))
