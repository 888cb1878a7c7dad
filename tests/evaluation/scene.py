"""A small evaluation: two untrained models over bytes; words in random order."""

import numpy as np
import torch

from troupe.data.tokenizer import ByteTokenizer
from troupe.evaluation.comparison import HeldOut
from troupe.evaluation.windows import find_places
from troupe.evaluation.writing import Writing
from troupe.models.bundle import Bundle
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.params import EvaluateParams

WORDS = ["the", "of", "and", "to", "in", "is", "that", "for", "was", "with", "not", "his", "but", "are", "this", "have"]
WIDTH, TEXTS, REPETITIONS = 24, 12, 2


def text(seed: int, n_words: int = 150) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, n_words))


def held_out(split: str, seed: int) -> HeldOut:
    content, tokenizer = text(seed), ByteTokenizer()
    ids = tokenizer.encode_array(content)
    return HeldOut(content.encode(), ids, find_places(split, ids, tokenizer, WIDTH, prompt=4))


def bundle(seed: int) -> Bundle:
    model = GPT(GPTConfig(vocab_size=256, block_size=16, n_layer=1, n_head=2, n_embd=8, dropout=0.0)).eval()
    init_gpt2(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.token_embedding.weight.mul_(3)  # predictions that differ
    return Bundle(model, ByteTokenizer(), {}, "")


def scene(**params: object) -> Writing:
    values: dict[str, object] = {
        "stride": 1, "train_bytes": 1, "held_out_bytes": 1, "ngram_max_order": 1, "sample_tokens": 1, "prompt": "a",
        "judge_seeds": REPETITIONS, "judge_window": WIDTH, "judge_texts": TEXTS, "temperatures": [0.5],
        "temperature": 1.0, "top_k": 1, "top_p": 1.0,
    }  # fmt: skip
    bundles = {"plain": bundle(0), "other": bundle(1)}
    held = {"validation": held_out("validation", 1), "test": held_out("test", 2)}
    return Writing(text(0, 2000), held, bundles, EvaluateParams.model_validate(values | params), seed=3)
