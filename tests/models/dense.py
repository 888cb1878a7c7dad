"""A small dense model, and ids for it to read: what becomes experts, here and where conversions are tested."""

import torch
from torch import Tensor

from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2

CONFIG = GPTConfig(vocab_size=60, block_size=12, n_layer=2, n_head=3, n_embd=18, dropout=0.0)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dense(dtype: torch.dtype = torch.float32, config: GPTConfig = CONFIG) -> GPT:
    """Of trained size: GPT-2's initial weights would hide mistakes behind small logits."""
    model = GPT(config)
    init_gpt2(model, rng())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=rng(parameter.numel()))
    return model.to(dtype).eval()


def ids(B: int = 4, T: int = 12) -> Tensor:
    return torch.randint(0, CONFIG.vocab_size, (B, T), generator=rng())
