"""What of a user's text gets a note of DVC's, with real DVC and git where they have a say."""

import shutil
import subprocess
from pathlib import Path

import pytest

from pipelines import versioning
from pipelines.repro import _add
from pipelines.versioning import version_source
from tests.workspace import ROOT
from troupe.files import write_json
from troupe.layout import SOURCE


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def texts(*names: str, others: tuple[str, ...] = ()) -> None:
    for name in [*names, *others]:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(f"text of {name}\n")
    write_json(SOURCE, {"files": list(names)})


def noted() -> list[str]:
    """What would be added; a note is written for it, as DVC would."""
    added: list[str] = []

    def add(paths: list[str]) -> None:
        added.extend(paths)
        for path in paths:
            Path(f"{path}.dvc").write_text(f"outs:\n- path: {Path(path).name}\n")

    version_source(add)
    return added


def test_a_tree_of_files_has_one_note(folder: Path) -> None:
    texts("data/mine/a.txt", "data/mine/deep/b.txt", str(folder / "data/mine/c.txt"))
    assert noted() == ["data/mine"]
    assert noted() == []
    Path("data/mine/a.txt").write_text("another text")
    assert noted() == ["data/mine"]
    texts("data/mine/a.txt")
    assert noted() == ["data/mine"]  # its note already, whatever else lies there


def test_files_among_others_have_their_own_notes(folder: Path) -> None:
    texts("data/a.txt", "data/x/b.txt", "data/x/y/c.txt", "data/z/d.txt", others=("data/x/secret.env",))
    assert noted() == ["data/a.txt", "data/x/b.txt", "data/x/y", "data/z"]


def test_the_workspace_and_its_folder_for_text_are_no_text(folder: Path) -> None:
    texts("data/a.txt", "data/b.txt")
    assert noted() == ["data/a.txt", "data/b.txt"]
    texts("top.txt")
    assert noted() == ["top.txt"]


def test_notes_of_an_older_version_stay_and_are_kept_up_to_date(folder: Path) -> None:
    texts("data/mine/a.txt", "data/mine/b.txt")
    for name, digest in (("a", "6ca4ae0f9a8fe1f1fa2b8e3e2b3f7a52"), ("b", "")):
        Path(f"data/mine/{name}.txt.dvc").write_text(f"outs:\n- md5: {digest}\n  path: {name}.txt\n")
    assert noted() == ["data/mine/a.txt", "data/mine/b.txt"]
    assert sorted(path.name for path in Path("data/mine").iterdir()) == ["a.txt", "a.txt.dvc", "b.txt", "b.txt.dvc"]
    shutil.rmtree(".troupe")
    digest = subprocess.run(["md5sum", "data/mine/a.txt"], capture_output=True, text=True).stdout.split()[0]
    Path("data/mine/a.txt.dvc").write_text(f"outs:\n- md5: {digest}\n  path: a.txt\n")
    assert noted() == ["data/mine/b.txt"], "the first is kept by its digest"


def test_too_many_files_among_others_get_a_line_and_no_notes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts(*(f"data/{number:03}.txt" for number in range(101)))
    assert noted() == []
    assert "101 files lie among others, e.g. data/000.txt" in capsys.readouterr().out
    assert noted() == []


def test_what_lies_outside_or_behind_links_is_left_alone(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "o.txt").write_text("outside")
    texts("data/mine/a.txt")
    Path("data/link").symlink_to(outside)
    Path("data/again").symlink_to("mine")
    write_json(SOURCE, {"files": [str(outside / "o.txt"), "data/link/o.txt", "data/again/a.txt"]})
    assert noted() == ["data/mine"]


@pytest.mark.slow
def test_dvc_takes_text_at_any_depth_in_a_fresh_clone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pattern of the README. DVC refuses notes that git ignores, and arguments beyond what a system takes."""
    shutil.copy(ROOT / ".gitignore", ".")
    shutil.copytree(ROOT / ".dvc", ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    subprocess.run(["git", "init", "--quiet"], check=True)
    Path("kept.md").write_text("in git")
    Path("dvc.yaml").write_text("stages: {}")
    subprocess.run(["git", "add", "kept.md", "dvc.yaml", ".gitignore"], check=True)
    monkeypatch.setattr(versioning, "AT_ONCE", 3)
    mine = [f"data/mine/{number}.txt" for number in range(40)]
    texts(*mine, "data/mixed/deep/a.txt", "kept.md", "lost/c.txt", others=("data/mixed/deep/b.env",))
    with Path(".gitignore").open("a") as file:
        file.write("/lost/*\n/lost.dvc\n")
    version_source(_add)
    assert {str(path) for path in Path().rglob("*.dvc") if path.is_file()} == {
        "data/mine.dvc",
        "data/mixed/deep/a.txt.dvc",
    }
    assert "git ignores lost.dvc" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*.dvc")}
    version_source(_add)
    assert before == {path: path.stat().st_mtime_ns for path in Path().rglob("*.dvc")}
    subprocess.run(["git", "add", "--all"], check=True)
    staged = subprocess.run(["git", "diff", "--cached", "--name-only"], capture_output=True, text=True).stdout.split()
    assert [name for name in staged if name.startswith("data/")] == ["data/mine.dvc", "data/mixed/deep/a.txt.dvc"]
    Path("data/mine/7.txt").write_text("changed\n")
    version_source(_add)
    after = {path: path.stat().st_mtime_ns for path in before}
    assert [str(path) for path in before if after[path] != before[path]] == ["data/mine.dvc"]
