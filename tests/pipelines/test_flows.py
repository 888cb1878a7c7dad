"""What the smaller flows make of parameters."""

import shutil
from pathlib import Path

import pytest

from pipelines.flows import OF_EVALUATION, _of_the_models
from troupe.layout import EFFECTIVE_PARAMS
from troupe.params import Params, dump_params, load_params

ROOT = Path(__file__).parents[2]


def trained(params: Params) -> dict[str, object]:
    return params.model_dump(exclude=set(OF_EVALUATION))


def test_models_are_judged_as_they_were_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a profile and overrides, infinite ones too; stage evaluate has the parameters of params.yaml now."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    monkeypatch.chdir(tmp_path)
    assert _of_the_models() == []
    given = ["adversarial.gan.kl_cap=.inf", "data.source=a b.txt", "moe.n_head=null", "evaluate.top_k=5"]
    made = load_params(Path("params.yaml"), given, "cpu-hours")
    EFFECTIVE_PARAMS.parent.mkdir()
    dump_params(made, EFFECTIVE_PARAMS)
    again = load_params(Path("params.yaml"), _of_the_models())
    assert trained(again) == trained(made)
    assert again.evaluate == load_params(Path("params.yaml")).evaluate
