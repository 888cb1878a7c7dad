"""The page's JavaScript without a browser, where node is; and the numbers that it must come to."""

import copy
import json
import math
import shutil
import subprocess
from importlib.resources import files
from typing import Any

import pytest
import torch

from troupe.decoding import Decoding, generate
from troupe.evaluation.embedded import quantised
from troupe.models.gpt2 import GPT
from troupe.models.layers import RMSNorm, Rotary

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(not NODE, reason="no node here")


def in_node(file: str, program: str, given: Any) -> Any:
    """What `program` returns, with `exported`, what the file exports, and `given`, both by way of JSON."""
    path = str(files("troupe.evaluation") / file)
    code = (
        "const exported = require(process.argv[1]), given = JSON.parse(require('fs').readFileSync(0));"
        f"process.stdout.write(JSON.stringify((() => {{ {program} }})()))"
    )
    run = subprocess.run(
        [str(NODE), "-e", code, path], input=json.dumps(given), capture_output=True, text=True, check=True, timeout=60
    )
    return json.loads(run.stdout)


def in_float64(model: GPT) -> GPT:
    """With the int8 weights, the epsilon of float32, and angles that float32 has not rounded."""
    model = copy.deepcopy(quantised(model)).double()
    for module in model.modules():
        if isinstance(module, RMSNorm):
            module.eps = torch.finfo(torch.float32).eps
        if isinstance(module, Rotary):
            T, half = module.cos_TK.shape
            frequencies = model.config.rotary_base ** (-torch.arange(half, dtype=torch.float64) / half)
            angles_TK = torch.outer(torch.arange(T, dtype=torch.float64), frequencies)
            module.cos_TK, module.sin_TK = angles_TK.cos(), angles_TK.sin()
    return model


def greedy_text(model: GPT, prompt: list[int], n: int) -> list[int]:
    """What the int8 weights write in Python, in float32, after the prompt. Float64 writes the same, for at every token
    the likeliest leads by more than twice what float32 is off by: two logits are off."""
    in_32, in_64 = quantised(model), in_float64(model)
    ids = generate(in_32, torch.tensor([prompt]), n, Decoding(greedy=True), [0])[0].tolist()
    start, T = 0, model.config.block_size
    for end in range(len(prompt), len(ids)):
        start = start if end - start <= T else end - T // 2  # as decoding.py starts a full context again
        read_BT = torch.tensor([ids[start:end]])
        with torch.no_grad():
            logits_32, logits_64 = (network(read_BT)[0, -1].double() for network in (in_32, in_64))
        first, second = logits_64.topk(2).values.tolist()
        assert first - second > 2 * (logits_32 - logits_64).abs().max(), "too close to tell: take another model"
    return ids[len(prompt) :]


def bound(off_in_float32: float, longest_sum: int) -> float:
    """How far two computations in float64 may lie apart whose counterpart in float32 is off by so much.

    The same roundings are 2^29 times smaller. JavaScript adds the terms of a sum one by one where torch adds blocks of
    them: at most sqrt(longest_sum) times the error. Each of both is off, and an error is a sample: times 4.
    """
    return 4 * math.sqrt(longest_sum) * off_in_float32 * 2.0**-29
