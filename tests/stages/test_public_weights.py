"""The line from public weights with grouped heads: their tokenizer, their training, experts grown from them."""

import json
from pathlib import Path

import pytest

from tests.bundles.test_public_weights import LLAMA, TOKENS, model_of
from tests.conftest import small
from troupe.bundles.architectures import load_bundle
from troupe.bundles.export import export_model
from troupe.conversion.attention import folded
from troupe.data.tokenizer import PretrainedTokenizer
from troupe.errors import ArtifactError, ParamsError
from troupe.layout import INITIAL, model_dir
from troupe.models.config import BROUGHT
from troupe.params import Params
from troupe.stages.corpus import corpus
from troupe.stages.inputs import inputs
from troupe.stages.moe import moe
from troupe.stages.pretrain import pretrain
from troupe.stages.tokens import tokens

SETTINGS = (
    "pretrain.init_from=given tokens.kind=pretrained model.n_layer=2 model.n_head=6 model.n_embd=24 "
    "model.qk_norm=false model.conv=0 model.block_size=16 pretrain.steps=8 moe.steps=4 moe.control=false "
    "adversarial.methods=[]"
)


@pytest.fixture
def given(workspace: Params) -> Path:
    export_model(Path("given"), model_of(LLAMA), TOKENS)
    return Path("given")


def test_what_the_weights_bring_goes_through_the_line(given: Path) -> None:
    params = small(*SETTINGS.split())
    for stage in (inputs, corpus, tokens, pretrain, moe):
        stage(params)
    dense, experts = (load_bundle(model_dir(stage)) for stage in ("pretrain", "moe"))
    for bundle in (dense, experts):
        assert isinstance(bundle.tokenizer, PretrainedTokenizer)
        assert bundle.model.config.brought() == LLAMA.brought()
    assert LLAMA.brought().keys() <= BROUGHT.keys()
    assert dense.config["provenance"]["initial"]["tokenizer_sha256"]
    export_model(Path("adapted"), dense.model, dense.tokenizer)
    with pytest.raises(ArtifactError, match="experts cannot be exported"):
        folded(experts.model)


def test_another_tokenizer_is_noticed_by_the_inputs(given: Path) -> None:
    """Stage tokens depends on what inputs wrote, not on the folder."""
    params = small(*SETTINGS.split())
    inputs(params)
    before = INITIAL.read_text()
    content = json.loads((given / "tokenizer.json").read_text())
    content["model"]["merges"].pop()
    (given / "tokenizer.json").write_text(json.dumps(content))
    inputs(params)
    assert INITIAL.read_text() != before


def test_a_tokenizer_that_has_changed_since_the_inputs_is_refused(given: Path) -> None:
    """Its ids would be cached under the digest of the one before."""
    params = small(*SETTINGS.split())
    inputs(params)
    corpus(params)
    whole = (given / "tokenizer.json").read_text()
    content = json.loads(whole)
    content["model"]["merges"].pop()
    (given / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"it has changed since stage inputs; run again") as refusal:
        tokens(params)
    assert "\n" not in str(refusal.value)
    (given / "tokenizer.json").write_text(whole)
    tokens(params)


def test_a_tokenizer_of_weights_needs_weights() -> None:
    with pytest.raises(ParamsError, match=r"tokens\.kind: pretrained is the tokenizer of the weights"):
        small("tokens.kind=pretrained")
