"""What a stage of dvc.yaml depends on: files, by name, and by one key the digest of all the code that it runs."""

import os
import sys
from pathlib import Path

import grimp
import pytest
from ruamel.yaml import YAML

from tests.workspace import clone, run, succeed
from troupe.dependencies import code_of
from troupe.layout import CODE, EFFECTIVE_PARAMS, MODEL_STAGES
from troupe.params import INCIDENTAL, RunParams

ROOT = Path(__file__).parents[2]
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
CACHED = [name for name in STAGES if name != "inputs"]  # `inputs` always runs


@pytest.mark.parametrize("stage", CACHED)
def test_a_stage_depends_on_the_code_that_it_runs_and_no_list_says_which(stage: str) -> None:
    """`inputs` digests it by troupe.dependencies: DVC runs a stage again when a module that it imports has changed."""
    assert {str(CODE): [stage]} in STAGES[stage]["params"]
    assert not [path for path in STAGES[stage]["deps"] if not path.startswith("artifacts/")]


def test_a_stage_that_computes_depends_on_all_of_section_run_but_who_starts_it() -> None:
    wanted = [f"run.{field}" for field in RunParams.model_fields if field not in INCIDENTAL["run"]]
    for stage in (*MODEL_STAGES, "evaluate"):
        [keys] = [entry[str(EFFECTIVE_PARAMS)] for entry in STAGES[stage]["params"] if str(EFFECTIVE_PARAMS) in entry]
        assert [key for key in keys if key.partition(".")[0] == "run"] == wanted, stage


def test_the_file_lists_a_stage_after_those_that_it_builds_on() -> None:
    """pipelines/repro.py takes the order as it stands."""
    written = set[str]()
    for name, stage in STAGES.items():
        files = [file for entry in stage.get("params", ()) for file in entry]
        assert {*stage.get("deps", ()), *files} <= written, name
        for out in (*stage.get("outs", ()), *stage.get("metrics", ())):
            written |= {*([out] if isinstance(out, str) else out)}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_the_module_of_its_name(stage: str) -> None:
    assert f"troupe.stages.{stage}" in STAGES[stage]["cmd"]


@pytest.mark.parametrize(("stage", "most"), {"pretrain": 41, "moe": 40, "adversarial": 72, "evaluate": 57}.items())
def test_a_stage_imports_few_files(stage: str, most: int) -> None:
    """Directly or not, packages without code left out. An edit of any of them makes the stage run again."""
    graph = grimp.build_graph("troupe", cache_dir=None)
    assert len(graph.find_upstream_modules(f"troupe.stages.{stage}")) <= most


def test_describing_a_model_is_no_part_of_training_it() -> None:
    """An edited word of `troupe describe` makes no stage run again and no checkpoint stale."""
    for stage in STAGES:
        assert "troupe.inspection.tables" not in code_of(f"troupe.stages.{stage}")


@pytest.mark.slow
def test_dvc_runs_a_stage_again_when_a_module_that_it_imports_has_changed(tmp_path: Path) -> None:
    """And not when another has. The clone's own code runs, before that which is installed."""
    folder = clone(tmp_path / "clone")
    (folder / "text.txt").write_text("words " * 4000)
    environment = {
        "PYTHONPATH": str(folder / "src"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TROUPE_SET": "data.source=text.txt data.block_bytes=64",
    }

    def ran() -> bool:
        return "Running stage 'corpus'" in succeed(run(folder, "-m", "dvc", "repro", "corpus", **environment)).stdout

    assert [ran(), ran()] == [True, False]
    for module, again in (("evaluation/report.py", False), ("data/download.py", True)):
        with (folder / "src" / "troupe" / module).open("a") as file:
            file.write("# another\n")
        assert ran() == again, module
