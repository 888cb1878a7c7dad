"""What a compressor, and counts mixed without a network, make of the same test text: rivals beside the models.

Shapes: B windows, T tokens, V vocabulary.
"""

import lzma

import torch
from torch import Tensor, nn

from troupe.compute import torch_threads
from troupe.data.dataset import TokenDataset
from troupe.evaluation.comparison import bits_per_byte, nats
from troupe.evaluation.result import Rivals
from troupe.judging.protocol import HeldOut
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT
from troupe.models.layers import KVCache
from troupe.models.mixing import Mixture
from troupe.seeding import generator
from troupe.training.mixing import batches, fit

ORDER = 5  # of the n-grams
FITTED = 2**15  # tokens of the critic's text at most
LARGEST_VOCABULARY = 4096  # a fit holds a row of floats of this length for each of its tokens: 0.5 GB


def rivals(train: str, data: TokenDataset, test: HeldOut, config: GPTConfig, stride: int, seed: int) -> Rivals:
    """Of test text, the same with any number of threads. `train` is what the compressor has read before it."""
    counts = None
    if data.vocab_size <= LARGEST_VOCABULARY:
        with torch_threads(1):
            mixture = counted(data, config.block_size, seed)
            counts = bits_per_byte(nats(_WithoutNetwork(config, mixture), test.ids, stride), len(test.content))
    return Rivals(xz=xz(train.encode(), test.content), counts=counts)


def xz(train: bytes, test: bytes) -> float:
    """Bits per byte that test text adds to training text."""
    before, after = (len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) for text in (train, train + test))
    return 8 * (after - before) / len(test)


def counted(data: TokenDataset, block_size: int, seed: int) -> Mixture:
    """n-grams and counts of the training text, mixed as fits the critic's text."""
    mixture, critic = Mixture.counted(data.ids("train"), ORDER, data.tokenizer), data.ids("critic")[:FITTED]
    fit(mixture, list(batches(mixture, None, critic, block_size)), generator(seed, "evaluate", "rivals"))
    return mixture


class _WithoutNetwork(GPT):
    """A mixture in the place of a model: what it says of each next token of a window."""

    def __init__(self, config: GPTConfig, mixture: Mixture) -> None:
        nn.Module.__init__(self)
        self.config, self.mixture = config, mixture

    @torch.no_grad()
    def forward(self, ids_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        logp_BTV: Tensor = self.mixture(self.mixture.evidence(ids_BT, ids_BT.size(1))).view(*ids_BT.shape, -1)
        return logp_BTV
