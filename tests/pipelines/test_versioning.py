"""What of a user's text gets a note of DVC's, with real DVC and git where they have a say."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from pipelines import cache, versioning
from pipelines.cache import OBJECTS, SEEN, drop_damaged
from pipelines.repro import _add
from pipelines.versioning import version_source
from tests.workspace import ROOT
from troupe.files import write_atomic, write_json
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


def store(content: bytes, suffix: str = "") -> str:
    name = hashlib.md5(content).hexdigest() + suffix
    if not (path := OBJECTS / name[:2] / name[2:]).exists():
        write_atomic(path, content)
    return name


def keep(path: str) -> None:
    """Objects and note of a file or folder, as `dvc add` writes them."""
    content, suffix = b"", ""
    if Path(path).is_dir():
        files = [file for file in sorted(Path(path).rglob("*")) if file.is_file()]
        entries = [{"md5": store(file.read_bytes()), "relpath": str(file.relative_to(path))} for file in files]
        content, suffix = json.dumps(entries).encode(), ".dir"
    else:
        content = Path(path).read_bytes()
    Path(f"{path}.dvc").write_text(f"outs:\n- md5: {store(content, suffix)}\n  path: {Path(path).name}\n")


def noted() -> list[str]:
    """What is added."""
    added: list[str] = []

    def add(paths: list[str]) -> None:
        added.extend(paths)
        for path in paths:
            keep(path)

    version_source(add)
    return added


def test_a_tree_of_files_has_one_note(folder: Path) -> None:
    texts("data/mine/a.txt", "data/mine/deep/b.txt", str(folder / "data/mine/c.txt"))
    assert noted() == ["data/mine"]
    assert noted() == []
    Path("data/mine/a.txt").write_text("another text")
    assert noted() == ["data/mine"]
    Path("data/mine/c.txt").unlink()
    texts("data/mine/a.txt", "data/mine/deep/b.txt")
    assert noted() == ["data/mine"]


def test_a_folder_into_which_other_files_have_come_is_left_to_the_user(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts("data/mine/a.txt", "data/mine/deep/b.txt")
    assert noted() == ["data/mine"]
    Path("data/mine/deep/secret.key").write_text("secret")
    assert noted() == []
    assert capsys.readouterr().out.count("\n") == 1, "nothing of the source has changed"
    Path("data/mine/a.txt").write_text("another text")
    for _ in range(2):
        assert noted() == []
        said = capsys.readouterr().out
        assert "data/mine/deep/secret.key lies there too" in said
        assert "run `dvc add data/mine`" in said
    keep("data/mine")
    assert noted() == []
    assert capsys.readouterr().out == ""
    lose(store(b"another text"))
    SEEN.unlink()
    assert noted() == []
    assert "secret.key lies there too" in capsys.readouterr().out, "an object is lost, and cannot be added again"
    Path("data/mine/a.txt").write_text("a third text")
    Path("data/mine/deep/secret.key").unlink()
    assert noted() == ["data/mine"]


def test_a_link_to_a_folder_counts_as_another_file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    texts("data/mine/a.txt")
    assert noted() == ["data/mine"]
    Path("data/mine/a.txt").write_text("another text")
    Path("data/mine/link").symlink_to(tmp_path_factory.mktemp("outside"))
    assert noted() == []


def lose(name: str) -> None:
    (OBJECTS / name[:2] / name[2:]).unlink()


def test_what_the_cache_has_lost_is_put_there_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(folder / "user"))
    texts("data/mine/a.txt", "data/one.txt", others=("data/other.md",))
    assert noted() == ["data/mine", "data/one.txt"]
    assert noted() == []
    lists = [path.parent.name + path.name for path in OBJECTS.glob("*/*.dir")]
    for names, again in (([store(b"text of data/one.txt\n")], "data/one.txt"), (lists, "data/mine")):
        for name in names:
            lose(name)
        assert noted() == [again]
        assert noted() == []
    member = store(b"text of data/mine/a.txt\n")
    path = OBJECTS / member[:2] / member[2:]
    path.write_bytes(b"damaged")
    assert drop_damaged() == [path]
    assert noted() == ["data/mine"]
    assert path.exists()
    shutil.rmtree(".dvc/cache")
    Path(".dvc/config").write_text("[cache]\n    dir = /elsewhere\n")
    cache._configured.cache_clear()  # as in another process
    assert noted() == [], "another cache is not looked into"


@pytest.mark.parametrize("place", [".dvc/cache", "elsewhere", "../outside"])
def test_a_link_that_dvc_has_made_is_the_file(folder: Path, place: str) -> None:
    """As with `cache.type` symlink."""
    texts("data/a.txt", "data/mine/b.txt")
    name = hashlib.md5(b"any").hexdigest()
    cached = folder / place / "files/md5" / name[:2] / name[2:]
    write_atomic(cached, b"any")
    for file in ("data/a.txt", "data/mine/b.txt"):
        Path(file).unlink()
        Path(file).symlink_to(cached)
    assert noted() == ["data/a.txt", "data/mine"]
    assert noted() == []


def test_what_changes_while_it_is_added_is_added_again(folder: Path) -> None:
    texts("data/mine/a.txt")

    def add(paths: list[str]) -> None:
        keep(*paths)
        Path("data/mine/a.txt").write_text("changed meanwhile")

    version_source(add)
    assert noted() == ["data/mine"]
    assert noted() == []


def test_what_git_has_us_skip_does_not_count_as_kept(folder: Path) -> None:
    texts("lost/c.txt")
    assert noted() == ["lost"]
    subprocess.run(["git", "init", "--quiet"], check=True)
    Path(".gitignore").write_text("/lost.dvc\n")
    Path("lost/c.txt").write_text("another text")
    assert noted() == []
    Path(".gitignore").unlink()
    assert noted() == ["lost"]


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
    Path("data/mine/b.txt").write_text("another text")
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
    kept = {path: path.read_bytes() for path in OBJECTS.glob("*/*")}
    member = hashlib.md5(b"changed\n").hexdigest()
    changed = OBJECTS / member[:2] / member[2:]
    changed.chmod(0o644)
    changed.write_text("damaged\n")
    assert drop_damaged() == [changed]
    version_source(_add)
    assert {path: path.read_bytes() for path in OBJECTS.glob("*/*")} == kept
    shutil.rmtree(OBJECTS)
    version_source(_add)
    assert kept.items() > {path: path.read_bytes() for path in OBJECTS.glob("*/*")}.items(), "but for earlier versions"
