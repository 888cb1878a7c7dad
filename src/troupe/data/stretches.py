"""Long stretches without a blank, or of nothing but blanks, cut: byte-pair encoding takes quadratic time within one.

Every encoding of a text, whole or in pieces, cuts at the same places: after each LONGEST characters of a stretch,
counted from its beginning. A text without such a stretch has the ids that GPT-2's expression alone would give it.
"""

import re
from collections.abc import Iterator
from functools import cache

LONGEST = 2**14  # characters: 30 times what the longest words have; here encoding still takes 2 MB/s


def cut_stretches(text: str, longest: int | None = None) -> Iterator[str]:
    """`text` in parts, cut after every `longest` (by default LONGEST) characters of a stretch. One that begins in the
    middle of a stretch must begin at such a cut."""
    longest, start = longest or LONGEST, 0
    if _may_hold_one(text, longest):
        for found in _stretches(longest).finditer(text):
            for end in range(found.start() + longest, found.end() + 1, longest):
                yield text[start:end]
                start = end
    if start < len(text) or not text:
        yield text[start:]


def holds_stretch(text: str) -> bool:
    """Whether `cut_stretches` cuts it, if only at its end."""
    return _may_hold_one(text, LONGEST) and _stretches(LONGEST).search(text) is not None


def _may_hold_one(text: str, longest: int) -> bool:
    """Whether half of `longest` characters side by side hold no blank between others: a hundred times faster than to
    look for the stretch, which covers one of the halves that are looked at."""
    half = max(1, longest // 2)
    return any(len(text[at : at + half].split(None, 1)) < 2 for at in range(0, len(text) - half + 1, half))


@cache
def _stretches(longest: int) -> re.Pattern[str]:
    return re.compile(rf"(?<!\S)(?:\S{{{longest}}})+|(?<!\s)(?:\s{{{longest}}})+")
