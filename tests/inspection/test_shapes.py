"""The shapes that parameters ask for: every shipped profile describes models that can be built."""

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from troupe.bundles.architectures import ARCHITECTURES
from troupe.bundles.bundle import save_bundle
from troupe.conversion.attention import convert
from troupe.data.tokenizer import ByteTokenizer
from troupe.inspection.shapes import shape_in, shapes_wanted
from troupe.inspection.structure import without_weights
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT
from troupe.models.mixing import Mixture, mixed
from troupe.models.ngrams import NGrams
from troupe.models.switchhead import SwitchHeadConfig
from troupe.models.tilted import tilted
from troupe.params import load_params
from troupe.seeding import generator

PROFILES = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))
STAGES = {
    "gpt2": "pretrain",
    "switchhead": "moe",
    "tilted": "adversarial",
    "mixed": "adversarial",
}  # that make such a model
CHARS = 65 + 256  # of tiny Shakespeare, whose characters one profile counts


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_can_be_described(profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_params(ROOT / "params.yaml", [], profile)
    monkeypatch.chdir(tmp_path)  # nothing has been run
    for stage, shape in shapes_wanted(params, CHARS if params.tokens.kind == "chars" else None).items():
        assert shape.stage == stage
        assert without_weights(shape.build).config.n_embd == params.model.n_embd


def count(model: GPT) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("architecture", "stage"), STAGES.items())
def test_a_bundle_that_names_no_stage_has_that_of_its_architecture(
    architecture: str, stage: str, tmp_path: Path
) -> None:
    dense = GPT(GPTConfig(256, block_size=8, n_layer=1, n_head=2, n_embd=4, dropout=0.0))
    experts = SwitchHeadConfig(n_head=2, head_width=2, n_expert=2, top_k=1, router="sigmoid")
    assert STAGES.keys() == ARCHITECTURES.keys()
    model = {
        "gpt2": dense,
        "switchhead": convert(dense, experts, "exact", generator(0, "test")),
        "tilted": tilted(dense, NGrams.counted(np.arange(50, dtype=np.uint16), 2, 256)),
        "mixed": mixed(dense, Mixture.counted(np.arange(50, dtype=np.uint16), 2, ByteTokenizer())),
    }[architecture]
    save_bundle(tmp_path / "model", model, ByteTokenizer(), {})
    found = shape_in(tmp_path / "model")
    assert (found.architecture, found.stage) == (architecture, stage)
    assert count(without_weights(found.build)) == count(model)
