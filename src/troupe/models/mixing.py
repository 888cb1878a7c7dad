"""A language model whose next token is drawn from a mixture of a network, an n-gram model and counts.

Context mixing (Mahoney 2005, "Adaptive weighing of context models for lossless data compression") over tokens instead
of bits: what each context has seen is evidence of its own, with its own confidence, where an n-gram model has collapsed
all orders into one distribution. With p_0 the product of network and n-grams,

    ln p_0(t)  =  a_1 ln p_network(t) + a_2 ln p_ngrams(t) - ln z
    ln p(t)    =  a_3 ln p_0(t) + sum over sources e of w_e ln(1 + m(n_e(t)) / (b_e p_0(t))) - ln z'

where n_e(t) is how often source e (models/contexts.py) has seen t follow, and m a table of what a count is worth. With
one source and w_e = 1 this is Dirichlet smoothing of counts with the prior p_0 and the concentration b_e; smaller
weights keep several sources from counting the same twice. A token that no source has seen adds nothing.

Weights and concentrations are chosen at every place: by a table per source of how much it has seen, and by a small MLP
that reads of all sources how much they have seen, how sure network and n-grams are, and how likely the network finds
what a source has seen. Some 5,000 numbers, which training/mixing.py fits to text that no part was trained on.

The text so far is one of the sources. Its length, at most a context of the network in generation, is part of the model.

Shapes: B texts, T tokens, S tokens so far, M = B * T places, E sources, R rows, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from troupe.data.dataset import Ids
from troupe.data.tokenizer import Tokenizer
from troupe.models.config import GPTConfig
from troupe.models.contexts import SOURCES, Contexts, Rows
from troupe.models.gpt2 import GPT
from troupe.models.layers import KVCache
from troupe.models.ngrams import NGrams
from troupe.models.tilted import copied_attention

HIDDEN = 32  # of the MLP
COUNTS = 8  # that have a worth of their own; a higher one is worth in proportion to the last
AMOUNTS, VARIETIES = 7, 5  # classes of how many tokens a source has seen, by powers of two, and how many different ones
FIRST_WEIGHT = -1.5  # of a source, before softplus: 0.2
SCALE = 0.3  # of what the MLP reads: most of it is between 0 and 6


class MixtureEvidence(NamedTuple):
    """Of M places: the log-probabilities of network and n-grams, the rows of all sources, and tokens so far."""

    network_MV: Tensor
    counted_MV: Tensor
    rows: Rows
    length_M: Tensor


class Mixture(nn.Module):
    """`mixture(evidence) -> logp_MV`, in nats. Without a network the n-grams stand in its place."""

    def __init__(self, ngrams: NGrams, contexts: Contexts) -> None:
        super().__init__()
        self.ngrams, self.contexts = ngrams, contexts
        E = SOURCES
        self.read = nn.Linear(5 + 4 * E, HIDDEN)
        self.choose = nn.Linear(HIDDEN, 2 * E + 3)
        self.weight_EK = nn.Parameter(torch.zeros(E, AMOUNTS * VARIETIES))
        self.concentration_EK = nn.Parameter(torch.zeros(E, AMOUNTS * VARIETIES))
        self.worth_EC = nn.Parameter(torch.zeros(E, COUNTS))

    @classmethod
    def counted(cls, ids_N: Ids, order: int, tokenizer: Tokenizer) -> Self:
        """All parts counted in a text, none of them weighed."""
        return cls(NGrams.counted(ids_N, order, tokenizer.vocab_size), Contexts.counted(ids_N, tokenizer))

    def weighed_as(self, other: "Mixture") -> Self:
        """These counts by the weights of another mixture."""
        self.load_state_dict(self.state_dict() | dict(other.named_parameters()))
        return self

    def evidence(self, read_BS: Tensor, T: int, network_BTV: Tensor | None = None) -> MixtureEvidence:
        """Of the last T tokens of each text; `network_BTV` holds log-probabilities."""
        S = read_BS.size(1)
        counted_BSV = self.ngrams(read_BS[:, max(0, S - T - self.ngrams.reach + 1) :])
        counted_MV = counted_BSV[:, -T:].flatten(0, 1)
        network_MV = counted_MV if network_BTV is None else network_BTV.flatten(0, 1)
        length_M = ((read_BS >= 0).cumsum(-1) - 1)[:, -T:].flatten().clamp_min(0)
        return MixtureEvidence(network_MV, counted_MV, self.contexts(read_BS, T), length_M)

    def forward(self, evidence: MixtureEvidence) -> Tensor:
        network_MV, counted_MV, (source_R, place_R, token_R, count_R), _ = evidence
        (M, V), E = network_MV.shape, SOURCES
        at_R, cell_R = place_R * E + source_R, place_R * V + token_R
        features_MF, class_ME = self._features(evidence, at_R, cell_R)
        chosen_MX = self.choose(torch.tanh(self.read(features_MF * SCALE)))
        sources_E = torch.arange(E, device=chosen_MX.device)
        weight_ME = F.softplus(chosen_MX[:, :E] + self.weight_EK[sources_E, class_ME])
        concentration_ME = chosen_MX[:, E : 2 * E] + self.concentration_EK[sources_E, class_ME]
        of_network, of_counted, of_both = chosen_MX[:, 2 * E :, None].unbind(1)
        prior_MV = (network_MV * of_network + counted_MV * of_counted).log_softmax(-1)
        tabled_R = count_R.clamp_max(COUNTS)
        worth_R = self.worth_EC.flatten()[source_R * COUNTS + tabled_R.long() - 1] + torch.log(count_R / tabled_R)
        surprise_R = worth_R - prior_MV.flatten()[cell_R] - concentration_ME.flatten()[at_R]
        added_R = weight_ME.flatten()[at_R] * F.softplus(surprise_R)
        logits_MV = (prior_MV * (1 + of_both)).flatten().index_add(0, cell_R, added_R).view(M, V)
        logp_MV: Tensor = logits_MV.log_softmax(-1)
        return logp_MV

    @staticmethod
    @torch.no_grad()
    def _features(evidence: MixtureEvidence, at_R: Tensor, cell_R: Tensor) -> tuple[Tensor, Tensor]:
        """What the MLP reads, and the class of each source: class_ME of what and how much it has seen."""
        network_MV, counted_MV, rows, length_M = evidence
        M, E = len(network_MV), SOURCES
        empty_A = torch.zeros(M * E, device=at_R.device)
        total_A = empty_A.index_add(0, at_R, rows.count_R)
        kinds_A = empty_A.index_add(0, at_R, torch.ones_like(rows.count_R))
        most_A = empty_A.scatter_reduce(0, at_R, rows.count_R, "amax")
        likely_A = empty_A.index_add(0, at_R, rows.count_R * network_MV.flatten()[cell_R]) / total_A.clamp_min(1)
        sure = [of(logp_MV) for logp_MV in (network_MV, counted_MV) for of in (_entropy, _highest)]
        seen_MX = torch.stack([total_A, kinds_A, most_A], -1).log1p().view(M, 3 * E)
        features_MF = torch.cat([torch.stack([*sure, length_M.log1p()], -1), seen_MX, likely_A.view(M, E)], -1)
        amount_A = total_A.clamp(1, 2 ** (AMOUNTS - 1)).log2().ceil().long()
        return features_MF, (amount_A * VARIETIES + _variety(kinds_A)).view(M, E)


def _entropy(logp_MV: Tensor) -> Tensor:
    return -(logp_MV.exp() * logp_MV).sum(-1)


def _highest(logp_MV: Tensor) -> Tensor:
    return logp_MV.amax(-1)


def _variety(kinds_A: Tensor) -> Tensor:
    """The class of a number of different tokens: 1, 2, 3, up to 8, more."""
    return torch.bucketize(kinds_A, torch.tensor([1.0, 2.0, 3.0, 8.0], device=kinds_A.device))


@torch.no_grad()
def init_mixture(mixture: Mixture, rng: torch.Generator) -> None:
    """Where a fit begins, in place: network and n-grams weigh half each, every source a little, a count is worth itself
    and the MLP chooses nothing."""
    for parameter in mixture.parameters():
        parameter.zero_()
    nn.init.kaiming_uniform_(mixture.read.weight, a=5**0.5, generator=rng)  # as nn.Linear does
    mixture.choose.bias[2 * SOURCES : 2 * SOURCES + 2] = 0.5
    mixture.weight_EK.fill_(FIRST_WEIGHT)
    mixture.worth_EC.copy_(torch.arange(1, COUNTS + 1).log().expand_as(mixture.worth_EC))


class Mixed(GPT):
    """A GPT with a `mixture`; `mixed` makes one. Its logits are log-probabilities."""

    def __init__(self, config: GPTConfig, attention: Callable[[GPTConfig], nn.Module], mixture: Mixture) -> None:
        super().__init__(config, attention)
        self.mixture = mixture

    def forward(self, ids_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        logits_BTV: Tensor = self.mixture(self.evidence(ids_BT, cache)).view(*ids_BT.shape, -1)
        return logits_BTV

    def description(self) -> tuple[str, dict[str, Any]]:
        """As of any GPT, and the sizes of what was counted."""
        _, dims = super().description()
        counted = {"ngrams": self.mixture.ngrams.sizes(), "contexts": self.mixture.contexts.size()}
        return "mixed", dims | counted

    def evidence(self, ids_BT: Tensor, cache: KVCache | None = None) -> MixtureEvidence:
        """Of each of `ids_BT`, which follow the tokens that `cache` holds."""
        network_BTV = super().forward(ids_BT, cache).float().log_softmax(-1)
        read_BS = cache.recall(ids_BT, self.config.block_size) if cache is not None else ids_BT
        return self.mixture.evidence(read_BS, ids_BT.size(1), network_BTV)


def mixed(model: GPT, mixture: Mixture) -> Mixed:
    """A copy of `model` beside `mixture`, on its device."""
    found = Mixed(model.config, copied_attention(model), mixture)
    found.load_state_dict({**found.state_dict(), **model.state_dict()})
    return found.to(next(model.parameters()).device).train(model.training)
