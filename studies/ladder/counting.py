"""What counting and compressing make of the same bytes: the rivals beside the rungs, in bits per byte.

A compressor is charged for what the test text adds to the training text: 8 (|C(train + test)| - |C(train)|) / |test|.
"""

import gzip
import lzma
from collections.abc import Callable

from troupe.models.kneser_ney import bits_per_byte

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip -9": lambda text: gzip.compress(text, 9, mtime=0),
    "xz -9e": lambda text: lzma.compress(text, preset=9 | lzma.PRESET_EXTREME),
}


def rivals(train: bytes, validation: bytes, test: bytes, max_order: int) -> dict[str, float]:
    """Bits per byte of `test` by name; of Kneser-Ney the order that predicts `validation` best."""
    found = {name: added(compress, train, test) for name, compress in COMPRESSORS.items()}
    on_validation, on_test = bits_per_byte(train, max_order, [validation, test])
    best = min(range(max_order), key=on_validation.__getitem__)
    return found | {f"Kneser-Ney of order {best + 1}": on_test[best]}


def added(compress: Callable[[bytes], bytes], train: bytes, test: bytes) -> float:
    """Bits per byte of `test` where `train` has been compressed before it."""
    return 8 * (len(compress(train + test)) - len(compress(train))) / len(test)
