"""Writers of texts of known quality, at the same places as a model: what judges are checked with.

| control | a good judge |
|---|---|
| real text, half of it labelled generated (two_sample.py) | guesses: accuracy 0.5 |
| a Markov chain of bytes | detects every text |
| real text with its words shuffled | detects nearly every text |
| copied training text, of what the judges have read | detects it: text that is too likely is no new text either |
| real text, of which a share of the words is a model's own | detects the more, the larger the share |

Shapes: N places, T bytes.
"""

from collections.abc import Sequence

import numpy as np
import torch

from troupe.judging import words
from troupe.judging.windows import Places, clip
from troupe.seeding import derive_seed, generator

CORRUPTED = (0.01, 0.05, 0.2)  # shares of words


def markov(train: bytes, places: Places, seed: int) -> list[str]:
    """Every byte is drawn given only the one before it, as counted in `train`."""
    data = np.frombuffer(train, dtype=np.uint8).astype(np.int64)
    counts = np.bincount(data[:-1] * 256 + data[1:], minlength=256 * 256).reshape(256, 256)
    weights = torch.from_numpy(counts + 1e-9)  # a byte that nothing follows in `train` may be followed by any
    last = [places.tokenizer.decode_bytes([int(places.ids[start - 1])])[-1] for start in places.starts]
    text_NT, rng = torch.tensor(last).unsqueeze(1), generator(seed, "markov")
    for _ in range(places.width):
        text_NT = torch.cat([text_NT, torch.multinomial(weights[text_NT[:, -1]], 1, generator=rng)], dim=1)
    return [clip(bytes(row), places.width) for row in text_NT[:, 1:].tolist()]


def shuffled(places: Places, seed: int) -> list[str]:
    """The real texts, each with its own words in another order."""
    return [words.shuffled(text, rng) for text, rng in _with_rngs(places.real(), seed, "shuffled")]


def copied(train: bytes, places: Places, seed: int) -> list[str]:
    """Training text, from anywhere; where there is less of it than a window, all."""
    starts = torch.randint(max(1, len(train) - places.width + 1), (len(places.starts),), generator=generator(seed))
    return [clip(train[start : start + places.width], places.width) for start in starts.tolist()]


def corrupted(places: Places, seed: int, share: float, drawn: Sequence[str]) -> list[str]:
    """The real texts, of which a share of the words is drawn from others; each as long as the real one, whose
    continuation fills it up where the others are shorter."""
    longer = [clip(places.tokenizer.decode_bytes(places.ids[i : i + 2 * places.width].tolist()), 2 * places.width)
              for i in places.starts]  # fmt: skip
    return [
        clip(words.replaced(text, drawn, share, rng).encode(), len(real.encode()))
        for real, (text, rng) in zip(places.real(), _with_rngs(longer, seed, "corrupted"), strict=True)
    ]


def _with_rngs(texts: Sequence[str], seed: int, purpose: str) -> list[tuple[str, torch.Generator]]:
    return [(text, generator(derive_seed(seed, number), purpose)) for number, text in enumerate(texts)]
