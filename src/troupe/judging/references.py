"""Language models that are trained for judging, and what they find in a text: the features of the likelihood judges.

A reader sees at once that a word does not exist; a classifier that learns from some hundred texts cannot. So these
models learn the language beforehand, from the text that the generators were trained on, and no classifier needs to:
a small transformer, and Kneser-Ney models of bytes, of tokens and of words. Their tokenizer, architecture, size and
random numbers are their own. They read no text that is judged: held-out text alone is.

A generator that was trained on the same text errs where it does, so that the transformer alone, to which generated text
is rather too likely, finds little. Counting errs elsewhere: generated text is less likely to it than real text, and
what one says beside the other tells most (docs/results/2026-12-01-judges.md).

Shapes: M texts, F features, T tokens or other symbols of a text, B texts of a batch, V vocabulary, N order.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from troupe.arrays import Floats
from troupe.compute import torch_threads
from troupe.data.bpe import make_tokenizer
from troupe.data.tokenizer import Tokenizer
from troupe.judging.words import WORD
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.kneser_ney import KneserNey, kneser_ney
from troupe.seeding import generator

LEARNED_TEXT = 2**21  # bytes of training text that are learned from: bounds memory and time for a large corpus
TOKENS, CONTEXT = 1024, 64  # of the tokenizer, of the transformer
SIZES = (2, 4, 128)  # layers, heads, width, of GPT-2's architecture, which no default generator has
STEPS = 150  # 12 s of a core
BATCH, LEARNING_RATE, WEIGHT_DECAY, CLIP = 16, 2e-3, 0.2, 1.0
WARM_UP, DECAY = 20, 0.7  # steps; the share of all steps, at the end, over which the rate falls to zero
BYTE_ORDER, TOKEN_ORDER, WORD_ORDER = 8, 6, 3  # of the n-grams
SPANS = (3, 5, 8)  # characters of n-grams that may be unknown: letters, words, phrases
IMPROBABLE = 4.0  # bits: the surprise from which a byte lengthens an improbable run
SUMMARY = ("spread", "median", "high", "top", "most")
NAMES = (
    *("transformer_bits", "entropy", "excess", "curvature", "rank", "likeliest"),
    *(f"transformer_{name}" for name in SUMMARY),
    *(f"byte_{n}_bits" for n in range(1, BYTE_ORDER + 1)),
    *(f"byte_{name}" for name in SUMMARY),
    *(f"token_{n}_bits" for n in range(1, TOKEN_ORDER + 1)),
    *(f"token_{name}" for name in SUMMARY),
    *(f"word_{n}_bits" for n in range(1, WORD_ORDER + 1)),
    "word_most",
    *("unknown_words", "unknown_pairs"),
    *(f"unknown_{n}" for n in SPANS),
    *("improbable_run", "between"),
)  # of the features; "between" is what a byte costs by counting, less what it costs the transformer


@dataclass(frozen=True)
class Vocabulary:
    """The words of the training text and its pairs of neighbouring words."""

    number: Mapping[str, int]
    pairs: frozenset[tuple[str, str]]

    def ids(self, words: Sequence[str]) -> NDArray[np.int64]:
        """Their numbers; all unknown ones share the number after the last."""
        return np.array([self.number.get(word, len(self.number)) for word in words], np.int64)


@dataclass(frozen=True)
class ReferenceModels:
    """All models; `features` remembers every text, of which a model's are read for each of its judges."""

    tokenizer: Tokenizer
    transformer: GPT
    of_bytes: KneserNey
    of_tokens: KneserNey
    of_words: KneserNey
    vocabulary: Vocabulary
    known: Mapping[int, frozenset[str]]  # the n-grams of characters of the training text, by order
    seen: dict[str, Floats] = field(default_factory=dict)

    def features(self, texts: Sequence[str]) -> Floats:
        """(M, F), in the order of NAMES. Those of a text do not depend on the texts beside it."""
        new = [text for text in dict.fromkeys(texts) if text not in self.seen]
        if new:
            self.seen.update(zip(new, self._read(new), strict=True))
        return np.array([self.seen[text] for text in texts]).reshape(len(texts), len(NAMES))

    def _read(self, texts: Sequence[str]) -> list[Floats]:
        ids = [np.asarray(self.tokenizer.encode(text), np.int64) for text in texts]
        words = [WORD.findall(text)[1:-1] for text in texts]  # the first and the last may be cut
        by_byte, by_token, by_word = (
            [-np.log2(p_NT) for p_NT in model.probabilities_of(symbols)]
            for model, symbols in (
                (self.of_bytes, [text.encode() for text in texts]),
                (self.of_tokens, ids),
                (self.of_words, [self.vocabulary.ids(one) for one in words]),
            )
        )
        return [self._row(*one) for one in zip(texts, ids, words, by_byte, by_token, by_word, strict=True)]

    def _row(
        self,
        text: str,
        ids_T: NDArray[np.int64],
        words: Sequence[str],
        byte_NT: Floats,
        token_NT: Floats,
        word_NT: Floats,
    ) -> Floats:
        n_bytes = max(1, byte_NT.shape[1])
        neural = self._transformer(ids_T, n_bytes)
        pairs = list(pairwise(words))
        row = [
            *neural,
            *(byte_NT.sum(1) / n_bytes),
            *_summary(byte_NT[-1]),
            *(token_NT.sum(1) / n_bytes),
            *_summary(token_NT[-1]),
            *(word_NT.sum(1) / max(1, len(words))),
            word_NT[-1].max(initial=0.0),
            _share([word not in self.vocabulary.number for word in words]),
            _share([pair not in self.vocabulary.pairs for pair in pairs]),
            *(_share([gram not in self.known[n] for gram in _ngrams(text, n)]) for n in SPANS),
            _run(byte_NT[-1]),
            byte_NT[-1].sum() / n_bytes - neural[0],
        ]
        return np.array(row, np.float64)

    @torch.no_grad()
    def _transformer(self, ids_T: NDArray[np.int64], n_bytes: int) -> list[float]:
        """Of every token but the first, which nothing precedes; a longer text is read context by context.

        A text is read alone: beside others the sums of a matrix product might be rounded otherwise.
        """
        found = [np.zeros((5, 0))]
        for piece in torch.split(torch.from_numpy(ids_T), CONTEXT):
            logp_TV = self.transformer(piece[None, :-1])[0].log_softmax(-1) if len(piece) > 1 else torch.zeros(0, 1)
            drawn_T1 = logp_TV.gather(-1, piece[1:, None])
            p_TV = logp_TV.exp()
            entropy_T = -(p_TV * logp_TV).sum(-1)
            variance_T = (p_TV * logp_TV.square()).sum(-1) - entropy_T.square()
            rank_T = (logp_TV > drawn_T1).sum(-1)
            parts = (-drawn_T1[:, 0], entropy_T, variance_T, (1 + rank_T).log2(), (rank_T == 0).float())
            found.append(torch.stack(parts).double().numpy())
        cost_T, entropy_T, variance_T, rank_T, first_T = np.concatenate(found, axis=1)
        bits_T, excess_T = cost_T / math.log(2), cost_T - entropy_T
        return [
            bits_T.sum() / n_bytes,
            entropy_T.sum() / math.log(2) / n_bytes,
            _mean(excess_T),
            float(excess_T.sum() / math.sqrt(max(variance_T.sum(), 1e-9))),
            _mean(rank_T),
            _mean(first_T),
            *_summary(bits_T),
        ]


def learned(train: str, seed: int, steps: int) -> ReferenceModels:
    """Trained on the first LEARNED_TEXT bytes of a text, the transformer for so many steps, which take most of the
    time. Equal arguments give equal features, with any number of threads."""
    text = train.encode()[:LEARNED_TEXT].decode(errors="ignore")
    words = WORD.findall(text)
    vocabulary = Vocabulary(
        {word: number for number, word in enumerate(dict.fromkeys(words))},
        frozenset(pairwise(words)),
    )
    tokenizer = make_tokenizer("bpe", text, TOKENS)
    ids_T = tokenizer.encode_array(text).astype(np.int64)
    return ReferenceModels(
        tokenizer,
        _trained(torch.from_numpy(ids_T), tokenizer.vocab_size, seed, steps),
        kneser_ney(text.encode(), BYTE_ORDER),
        kneser_ney(ids_T, TOKEN_ORDER, tokenizer.vocab_size),
        kneser_ney(vocabulary.ids(words), WORD_ORDER, len(vocabulary.number) + 1),
        vocabulary,
        {n: frozenset(_ngrams(text, n)) for n in SPANS},
    )


def _trained(ids_T: torch.Tensor, vocab_size: int, seed: int, steps: int) -> GPT:
    """By AdamW, on one thread: it must not depend on how many there are."""
    rng = generator(seed, "judging", "transformer")
    model = GPT(GPTConfig(vocab_size, CONTEXT, *SIZES, dropout=0.0))
    init_gpt2(model, rng)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY, fused=True
    )
    length = min(CONTEXT, len(ids_T) - 1)
    with torch_threads(1):
        for step in range(steps if length > 0 else 0):
            fall = (steps - step) / (DECAY * steps)
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARM_UP, fall)
            starts_B1 = torch.randint(len(ids_T) - length, (BATCH, 1), generator=rng)
            ids_BT = ids_T[starts_B1 + torch.arange(length + 1)]
            loss = F.cross_entropy(model(ids_BT[:, :-1]).flatten(0, 1), ids_BT[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
    return model.eval()


def _summary(bits_T: Floats) -> list[float]:
    """Spread, median and ninth decile, the mean of the tenth with most bits, and the most; all 0 without a symbol."""
    if not bits_T.size:
        return [0.0] * len(SUMMARY)
    highest_T = np.sort(bits_T)[-max(1, len(bits_T) // 10) :]
    middle, high = np.quantile(bits_T, [0.5, 0.9])
    return [float(bits_T.std()), float(middle), float(high), float(highest_T.mean()), float(highest_T[-1])]


def _run(bits_T: Floats) -> float:
    """The most bits beyond IMPROBABLE a byte that any run of bytes holds (Kadane's maximum over sums)."""
    sum_T = np.cumsum(np.append(0.0, bits_T - IMPROBABLE))
    return float((sum_T - np.minimum.accumulate(sum_T)).max())


def _mean(values_T: Floats) -> float:
    return float(values_T.mean()) if values_T.size else 0.0


def _share(truths: Sequence[bool]) -> float:
    return sum(truths) / max(1, len(truths))


def _ngrams(text: str, n: int) -> list[str]:
    return [text[i : i + n] for i in range(len(text) - n + 1)]
