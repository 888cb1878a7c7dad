"""What an architecture is made of, what each of its outputs depends on, and what a generated token costs.

Dependence is measured, not read off a mask: one input is changed and the outputs that change are noted.

Shapes: T outputs, S inputs.
"""

import re
import time
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from studies.architectures.families import BERT, EncoderDecoder, Family

PARTS = {  # of a parameter's name: the first that matches
    "norms": r"[nN]orm|\.ln_",
    "embeddings": r"embed|\.wte|\.wpe|shared|relative_attention_bias",
    "cross-attention": r"encoder_attn|EncDecAttention",
    "feed-forward": r"\.mlp\.|\.fc[12]\.|intermediate|layer\.\d+\.output|DenseReluDense",
    "attention": r"attn|[aA]ttention",
}
ROUNDS = 3  # of which the fastest counts


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Those of the head that are not the embeddings' are `head`."""
    found: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        found[next((part for part, form in PARTS.items() if re.search(form, name)), "head")] += parameter.numel()
    return dict(found)


@torch.no_grad()
def dependence(family: Family, ids_T: Tensor) -> dict[str, list[list[int]]]:
    """{"of outputs on ...": depends_TS}: 1 where an output changes with an input; of BART and T5 for both inputs."""
    if isinstance(family, EncoderDecoder):
        both = ids_T[None]
        return {
            "encoder's input": _changes(lambda ids: family._decoded(ids, both), ids_T, family.words.mask),
            "decoder's input": _changes(lambda ids: family._decoded(both, ids), ids_T, family.words.mask),
        }
    return {"its input": _changes(lambda ids: family.model(ids).logits, ids_T, family.words.mask)}


def _changes(logits_of: Any, ids_T: Tensor, other: int) -> list[list[int]]:
    before_TV = logits_of(ids_T[None])[0]
    columns = []
    for place in range(len(ids_T)):
        changed_T = ids_T.clone()
        changed_T[place] = other
        columns.append((logits_of(changed_T[None])[0] != before_TV).any(1).int())
    return torch.stack(columns, dim=1).tolist()


def relative_buckets(family: Any, T: int) -> list[list[int]]:
    """bucket_TT: which of T5's learned offsets an encoder's score between two places gets."""
    attention = family.model.encoder.block[0].layer[0].SelfAttention
    t_T = torch.arange(T)
    found = attention._relative_position_bucket(
        t_T[None] - t_T[:, None],
        bidirectional=True,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    buckets: list[list[int]] = torch.as_tensor(found).tolist()
    return buckets


def writing_costs(family: Family, prompt_P: Tensor, lengths: list[int]) -> list[dict[str, float]]:
    """Of each length: milliseconds and MACs per token that is written after a prompt, with caches; none for BERT."""
    if isinstance(family, BERT):
        return []
    found = []
    for length in lengths:
        seconds = min(_timed(family, prompt_P, length) for _ in range(ROUNDS))
        found.append(
            {"length": length, "ms": 1000 * seconds / length, "macs": _macs(family, prompt_P, length) / length}
        )
    return found


def _timed(family: Family, prompt_P: Tensor, length: int) -> float:
    began = time.perf_counter()
    _write(family, prompt_P, length)
    return time.perf_counter() - began


def _macs(family: Family, prompt_P: Tensor, length: int) -> float:
    """Half of the FLOPs that torch counts; of attention it counts the eager form alone."""
    before = family.model.config._attn_implementation
    family.model.set_attn_implementation("eager")
    try:
        with FlopCounterMode(display=False) as counter:
            _write(family, prompt_P, length)
        return float(counter.get_total_flops()) / 2
    finally:
        family.model.set_attn_implementation(before)


@torch.no_grad()
def _write(family: Family, prompt_P: Tensor, length: int) -> Tensor:
    return torch.as_tensor(
        family.model.generate(
            **(asked := family.asked_to_write(prompt_P[None])),
            attention_mask=torch.ones_like(asked["input_ids"]),
            min_new_tokens=length,
            max_new_tokens=length,
            do_sample=False,
            use_cache=True,
        )
    )
