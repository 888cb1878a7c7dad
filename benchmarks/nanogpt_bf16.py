"""nanoGPT's model.py under bfloat16 autocast, which its own train.py uses on a GPU only. Run inside a copy of nanoGPT:

    python benchmarks/nanogpt_bf16.py N_LAYER N_HEAD N_EMBD BLOCK_SIZE BATCH_SIZE DROPOUT STEPS COMPILE

Its model, its optimiser and its way to draw a batch; prints a line per step in the form that its train.py prints.
"""

import sys
import time

import numpy as np
import torch

try:
    from model import GPT, GPTConfig  # nanoGPT's, from the folder that this runs in
except ModuleNotFoundError:
    raise SystemExit(
        "no model.py here: this runs inside a copy of nanoGPT, as `make bench NANOGPT=path` has it"
    ) from None


def main() -> None:
    n_layer, n_head, n_embd, block_size, batch_size = map(int, sys.argv[1:6])
    torch.manual_seed(1337)
    config = GPTConfig(block_size, 65, n_layer, n_head, n_embd, dropout=float(sys.argv[6]), bias=False)
    network = GPT(config)
    optimizer = network.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    compiled = torch.compile(network) if sys.argv[8] == "True" else network
    ids = torch.from_numpy(np.fromfile("data/shakespeare_char/train.bin", dtype=np.uint16).astype(np.int64))
    for step in range(int(sys.argv[7])):
        began = time.perf_counter()
        starts_B = torch.randint(len(ids) - block_size, (batch_size,)).tolist()
        x_BT = torch.stack([ids[start : start + block_size] for start in starts_B])
        y_BT = torch.stack([ids[start + 1 : start + 1 + block_size] for start in starts_B])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, loss = compiled(x_BT, y_BT)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        print(f"iter {step}: loss {loss.item():.4f}, time {1000 * (time.perf_counter() - began):.2f}ms", flush=True)


if __name__ == "__main__":
    main()
