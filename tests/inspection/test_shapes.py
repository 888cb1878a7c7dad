"""The shapes that parameters ask for: every shipped profile describes models that can be built."""

from pathlib import Path

import pytest

from tests.conftest import ROOT
from troupe.inspection.shapes import shapes_wanted
from troupe.inspection.structure import without_weights
from troupe.params import load_params

PROFILES = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))
CHARS = 65 + 256  # of tiny Shakespeare, whose characters one profile counts


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_can_be_described(profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_params(ROOT / "params.yaml", [], profile)
    monkeypatch.chdir(tmp_path)  # nothing has been run
    for stage, shape in shapes_wanted(params, CHARS if params.tokens.kind == "chars" else None).items():
        assert shape.stage == stage
        assert without_weights(shape.build).config.n_embd == params.model.n_embd
