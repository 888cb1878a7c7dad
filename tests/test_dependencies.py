"""The code that a result depends on, in a package made for it."""

import sys
from pathlib import Path

import pytest

from troupe import dependencies
from troupe.dependencies import code_digest, code_of

MODULES = {
    "__init__": "from made import started",
    "started": "",
    "stage": "from made.inner.work import done",
    "inner/__init__": "",
    "inner/work": "def done():\n    from made.inner import late",
    "inner/late": "from troupe.seeding import derive_seed",
    "other": "from made import stage",
}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "made" / "inner").mkdir(parents=True)
    for name, source in MODULES.items():
        (tmp_path / "made" / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    dependencies._imports.cache_clear()
    yield tmp_path / "made"
    dependencies._imports.cache_clear()
    assert "made" not in sys.modules, "source is read, nothing is run"


def test_it_is_all_that_a_module_imports_early_or_late_from_its_package_and_from_ours(made: Path) -> None:
    """To import made.inner.work runs made and made.inner, too."""
    ours = ["troupe", "troupe.seeding"]
    within = ["made", "made.inner", "made.inner.late", "made.inner.work", "made.stage", "made.started"]
    assert list(code_of("made.stage")) == [*within, *ours]
    assert code_of("made.inner.late")["made.inner.late"] == made / "inner" / "late.py"


@pytest.mark.parametrize("name", ["stage", "inner/late", "started", "inner/__init__"])
def test_a_digest_changes_with_any_of_it(made: Path, name: str) -> None:
    before = code_digest("made.stage")
    assert code_digest("made.stage") == before
    (made / f"{name}.py").write_text(MODULES[name] + "\n# another")
    assert code_digest("made.stage") != before


def test_a_digest_does_not_change_with_anything_else_or_with_the_place(made: Path, tmp_path: Path) -> None:
    before = code_digest("made.stage")
    (made / "other.py").write_text("x = 1")
    assert code_digest("made.stage") == before
    assert code_digest("made.other") != before


def test_there_must_be_such_a_module(made: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"made\.nowhere"):
        code_digest("made.nowhere")
