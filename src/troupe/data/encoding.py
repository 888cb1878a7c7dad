"""A long text to token ids: in pieces, on all cores, with memory for a few pieces only.

Where a text may be cut so that the ids of its pieces, joined, are the ids of the whole: between a visible character and
the blank or line break after it. GPT-2's regular expression (as `bpe` and `gpt2` use it) finds words that have white
space at their beginning or nowhere, and runs of white space; so no match goes from a visible character on to white
space, and a match may begin at the cut. The expression looks ahead only from white space to what follows it, and a
visible character ends the piece: what stands after the cut changes no match before it. Bytes and characters may be cut
anywhere. Where no such place comes for long, the text is cut where every encoding cuts it (data/stretches.py).
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from troupe.cores import usable_cores
from troupe.data.dataset import Ids
from troupe.data.stretches import cut_stretches
from troupe.data.tokenizer import Tokenizer

PIECE = 2**18  # characters: large enough that a piece's own cost vanishes, small enough for all cores to end together
UP_TO_LAST_CUT = re.compile(r"(?s:.*)\S(?=[ \t\r\n])")  # Python's \s is wider than Unicode's white space, so \S is safe
UP_TO_LAST_BLANK = re.compile(
    r"(?s:.*)\S(?= )"
)  # for expressions that take line breaks to the sign before them: Qwen's


def cut_pieces(texts: Iterable[str], n: int = PIECE, cut: re.Pattern[str] = UP_TO_LAST_CUT) -> Iterator[str]:
    """The joined texts in pieces of about `n` characters that can be encoded one by one.

    A stretch without any blank or line break stays whole up to the length at which every encoding cuts it.
    """
    held, size, enough = [""], 0, n
    for text in texts:
        held.append(text)
        size += len(text)
        if size < enough:
            continue
        joined = "".join(held)
        if found := cut.match(joined):
            yield found[0]
            joined, enough = joined[found.end() :], n
        elif len(parts := [*cut_stretches(joined)]) > 1:
            yield "".join(parts[:-1])
            joined, enough = parts[-1], n
        else:
            enough = 2 * size  # looking again after every text would take quadratic time
        held, size = [joined], len(joined)
    if size:
        yield "".join(held)


def encode_pieces(tokenizer: Tokenizer, pieces: Iterable[str], threads: int | None = None) -> Iterator[Ids]:
    """The ids of every piece, in order; `threads` pieces (all cores by default) are encoded at a time."""
    threads = threads or usable_cores()
    pending: deque[Future[Ids]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for piece in pieces:
            pending.append(pool.submit(tokenizer.encode_array, piece))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
