"""The numbers of a mixture (models/mixing.py), fitted by likelihood to text that none of its parts was trained on.

On the training text the network is too sure, and every context has been seen: weights fitted there trust everything.

Shapes: B windows of S tokens, the last T of them predicted, M = B * T places, N tokens of a text.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from troupe.data.dataset import Ids
from troupe.models.gpt2 import GPT, evaluating
from troupe.models.mixing import Mixture, MixtureEvidence, init_mixture

PLACES = 512  # of an update
UPDATES, PASSES = 300, 8  # of a fit at most: more move nothing that shows, and of a short text they learn it by heart
RATE, WARMUP = 0.02, 20  # of AdamW, which takes the first so many updates at a lower rate and ends at 0
Predicted = tuple[MixtureEvidence, Tensor]  # and the tokens that followed, y_M


def fit(mixture: Mixture, batches: Sequence[Predicted], rng: torch.Generator, updates: int = UPDATES) -> None:
    """Fit all that a mixture learns, in place and from its beginning, by at most so many updates of a batch each, in an
    order that is drawn anew for every pass over the batches. Without a batch it stays at its beginning."""
    init_mixture(mixture, rng)
    updates = min(updates, PASSES * len(batches))
    optimizer = torch.optim.AdamW(mixture.parameters(), lr=RATE, weight_decay=0)
    order: list[int] = []
    for update in range(updates):
        order = order or torch.randperm(len(batches), generator=rng).tolist()
        evidence, y_M = batches[order.pop()]
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (update + 1) / WARMUP) * (1 - update / updates)
        optimizer.zero_grad()
        F.nll_loss(mixture(evidence), y_M).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@torch.no_grad()
def batches(mixture: Mixture, network: GPT | None, ids_N: Ids, block_size: int) -> Iterator[Predicted]:
    """A text in windows of `block_size`, each of which predicts its second half, as an evaluation's windows do.

    Without a network the evidence is of the other parts alone. A text of no more than `block_size` tokens gives none.
    """
    ids, T = torch.from_numpy(np.asarray(ids_N, dtype=np.int64)), max(1, block_size // 2)
    if len(ids) <= block_size:
        return
    read_WS, next_WS = (part.unfold(0, block_size, T) for part in (ids[:-1], ids[1:]))
    at_once = max(1, PLACES // T)
    for read_BS, next_BS in zip(torch.split(read_WS, at_once), torch.split(next_WS, at_once), strict=True):
        network_BTV = None if network is None else _log_probabilities(network, read_BS)[:, -T:]
        yield mixture.evidence(read_BS, T, network_BTV), next_BS[:, -T:].flatten()


def _log_probabilities(network: GPT, read_BS: Tensor) -> Tensor:
    with evaluating(network):
        logp_BSV: Tensor = network(read_BS).float().log_softmax(-1)
        return logp_BSV
