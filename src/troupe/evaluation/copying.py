"""How much of a text stands verbatim in the training text, in bytes.

A suffix array of the training text (U. Manber and G. Myers 1993, "Suffix Arrays: A New Method for On-Line String
Searches"): where its suffixes are sorted, the longest match of a string is one of its two neighbours.

Shapes: I position in the training text, T position in a text, W bytes from a position on, zeros after the end.
"""

import numpy as np
from numpy.typing import NDArray

from troupe.arrays import Ints


class Copies:
    """Finds runs in `train`; a second to build for 1 MB, half a millisecond to look up 128 bytes."""

    def __init__(self, train: bytes) -> None:
        self.train = train
        self.sorted_I = suffix_array(train)

    def matches(self, text: str) -> Ints:
        """match_T: how many bytes from each byte of a text on stand verbatim in the training text, one after another.

        Held-out real text has long matches too.
        """
        encoded = text.encode()
        width, n = len(encoded), len(self.train)
        if not width or not n:
            return np.zeros(width, np.int64)
        (asked_T, asked_TW), (train_I, train_IW) = (_beginnings(one, width) for one in (encoded, self.train))
        # to the right of equals: of those the last reaches furthest before the end of the training text
        place_T = np.searchsorted(train_I, asked_T, side="right", sorter=self.sorted_I)
        start_2T = self.sorted_I[np.clip([place_T - 1, place_T], 0, n - 1)]
        differ_2TW = train_IW[start_2T] != asked_TW
        shared_2T = np.where(differ_2TW.any(-1), differ_2TW.argmax(-1), width)
        found_T: Ints = np.minimum(shared_2T, n - start_2T).max(0)
        return np.minimum(found_T, width - np.arange(width))


def _beginnings(text: bytes, width: int) -> tuple[NDArray[np.bytes_], NDArray[np.uint8]]:
    """The `width` bytes from every position on, each as one value that numpy compares byte by byte, and as a row.

    Both are views of one copy of the text.
    """
    padded = np.frombuffer(text + bytes(width - 1), np.uint8)
    strings_I: NDArray[np.bytes_] = np.ndarray(len(text), f"S{width}", padded, strides=1)
    return strings_I, np.lib.stride_tricks.sliding_window_view(padded, width)


def suffix_array(text: bytes) -> Ints:
    """(I,) where the suffixes of a text begin, in their order, by doubling the length that they are sorted by."""
    rank_I = _ranks(np.frombuffer(text, np.uint8).astype(np.int64))
    length, n = 1, len(rank_I)
    while n and (most := int(rank_I.max())) < n - 1:
        follower_I = np.append(rank_I[length:] + 1, np.zeros(min(length, n), np.int64))  # 0 after the end
        rank_I = _ranks(rank_I * (most + 2) + follower_I)
        length *= 2
    return np.argsort(rank_I)


def _ranks(key_I: Ints) -> Ints:
    """The place of each among the distinct keys, as np.unique's inverse in half the time."""
    order_I = np.argsort(key_I)
    sorted_I = key_I[order_I]
    rank_I = np.empty_like(key_I)
    rank_I[order_I] = np.cumsum(np.append(False, sorted_I[1:] != sorted_I[:-1])[: len(key_I)])
    return rank_I
