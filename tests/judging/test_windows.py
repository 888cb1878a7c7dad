"""Places, real windows and what is written there."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from troupe.data.bpe import make_tokenizer
from troupe.data.tokenizer import ByteTokenizer, Tokenizer
from troupe.decoding import Decoding
from troupe.errors import CorpusError
from troupe.judging.controls import markov
from troupe.judging.windows import Places, clip, continuations, find_places, sampler
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2

TEXT = "Déjà vu: the quick brown fox — ein schöner Tag — jumps over the lazy dog. " * 20
WIDTH, PROMPT = 40, 3


def places(tokenizer: Tokenizer) -> Places:
    return find_places("test", np.array(tokenizer.encode(TEXT)), tokenizer, WIDTH, PROMPT)


def model(vocab_size: int, block_size: int = 16) -> GPT:
    model = GPT(GPTConfig(vocab_size, block_size, n_layer=1, n_head=2, n_embd=8, dropout=0.0)).eval()
    init_gpt2(model, torch.Generator().manual_seed(0))
    return model


@pytest.mark.parametrize("kind", ["bytes", "chars", "bpe"])
def test_real_windows_follow_each_other_in_the_text(kind: str) -> None:
    found = places(make_tokenizer(kind, TEXT, 400))  # type: ignore[arg-type]
    at = 0
    for window in found.real():
        assert WIDTH - 6 <= len(window.encode()) <= WIDTH
        at = TEXT.index(window, at) + len(window)
    assert len(found.starts) >= len(TEXT.encode()) // (WIDTH + 16)


def test_prompts_are_the_tokens_before_the_windows() -> None:
    text = "to be or not to be, that is the question: " * 20
    found = find_places("test", np.array(ByteTokenizer().encode(text)), ByteTokenizer(), WIDTH, PROMPT)
    joined = [
        bytes(prompt).decode() + window for prompt, window in zip(found.prompts().tolist(), found.real(), strict=True)
    ]
    assert joined == [text[start - PROMPT : start + WIDTH] for start in found.starts]


def test_parts_hold_all_places_in_order() -> None:
    whole = Places(np.zeros(1), np.arange(300), PROMPT, WIDTH, ByteTokenizer())
    parts = whole.parts()
    assert [len(part.starts) for part in parts] == [256, 44]
    assert np.concatenate([part.starts for part in parts]).tolist() == list(range(300))


def test_a_text_too_short_says_so() -> None:
    with pytest.raises(CorpusError, match=r"validation split.*judging\.window \(40\).*lower"):
        find_places("validation", np.array(ByteTokenizer().encode(TEXT))[:200], ByteTokenizer(), WIDTH, PROMPT)


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_continuations_have_the_length_of_real_windows_and_follow_the_seed(kind: str) -> None:
    """Also where the window outgrows the context: 40 bytes after a context of 16."""
    tokenizer = make_tokenizer(kind, TEXT, 300)  # type: ignore[arg-type]
    found = places(tokenizer)
    one, again, other = (continuations(model(tokenizer.vocab_size), found, seed) for seed in (1, 1, 2))
    assert one == again != other
    assert len(one) == len(found.starts)
    assert all(len(text.encode()) >= WIDTH - 6 and len(text) <= WIDTH for text in one)


def test_texts_are_drawn_by_the_sampler_that_is_given() -> None:
    """Greedy drawing has no use for a seed; the sampler by default is the model's own distribution."""
    found, writer = places(ByteTokenizer()), model(256)
    greedy = sampler(Decoding(greedy=True))
    assert continuations(writer, found, 1, greedy) == continuations(writer, found, 2, greedy)
    assert continuations(writer, found, 1, sampler(Decoding(temperature=1.0))) == continuations(writer, found, 1)


def test_the_length_of_tokens_is_not_selected_for() -> None:
    """A model that cannot but repeat one single-byte token is continued until its text is long enough."""
    tokenizer = make_tokenizer("bpe", TEXT, 300)
    single = tokenizer.encode("z")[0]
    stuck = model(tokenizer.vocab_size)
    with torch.no_grad():
        stuck.norm.weight.zero_()
        stuck.norm.bias.fill_(1.0)
        stuck.token_embedding.weight.fill_(-10.0)
        stuck.token_embedding.weight[single] = 10.0
    texts = continuations(stuck, places(tokenizer), seed=0)
    assert set(texts) == {"z" * WIDTH}


def test_a_markov_chain_writes_only_pairs_that_it_has_read() -> None:
    """After "a" always comes "b", after "b" always "c", after "c" always "a"."""
    tokenizer = ByteTokenizer()
    found = find_places("test", np.array(tokenizer.encode("abc" * 200)), tokenizer, WIDTH, PROMPT)
    texts = markov(b"abc" * 50, found, seed=0)
    assert texts == found.real()


@given(st.text(min_size=1, max_size=30), st.integers(0, 8), st.integers(1, 40))
def test_clipped_text_is_whole_characters_of_the_text(text: str, begin: int, width: int) -> None:
    content = text.encode(errors="replace")[begin:]
    cut = clip(content, width)
    assert "\ufffd" not in cut or "\ufffd" in text
    assert cut in content.decode(errors="replace")
    assert len(cut.encode()) >= min(width, len(content)) - 6


def test_faults_inside_stay_visible() -> None:
    assert clip(b"ab\xffcd", 5) == "ab\ufffdcd"
