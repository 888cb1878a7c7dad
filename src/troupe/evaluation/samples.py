"""The same prompt continued by every model under every decoding, to be read side by side."""

from collections.abc import Mapping
from typing import Any

import torch

from troupe.bundles.bundle import Bundle
from troupe.compute import workers
from troupe.decoding import Decoding, generate
from troupe.params import EvaluateParams
from troupe.seeding import derive_seed


def decodings(params: EvaluateParams) -> dict[str, Decoding]:
    """The four ways to choose the next token, by name."""
    t = params.temperature
    return {
        "greedy": Decoding(greedy=True),
        "temperature": Decoding(temperature=t),
        "top-k": Decoding(temperature=t, top_k=params.top_k),
        "top-p": Decoding(temperature=t, top_p=params.top_p),
    }


def write_samples(models: Mapping[str, Bundle], params: EvaluateParams, seed: int) -> dict[str, Any]:
    """{"prompt", "tokens", "settings": {decoding: words}, "texts": {model: {decoding: text after the prompt}}}.

    Under one decoding all models draw from the same stream of random numbers.
    """
    named = decodings(params)
    with workers() as pool:
        pending = {
            name: {
                name_of_decoding: pool.submit(_continue, bundle, params, decoding, seed, name_of_decoding)
                for name_of_decoding, decoding in named.items()
            }
            for name, bundle in models.items()
        }
        written = {
            name: {name_of_decoding: text.result() for name_of_decoding, text in texts.items()}
            for name, texts in pending.items()
        }
    return {
        "prompt": params.prompt,
        "tokens": params.sample_tokens,
        "settings": _settings(params),
        "texts": written,
    }


def _settings(params: EvaluateParams) -> dict[str, str]:
    t = f"temperature {params.temperature:g}"
    return {
        "greedy": "the likeliest token",
        "temperature": t,
        "top-k": f"{t}, of the {params.top_k} likeliest tokens",
        "top-p": f"{t}, of the likeliest tokens that hold {params.top_p:.0%}",
    }


def _continue(bundle: Bundle, params: EvaluateParams, decoding: Decoding, seed: int, name_of_decoding: str) -> str:
    device = next(bundle.model.parameters()).device
    prompt_1T = torch.tensor([bundle.tokenizer.encode(params.prompt)], device=device)
    seeds = [derive_seed(seed, "evaluate", "sample", name_of_decoding)]
    ids_1T = generate(bundle.model, prompt_1T, params.sample_tokens, decoding, seeds)
    return bundle.tokenizer.decode(ids_1T[0, prompt_1T.shape[1] :].tolist())
