"""The second job of a seed: mixtures of ever more parts, each fitted to the critic's text and measured on test text.

Shapes: N tokens of a text, B windows of which the last T tokens are predicted, M = B * T places, V vocabulary.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import process_time

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from studies.core.jobs import Figures, Job
from studies.core.text import Text, load_text, shortened
from studies.mixture.network import WEIGHTS
from troupe.arrays import Ints
from troupe.data.corpus import Split, split_blocks
from troupe.data.tokenizer import FILE, load_tokenizer
from troupe.decoding import Decoding, generate
from troupe.evaluation.comparison import bits_per_byte, nats, windows
from troupe.evaluation.rivals import xz
from troupe.models.config import GPTConfig
from troupe.models.contexts import KINDS, ORDERS, SOURCES, Rows
from troupe.models.gpt2 import GPT
from troupe.models.mixing import Mixture, mixed
from troupe.seeding import generator
from troupe.training.mixing import PLACES, Predicted, fit

PARTS = {  # how many of the sources a mixture has
    "+ n-grams": 0,
    "+ counts of each order": len(ORDERS),
    "+ words": KINDS,
    "+ text of the context": SOURCES,
}
NETWORK, COUNTED_TOO, BLOCK = "network", "+ critic's text counted", "+ text of the block"
ALONE, BLOCK_ALONE = "no network, text of the context", "no network, text of the block"
PIECE = 256  # tokens of a block that are predicted at a time
HELD_OUT: tuple[Split, ...] = ("critic", "test")
MEASURED: tuple[Split, ...] = ("train", "test")  # by a compressor
TIMED = 96  # tokens that are generated


def mix(job: Job, folder: Path, needed: Path | None) -> Figures:
    """The body of a job."""
    where = folder.parent / job.settings["text"]
    text = shortened(load_text(where), job.settings["held_out"])
    network = GPT(GPTConfig(text.vocab_size, **job.settings["model"])).eval()
    network.load_state_dict(safetensors.torch.load_file(folder.parent / job.settings["network"] / WEIGHTS))
    bench = Bench.of(where, text, network, job)
    began = process_time()
    found, best, seconds = by_parts(bench)
    model = mixed(network, bench.richer.weighed_as(best)).eval()
    return {
        "bits": found,
        "xz": xz(*("".join(split_blocks(where, split)).encode() for split in MEASURED)),
        "fit_seconds": seconds,
        "seconds": process_time() - began,
        "counted_bytes": sum(buffer.numel() * buffer.element_size() for buffer in best.buffers()),
        "learned": sum(parameter.numel() for parameter in best.parameters()),
        "token_ms": {"network": milliseconds(network), "mixture": milliseconds(model)},
    }


@dataclass(frozen=True)
class Bench:
    """What all mixtures of a seed share; `richer` has counted the critic's text beside the training text."""

    text: Text
    network: GPT
    begins: Mapping[Split, list[int]]  # the first token of every block
    counted: Mixture
    richer: Mixture
    updates: int
    seed: int

    @classmethod
    def of(cls, where: Path, text: Text, network: GPT, job: Job) -> "Bench":
        tokenizer, order, ids = load_tokenizer(where / FILE), job.settings["order"], text.ids
        sizes = np.array([len(tokenizer.decode_bytes([token])) for token in range(tokenizer.vocab_size)])
        begins: dict[Split, list[int]] = {split: block_begins(where, split, sizes[ids[split]]) for split in HELD_OUT}
        counted = Mixture.counted(ids["train"], order, tokenizer)
        richer = Mixture.counted(np.concatenate([ids["train"], ids["critic"]]), order, tokenizer)
        return cls(text, network, begins, counted, richer, job.settings["updates"], job.seed)

    def tokens(self, split: Split) -> Tensor:
        return torch.from_numpy(self.text.ids[split].astype(np.int64))

    @torch.no_grad()
    def in_windows(self, mixture: Mixture, split: Split) -> Iterator[Predicted]:
        """All tokens of a text but the first, as an evaluation predicts them: from the text of a context."""
        ids, size = self.tokens(split), self.network.config.block_size
        for begins_B, length, T in windows(len(ids) - 1, size, size // 2, max(1, 2 * PLACES // size)):
            read_BS = torch.stack([ids[begin : begin + length] for begin in begins_B])
            next_BT = torch.stack([ids[begin + length - T + 1 : begin + length + 1] for begin in begins_B])
            network_BTV = self.network(read_BS)[:, -T:].log_softmax(-1)
            yield mixture.evidence(read_BS, T, network_BTV), next_BT.flatten()

    @torch.no_grad()
    def in_blocks(self, mixture: Mixture, split: Split) -> Iterator[Predicted]:
        """The same tokens, from all of their block so far. The network reads the windows that it reads otherwise."""
        ids = self.tokens(split)
        network_NV = torch.cat([evidence.network_MV for evidence, _ in self.in_windows(mixture, split)])
        for begin, end in pairwise([*self.begins[split], len(ids) - 1]):
            for low in range(begin, end, PIECE):
                high = min(end, low + PIECE)
                evidence = mixture.evidence(ids[None, begin:high], high - low, network_NV[None, low:high])
                yield evidence, ids[low + 1 : high + 1]

    def fitted(self, batches: Sequence[Predicted]) -> Mixture:
        fit(self.counted, batches, generator(self.seed, "study", "mixture"), self.updates)
        return self.counted

    @torch.no_grad()
    def bits(self, mixture: Mixture, batches: Sequence[Predicted]) -> float:
        """Per byte of test text; its first token, which nothing precedes, costs log V."""
        total = math.log(self.text.vocab_size)
        for evidence, y_M in batches:
            total -= mixture(evidence).gather(-1, y_M.unsqueeze(-1)).double().sum().item()
        return bits_per_byte(total, self.text.n_bytes["test"])


def by_parts(bench: Bench) -> tuple[dict[str, float], Mixture, float]:
    """Bits per byte of test text by part; the mixture of all parts within a context; the seconds its fit took."""
    config, test = bench.network.config, bench.text.ids["test"]
    found = {NETWORK: bits_per_byte(nats(bench.network, test, config.block_size // 2), bench.text.n_bytes["test"])}
    critic = list(bench.in_windows(bench.counted, "critic"))
    held_out, richer = (list(bench.in_windows(one, "test")) for one in (bench.counted, bench.richer))
    for name, n_sources in PARTS.items():
        began = process_time()
        model = bench.fitted(only(critic, n_sources))
        seconds = process_time() - began
        found[name] = bench.bits(model, only(held_out, n_sources))
    best = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    found[COUNTED_TOO] = bench.bits(model, richer)
    found[ALONE] = bench.bits(bench.fitted(without_network(critic)), without_network(richer))
    critic, richer = list(bench.in_blocks(bench.counted, "critic")), list(bench.in_blocks(bench.richer, "test"))
    found[BLOCK] = bench.bits(bench.fitted(critic), richer)
    found[BLOCK_ALONE] = bench.bits(bench.fitted(without_network(critic)), without_network(richer))
    model.load_state_dict(model.state_dict() | best)
    return found, model, seconds


def only(batches: Sequence[Predicted], n_sources: int) -> list[Predicted]:
    """The same evidence from the first sources alone."""
    found = []
    for evidence, y_M in batches:
        kept_R = evidence.rows.source_R < n_sources
        found.append((evidence._replace(rows=Rows(*(part[kept_R] for part in evidence.rows))), y_M))
    return found


def without_network(batches: Sequence[Predicted]) -> list[Predicted]:
    """The same evidence with the n-grams in the network's place."""
    return [(evidence._replace(network_MV=evidence.counted_MV), y_M) for evidence, y_M in batches]


def block_begins(where: Path, split: Split, size_N: Ints) -> list[int]:
    """The first token of each block that has one; a token that lies over a border belongs to the block before it."""
    borders = np.cumsum([0, *(len(block.encode()) for block in split_blocks(where, split))])[:-1]
    begin_N = np.cumsum(size_N) - size_N
    found = np.unique(np.searchsorted(begin_N, borders))
    return [int(token) for token in found if token < len(begin_N) - 1]


def milliseconds(model: GPT) -> float:
    """Of one thread for each of `TIMED` tokens, once as many have been generated before."""
    prompt_BT = torch.zeros(1, 1, dtype=torch.int64)
    for _ in range(2):
        began = process_time()
        generate(model, prompt_BT, TIMED, Decoding(), [1])
    return 1000 * (process_time() - began) / TIMED
