import json
from pathlib import Path

import pytest

from pipelines.repro import StageFailed, changed_stages, run_stage
from pipelines.workspace import claim
from tests.pipelines.small import make
from troupe.errors import TroupeError
from troupe.files import write_json
from troupe.layout import SOURCE

pytestmark = pytest.mark.slow  # a call of dvc takes a second


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make(tmp_path)


def quiet(_: str) -> None:
    pass


def test_from_the_first_changed_stage_on(folder: Path) -> None:
    heard: list[str] = []
    with claim() as run:
        assert changed_stages(run) == ["first", "second"]
        assert run_stage("first", run, heard.append) == "ran"
        assert run_stage("second", run, heard.append) == "ran"
        assert heard == ["Running stage 'first':", "Running stage 'second':", "second at work"]
        assert changed_stages(run) == []
        (folder / "second.txt").unlink()
        assert changed_stages(run) == ["second"]
        assert run_stage("second", run, quiet) == "restored"
        assert run_stage("second", run, quiet) == "cached"
        assert run.record["params"] == {"run": {"seed": 1}}
        assert "> exec sh work.sh" in (run.folder / "second.log").read_text()


def test_a_refused_parameter_is_its_own_message_and_touches_nothing(folder: Path) -> None:
    with claim() as run:
        changed_stages(run)
        run_stage("first", run, quiet)
    with claim("bad") as run, pytest.raises(StageFailed) as caught:
        changed_stages(run)
    assert str(caught.value) == "inputs: override: run.seed: not a number"
    assert not caught.value.again
    assert caught.value.exit_code == 2
    assert (folder / "first.txt").read_text() == "run: {seed: 1}\n"


@pytest.mark.parametrize(
    ("work", "said"),
    [
        ("echo no luck >&2; exit 1", "second failed: no luck (log: "),
        ("kill -9 $$", "second failed: killed by signal 9"),
    ],
)
def test_another_failure_names_stage_reason_and_log(folder: Path, work: str, said: str) -> None:
    (folder / "work.sh").write_text(work)
    with claim() as run:
        changed_stages(run)
        run_stage("first", run, quiet)
        with pytest.raises(StageFailed) as caught:
            run_stage("second", run, quiet)
        assert str(caught.value).startswith(said)
        assert caught.value.again
        assert run.record["stages"]["second"]["outcome"] == "failed"


def test_a_graph_that_dvc_refuses(folder: Path) -> None:
    (folder / "dvc.yaml").write_text((folder / "dvc.yaml").read_text() + "unknown: 1\n")
    with claim() as run, pytest.raises(TroupeError, match=r"dvc\.yaml"):
        changed_stages(run)


def test_the_users_text_is_versioned_once_for_each_content(folder: Path) -> None:
    text, note = folder / "my text.txt", folder / "my text.txt.dvc"
    text.write_text("one")
    write_json(SOURCE, {"files": ["my text.txt"]})
    with claim() as run:
        changed_stages(run)
        first = note.read_text()
        changed_stages(run)
        assert note.read_text() == first
        text.write_text("two")
        changed_stages(run)
        assert note.read_text() != first


def test_text_outside_the_workspace_is_left_alone(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    text = tmp_path_factory.mktemp("elsewhere") / "text.txt"
    text.write_text("one")
    write_json(SOURCE, {"files": [str(text)]})
    with claim() as run:
        changed_stages(run)
    assert [path.name for path in text.parent.iterdir()] == ["text.txt"]
    assert json.loads(SOURCE.read_text())["files"] == [str(text)]
