"""Which experts each token of a sentence takes, for its values and for its outputs, head by head.

Shapes: N tokens, R routers of a head (of values, of outputs), H heads, E experts.
"""

import re

import torch
from torch import Tensor

from troupe.bundles.bundle import Bundle
from troupe.evaluation.result import Routed, Routing
from troupe.models.gpt2 import evaluating
from troupe.models.switchhead import expert_gates

FEWEST, MOST = 6, 16  # tokens of the sentence: as many as a phone shows at a time
ENDS = re.compile(r"(?<=[.!?。])\s+")
ROUTERS = ("values", "outputs")


def route(bundle: Bundle, text: str) -> Routing:
    """What the routers of a model say of the first short sentence of `text`; no layers if it has no experts."""
    tokenizer, model = bundle.tokenizer, bundle.model
    ids = sentence(bundle, text)[: model.config.block_size]
    with evaluating(model):
        gates = expert_gates(model, torch.tensor([ids], device=next(model.parameters()).device))
    layers = [
        {
            router: [[_routed(gates_E) for gates_E in gates_NE] for gates_NE in gates_HNE]
            for router, gates_HNE in zip(ROUTERS, gates_NRHE.permute(1, 2, 0, 3).cpu(), strict=True)
        }
        for gates_NRHE in gates
    ]
    return Routing(
        sentence=tokenizer.decode(ids),
        tokens=[tokenizer.decode([one]) for one in ids],
        n_expert=gates[0].size(-1) if gates else 0,
        layers=layers,
    )


def sentence(bundle: Bundle, text: str) -> list[int]:
    """The tokens of the first sentence that has from FEWEST to MOST of them; if none has, the first tokens of all."""
    for found in ENDS.split(text):
        if FEWEST <= len(ids := bundle.tokenizer.encode(found.strip())) <= MOST:
            return ids
    return bundle.tokenizer.encode(text[: 16 * MOST])[:MOST]


def _routed(gates_E: Tensor) -> Routed:
    order_E = gates_E.argsort(descending=True, stable=True)
    chosen = [expert for expert in order_E.tolist() if gates_E[expert] != 0]
    return Routed(experts=chosen, gates=[round(float(gates_E[expert]), 4) for expert in chosen])
