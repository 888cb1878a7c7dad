"""Every figure of one set of texts, each to be read beside that of real text of the same size.

    yardstick = make_yardstick(train, references, independent)
    measure(written, yardstick), measure(real, yardstick)      # as many texts, of the same lengths

`train` is what generators learned from. `references`, `independent` and `real` are held-out text that neither
generators nor discriminators learned from, disjoint from each other. docs/algorithms/evaluation.md lists the figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from troupe.evaluation import diversity
from troupe.evaluation.copying import Copies
from troupe.evaluation.diversity import References, bleu, self_bleu
from troupe.judging.words import WORD
from troupe.models.kneser_ney import KneserNey, kneser_ney

ORDER = 5  # of the Kneser-Ney models: the text that they are counted in is small


@dataclass(frozen=True)
class Yardstick:
    """What texts are held against, prepared once."""

    copies: Copies
    vocabulary: frozenset[str]
    references: References
    real: bytes  # the references as one text
    independent: KneserNey


def make_yardstick(train: str, references: Sequence[str], independent: str) -> Yardstick:
    return Yardstick(
        Copies(train.encode()),
        frozenset(WORD.findall(train)),
        References(references),
        _joined(references),
        kneser_ney(independent.encode(), ORDER),
    )


def measure(texts: Sequence[str], yardstick: Yardstick) -> dict[str, float]:
    """{name: figure} of at least two texts."""
    matches = [yardstick.copies.matches(text) for text in texts]
    return {
        "bits": yardstick.independent.bits_per_byte(_joined(texts))[-1],
        "reverse_bits": kneser_ney(_joined(texts), ORDER).bits_per_byte(yardstick.real)[-1],
        "bleu_3": bleu(texts, yardstick.references),
        "self_bleu_3": self_bleu(texts),
        **{f"distinct_{n}": diversity.distinct(texts, n) for n in (1, 2, 4)},
        "repetition": diversity.repetition(texts),
        "memorisation": diversity.memorisation(matches),
        "unigram_entropy": diversity.unigram_entropy(texts),
        "out_of_vocabulary": diversity.out_of_vocabulary(texts, yardstick.vocabulary),
        "longest_copy": fmean(int(match_T.max(initial=0)) for match_T in matches),
    }


def _joined(texts: Sequence[str]) -> bytes:
    """A line's end keeps the end of one text from being read as the beginning of the next."""
    return "\n".join(texts).encode()
