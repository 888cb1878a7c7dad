"""A small set-up for judging: two untrained models over bytes; words in random order."""

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch

from troupe.data.tokenizer import ByteTokenizer
from troupe.judging.classifiers import Judge, families
from troupe.judging.protocol import HeldOut, Setup
from troupe.judging.windows import find_places
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.params import JudgingParams

WORDS = ["the", "of", "and", "to", "in", "is", "that", "for", "was", "with", "not", "his", "but", "are", "this", "have"]
WIDTH, TEXTS, REPETITIONS = 24, 12, 2


def text(seed: int, n_words: int = 150) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, n_words))


def held_out(split: str, seed: int) -> HeldOut:
    content, tokenizer = text(seed), ByteTokenizer()
    ids = tokenizer.encode_array(content)
    return HeldOut(content.encode(), ids, find_places(split, ids, tokenizer, WIDTH, prompt=4))


def model(seed: int) -> GPT:
    gpt = GPT(GPTConfig(vocab_size=256, block_size=16, n_layer=1, n_head=2, n_embd=8, dropout=0.0)).eval()
    init_gpt2(gpt, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        gpt.token_embedding.weight.mul_(3)  # predictions that differ
    return gpt


TRAIN = text(0, 2000)
MODELS = {"one": model(0), "other": model(1)}


def settings(**changes: object) -> JudgingParams:
    values: dict[str, object] = {
        "seeds": REPETITIONS, "window": WIDTH, "texts": TEXTS, 
        "train_bytes": 1, "held_out_bytes": 1, "transformer_steps": 2, "bits_margin": 0.0,
    }  # fmt: skip
    return JudgingParams.model_validate(values | changes)


@cache
def judges() -> Mapping[str, Judge]:
    return families(TRAIN, seed=3, steps=2)


def setup(**changes: object) -> Setup:
    held = {"validation": held_out("validation", 1), "test": held_out("test", 2)}
    return Setup(TRAIN, held, judges(), settings(**changes), seed=3)
