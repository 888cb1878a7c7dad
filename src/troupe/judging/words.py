"""Texts whose quality is known, made from real ones: what judges are checked with.

Their words are those of a regular expression, which takes a text without blanks for few long words: every function
works on any text, also on one without any word. Shapes: N texts.
"""

import re
from collections.abc import Sequence

import torch

WORD = re.compile(r"\w+|[^\w\s]")


def shuffled(text: str, rng: torch.Generator) -> str:
    """The words of a text in another order, with all between them, such as blanks and the ends of lines, in place."""
    found = WORD.findall(text)
    order = iter(torch.randperm(len(found), generator=rng).tolist())
    return WORD.sub(lambda _: found[next(order)], text)


def replaced(text: str, words: Sequence[str], share: float, rng: torch.Generator) -> str:
    """A text of which each word is, with probability `share`, another one drawn from `words`."""

    def other(match: re.Match[str]) -> str:
        if not words or torch.rand((), generator=rng).item() >= share:
            return match[0]
        return words[int(torch.randint(len(words), (), generator=rng))]

    return WORD.sub(other, text)


def whole_words(texts: Sequence[str]) -> list[str]:
    """The words of all texts but the first and the last of each, which may be cut."""
    return [word for text in texts for word in WORD.findall(text)[1:-1]]
