"""The loss of a checkpoint that nanoGPT's train.py wrote, as benchmarks.fit measures it. Run inside a copy of nanoGPT:

    python benchmarks/nanogpt_loss.py out-shakespeare-char/ckpt.pt

The last line is JSON: the number of parameters, and nats per predicted character over the whole validation split, in
windows side by side, in float32.
"""

import json
import sys

import numpy as np
import torch

try:
    from model import GPT, GPTConfig  # nanoGPT's, from the folder that this runs in
except ModuleNotFoundError:
    raise SystemExit(
        "no model.py here: this runs inside a copy of nanoGPT, as `make bench NANOGPT=path` has it"
    ) from None


@torch.no_grad()
def main() -> None:
    checkpoint = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
    network = GPT(GPTConfig(**checkpoint["model_args"]))
    network.load_state_dict({name.removeprefix("_orig_mod."): weight for name, weight in checkpoint["model"].items()})
    network.eval()
    ids = torch.from_numpy(np.fromfile("data/shakespeare_char/val.bin", dtype=np.uint16).astype(np.int64))
    windows = (torch.split(part, network.config.block_size) for part in (ids[:-1], ids[1:]))
    nats = sum(network(x_T[None], y_T[None])[1].item() * len(x_T) for x_T, y_T in zip(*windows, strict=True))
    parameters = sum(weight.numel() for weight in network.parameters())
    print(json.dumps({"loss": nats / (len(ids) - 1), "parameters": parameters}))


if __name__ == "__main__":
    main()
