"""One seed, many independent streams: every random choice names its purpose, so none disturbs another."""

import hashlib

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose; the same `seed` and `purpose` always give the same number."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator for one purpose, e.g. `generator(seed, "pretrain", "init")`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *purpose))
