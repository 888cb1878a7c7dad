#!/usr/bin/env bash
# torch.use_deterministic_algorithms imports the whole compiler (TorchDynamo, Inductor, SymPy), whether or not anything
# is ever compiled. torch.set_deterministic_debug_mode("warn") switches the same flags of the library and imports nothing.
#
# Where: torch 2.13.0, torch/__init__.py, use_deterministic_algorithms, which begins with
#   `import torch._inductor.config as inductor_config`.
# Seen:  modules before 0, after debug mode 0, after use_deterministic_algorithms several hundred; the import took as
#        long again as `import torch` (2.9 s after 2.6 s on two cores of a Xeon).
# Why it matters: a short program that asks for determinism starts in twice the time.
#
# Exits with 0 while torch behaves so, with 1 when it does not any more.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'torch==2.13.0' 'numpy' 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import time

began = time.perf_counter()
import torch

imported = time.perf_counter() - began


def of_the_compiler() -> int:
    return sum(name.startswith(("torch._inductor", "torch._dynamo", "sympy")) for name in sys.modules)


before = of_the_compiler()
torch.set_deterministic_debug_mode("warn")
flags = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
after_debug_mode = of_the_compiler()
began = time.perf_counter()
torch.use_deterministic_algorithms(True, warn_only=True)
seconds, after = time.perf_counter() - began, of_the_compiler()
same = flags == (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
print(f"torch {torch.__version__}: import {imported:.1f} s; modules of the compiler: {before} before, "
      f"{after_debug_mode} after set_deterministic_debug_mode, {after} after use_deterministic_algorithms ({seconds:.1f} s)")
sys.exit(0 if before == after_debug_mode == 0 and after > 100 and same else 1)
PYTHON
