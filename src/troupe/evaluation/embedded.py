"""The model that writes in the report: its network in eight bits a weight, as transformer.js and tokenizer.js read it.

Matrices of linear layers and embeddings become int8, one symmetric scale per row, which is an output channel or a
token. Norms, biases, convolutions and routers stay float32: they are small, and a router's choice is all or nothing.

Shapes: O outputs and I inputs of a matrix.
"""

import base64
import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from troupe.bundles.bundle import Bundle
from troupe.data.tokenizer import BytePairTokenizer, PretrainedTokenizer, Tokenizer
from troupe.decoding import Decoding, stream
from troupe.evaluation.comparison import bits_per_byte, nats
from troupe.evaluation.result import Embedded, Greedy, RoundedBits
from troupe.judging.protocol import HeldOut
from troupe.models.experts import Router
from troupe.models.gpt2 import GPT
from troupe.models.mixing import Mixed
from troupe.models.switchhead import switchhead_layers
from troupe.models.tilted import Tilted, untilted

LIMIT = 5_000_000  # bytes that the model may add to the page
LARGEST = 127  # of int8, either way
GREEDY_TOKENS = 100


class Int8(NamedTuple):
    """A matrix: q_OI (int8) times scale_O1 (float32), within half a scale of every weight."""

    q_OI: Tensor
    scale_O1: Tensor

    def matrix(self) -> Tensor:
        """(O, I), float32; what the page computes with, bit for bit."""
        return self.q_OI.float() * self.scale_O1


def quantise(weight_OI: Tensor) -> Int8:
    """Each row in steps of 1/127 of its largest weight. Raises ValueError if a weight is not finite."""
    if not weight_OI.isfinite().all():
        raise ValueError("a weight is not finite, so it has no int8 value")
    scale_O1 = weight_OI.float().abs().amax(1, keepdim=True) / LARGEST
    scale_O1 = scale_O1.where(scale_O1 > 0, 1.0)  # a row of zeros
    return Int8((weight_OI / scale_O1).round().clamp(-LARGEST, LARGEST).to(torch.int8), scale_O1)


def quantised(model: GPT) -> GPT:
    """A copy whose matrices have the values that the page computes with."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for _, weight_OI in _matrices(model):
            weight_OI.copy_(quantise(weight_OI).matrix())
    return model


def pack(model: GPT) -> dict[str, Any]:
    """{"config", "experts" (null if dense), "tensors": {name: {"shape", "int8", "scale"} or {"shape", "float32"}}}, as
    transformer.js reads it; arrays are little-endian, in base64."""
    matrices = {name: quantise(weight_OI) for name, weight_OI in _matrices(model)}
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name in matrices:
            q_OI, scale_O1 = matrices[name]
            packed = {"int8": _base64(q_OI, "i1"), "scale": _base64(scale_O1, "<f4")}
        else:
            packed = {"float32": _base64(tensor, "<f4")}
        tensors[name] = {"shape": list(tensor.shape), **packed}
    layers = switchhead_layers(model)
    return {
        "config": model.config.dimensions(),
        "experts": asdict(layers[0].experts) if layers else None,
        "tensors": tensors,
    }


def pack_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """{"tokens": the bytes of each id as characters up to U+00FF, "pieces", "endId"}, as tokenizer.js reads it."""
    tokens = [tokenizer.decode_bytes([i]).decode("latin-1") for i in range(tokenizer.vocab_size)]
    pieces = "words" if isinstance(tokenizer, BytePairTokenizer) else "characters"
    return {"tokens": tokens, "pieces": pieces, "endId": tokenizer.end_id}


def embed(stage: str, bundle: Bundle, text: HeldOut, stride: int, prompt: str) -> Embedded:
    """The network of a stage's model for the page, with what eight bits cost on `text` and the greedy text that the
    page must repeat; or why it is not there."""
    parameters = sum(weights.numel() for name, weights in bundle.model.named_parameters() if name != "tilt")
    of_model: dict[str, Any] = {"stage": stage, "tilted": isinstance(bundle.model, Tilted), "parameters": parameters}
    if (at_least := parameters * 4 // 3) > LIMIT:  # a byte each, in base64
        return Embedded(**of_model, refused=_too_large(at_least))
    if isinstance(bundle.model, Mixed):
        return Embedded(**of_model, refused="it mixes counts, which no page computes")
    if bundle.model.config.brought() or isinstance(bundle.tokenizer, PretrainedTokenizer):
        return Embedded(
            **of_model, refused="it has the shape or the tokenizer of public weights, which no page computes"
        )
    network = untilted(bundle.model).cpu()
    data = {"model": pack(network), "tokenizer": pack_tokenizer(bundle.tokenizer)}
    if (size := len(json.dumps(data))) > LIMIT:
        return Embedded(**of_model, refused=_too_large(size))
    rounded = quantised(network)
    bits = [bits_per_byte(nats(model, text.ids, stride), len(text.content)) for model in (network, rounded)]
    ids, whole = (_greedy(model, bundle.tokenizer, prompt) for model in (rounded, network))
    alike = next((n for n, (id, other) in enumerate(zip(ids, whole, strict=False)) if id != other), len(ids))
    return Embedded(
        **of_model,
        bits=RoundedBits(float32=bits[0], int8=bits[1]),
        greedy=Greedy(prompt=prompt, ids=ids, as_float32=alike),
        data=data,
    )


def _matrices(model: GPT) -> Iterator[tuple[str, Tensor]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding) and not isinstance(module, Router):
            yield f"{name}.weight", module.weight


def _greedy(model: GPT, tokenizer: Tokenizer, prompt: str) -> Sequence[int]:
    """The ids after the prompt, to the end of the text if there is one."""
    ids_BT = torch.tensor([tokenizer.encode(prompt)])
    new_B1 = list(stream(model, ids_BT, GREEDY_TOKENS, Decoding(greedy=True), [0], tokenizer.end_id))
    return [int(id_1) for id_1 in new_B1 if int(id_1) != tokenizer.end_id]


def _base64(tensor: Tensor, kind: str) -> str:
    return base64.b64encode(tensor.numpy(force=True).astype(kind).tobytes()).decode()


def _too_large(size: int) -> str:
    return f"at eight bits a weight it would add {size / 1e6:,.1f} MB to this page, more than {LIMIT / 1e6:g} MB"
