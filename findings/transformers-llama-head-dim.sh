#!/usr/bin/env bash
# transformers refuses a Llama whose heads have a width of their own, unless the width of the model is a multiple of their
# number, which nothing in that model needs: its projections are hidden_size x (heads * head_dim). Qwen3, the same shape
# with two norms more, is taken.
#
# Where: transformers 5.24.0, LlamaConfig.validate_architecture, which compares hidden_size with num_attention_heads and does
#   not look at head_dim, which is a field of LlamaConfig of its own.
# Seen: LlamaConfig(hidden_size=10, num_attention_heads=3, head_dim=4) raises "The hidden size (10) is not a multiple of the
#   number of attention heads (3)."; Qwen3Config of the same arguments has head_dim 4.
# Why it matters: who writes a model of that shape for transformers must call it a Qwen3 or pad it, and a config.json that
#   other programs read is refused.
#
# Exits with 0 while transformers behaves so, with 1 when it does not any more.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'transformers==5.24.0' 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import sys

import transformers
from transformers import LlamaConfig, Qwen3Config

SHAPE = {"hidden_size": 10, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 4}
said = "nothing"
try:
    LlamaConfig(**SHAPE)
except Exception as error:
    said = str(error).strip().splitlines()[-1].strip()
taken = Qwen3Config(**SHAPE).head_dim
print(f"transformers {transformers.__version__}: Llama says {said!r}; Qwen3 has head_dim {taken}")
sys.exit(0 if "not a multiple of the number of attention heads" in said and taken == 4 else 1)
PYTHON
