"""DVC calls a stage up to date when a module that it imports is not among its deps: so every one must be.

Exempt are modules that cannot change a result: they name places, check input, or show progress.
"""

from pathlib import Path

import grimp
import pytest
from ruamel.yaml import YAML

from troupe.training.checkpoint import TRAINING_CODE

ROOT = Path(__file__).parents[2]
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
HARMLESS = {
    "troupe",
    "troupe.cores",  # a fact of the machine, as its processor is
    "troupe.errors",
    "troupe.files",
    "troupe.layout",
    "troupe.overlay",
    "troupe.params",  # the schema; the values are params of the stage
    "troupe.environment",
    "troupe.stages",
    "troupe.stages.common",
    "troupe.stages.log",
    "troupe.stages.progress",
    "troupe.stopping",
}


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("troupe", cache_dir=None)


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "inputs"])  # `inputs` always runs
def test_every_imported_module_is_a_dependency(stage: str, imports: grimp.ImportGraph) -> None:
    module = f"troupe.stages.{stage}"
    needed = {module, *imports.find_upstream_modules(module)} - HARMLESS - imports.find_descendants("troupe.params")
    files = {_file(name) for name in needed}
    listed = [ROOT / dep for dep in STAGES[stage]["deps"]]
    missing = {str(file.relative_to(ROOT)) for file in files if not any(_covers(dep, file) for dep in listed)}
    assert not missing


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_stage_runs_the_module_of_its_name(stage: str) -> None:
    assert f"troupe.stages.{stage}" in STAGES[stage]["cmd"]


def test_a_stage_that_resumes_begins_anew_with_other_code(imports: grimp.ImportGraph) -> None:
    """Code that has DVC run a training stage again also changes the key of its run: else it would resume at once to
    the finished weights of the old code."""
    upstream = {name: imports.find_upstream_modules(f"troupe.stages.{name}") for name in STAGES}
    resuming = [name for name in STAGES if "troupe.training.checkpoint" in upstream[name]]
    assert resuming == ["pretrain", "moe", "adversarial"]
    for name in resuming:
        code = {ROOT / dep for dep in STAGES[name]["deps"] if dep.startswith("src/")}
        covered = {path for path in code if any(_covers(ROOT / "src/troupe" / part, path) for part in TRAINING_CODE)}
        assert covered == code, name


def test_describing_a_model_is_no_part_of_training_it() -> None:
    """An edited word of `troupe describe` makes no stage run again and no checkpoint stale."""
    wording = ROOT / "src/troupe/inspection/tables.py"
    for stage in STAGES.values():
        assert not any(_covers(ROOT / dep, wording) for dep in stage.get("deps", []))
    assert not any(_covers(ROOT / "src/troupe" / part, wording) for part in TRAINING_CODE)


def _file(module: str) -> Path:
    path = ROOT / "src" / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _covers(dep: Path, file: Path) -> bool:
    return dep == file or dep in file.parents
