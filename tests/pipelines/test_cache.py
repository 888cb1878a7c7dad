"""DVC's cache lost, damaged and full, in a real workspace: what is still there is not computed again."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import cache
from pipelines.cache import OBJECTS, SEEN, drop_damaged
from pipelines.repro import StageFailed, changed_stages, run_stage
from pipelines.workspace import claim
from tests.pipelines.small import make
from troupe.files import write_json

WORK = "rm -rf second.txt; cat first.txt > second.txt; date +%N >> second.txt"  # another text whenever it runs


def quiet(_: str) -> None:
    pass


def update() -> dict[str, str]:
    """Bring the workspace up to date; the outcome of each stage but `inputs`."""
    with claim() as run:
        for stage in changed_stages(run):
            run_stage(stage, run, quiet)
        return {name: stage["outcome"] for name, stage in run.record["stages"].items() if name != "inputs"}


def objects() -> dict[str, bytes]:
    return {path.parent.name + path.name: path.read_bytes() for path in OBJECTS.glob("*/*")}


def damage(path: Path) -> None:
    """Other bytes of the same number, write-protected as before."""
    mode, content = path.stat().st_mode, path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    path.chmod(mode)


@pytest.mark.fault("DVC's cache lost, or an object of it damaged: nothing is computed again")
@pytest.mark.slow
def test_a_lost_or_damaged_cache_is_written_again_and_nothing_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path, WORK)
    graph = tmp_path / "dvc.yaml"
    graph.write_text(
        graph.read_text().replace("cat artifacts/params.yaml > first.txt", "mkdir f; cp artifacts/params.yaml f")
    )
    graph.write_text(graph.read_text().replace("first.txt", "f"))
    (tmp_path / "work.sh").write_text(WORK.replace("first.txt", "f/params.yaml"))
    assert update() == {"first": "ran", "second": "ran"}
    lock, kept, written = Path("dvc.lock").read_bytes(), objects(), Path("second.txt").read_bytes()
    assert len(kept) == 3, "a file, a folder and the file in it"

    shutil.rmtree(".dvc/cache")
    assert update() == {"first": "cached", "second": "cached"}
    assert (objects(), Path("dvc.lock").read_bytes()) == (kept, lock)

    for name in kept:
        damage(OBJECTS / name[:2] / name[2:])
    assert update() == {"first": "cached", "second": "cached"}
    assert (objects(), Path("dvc.lock").read_bytes()) == (kept, lock)

    Path("second.txt").write_text("by hand")
    assert update() == {"first": "cached", "second": "restored"}
    assert Path("second.txt").read_bytes() == written

    (name,) = [name for name, content in kept.items() if content == written]
    damage(OBJECTS / name[:2] / name[2:])
    Path("second.txt").unlink()
    assert update() == {"first": "cached", "second": "ran"}, "damaged bytes were restored"
    assert drop_damaged() == []


def test_an_object_is_hashed_when_its_file_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    digest = hashlib.md5(b"content").hexdigest()
    whole, unfinished = OBJECTS / digest[:2] / digest[2:], OBJECTS / "ab" / ".half.tmp"
    for path in (whole, unfinished):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"content")
    assert drop_damaged() == []
    monkeypatch.setattr(cache, "_digest", lambda _: "never looked at")
    monkeypatch.setattr(cache, "_changed_since", lambda moment: [p for p in (whole,) if p.stat().st_ctime > moment])
    assert drop_damaged() == []
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    damage(whole)
    assert drop_damaged() == [whole]
    assert not whole.exists()
    assert unfinished.exists()


@pytest.fixture
def damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An object whose bytes are not those of its name, in a workspace."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "user"))
    path = OBJECTS / "ab" / ("c" * 30)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    return path


def test_what_is_damaged_is_moved_with_a_line(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(SEEN, {"data/mine": "kept"})
    assert drop_damaged() == [damaged]
    (moved,) = cache.DAMAGED.glob(f"*/ab{damaged.name}")
    assert moved.read_bytes() == b"damaged"
    assert capsys.readouterr().out == f"DVC's cache: damaged, moved to {moved.parent}: {damaged}\n"
    assert not SEEN.exists(), "the user's text would not be kept again"


@pytest.mark.parametrize("config", [".dvc/config", ".dvc/config.local", "user/config"])
def test_an_object_that_the_workspace_links_to_stays(damaged: Path, config: str) -> None:
    Path(config).parent.mkdir(exist_ok=True)
    Path(config).write_text(
        "[core]\n  autostage = true\n['remote \"r\"']\n  url = s3://r\n[cache]\n    type = symlink,copy\n"
    )
    assert drop_damaged() == []
    assert damaged.read_bytes() == b"damaged"
    Path(config).write_text("")
    cache._configured.cache_clear()  # as in another process
    assert drop_damaged() == [damaged], "the look was never made up for"


def test_an_interrupted_look_is_made_again(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_: Path) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_digest", killed)
        with pytest.raises(KeyboardInterrupt):
            drop_damaged()
    monkeypatch.setattr(cache, "_changed_since", lambda moment: [p for p in (damaged,) if p.stat().st_ctime > moment])
    assert drop_damaged() == [damaged]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.fault("a full disk under DVC's cache: named, and no second try")
@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [9, 90])
def test_a_full_cache_is_named_and_nothing_is_tried_again(
    tmp_path: Path, full_disk: Path, monkeypatch: pytest.MonkeyPatch, kilobytes: int
) -> None:
    """Of many small files the last ones do not fit, nor does the note of the run; of a large one nothing does."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    monkeypatch.chdir(folder)
    make(
        folder,
        f"mkdir second.txt; for i in 1 2 3 4 5 6 7 8; do head -c {kilobytes}000 /dev/urandom > second.txt/$i; done",
    )
    Path(".dvc/config").write_text(Path(".dvc/config").read_text() + f"[cache]\n    dir = {full_disk}\n")
    with claim() as run:
        changed_stages(run)
        run_stage("first", run, quiet)
        with pytest.raises(StageFailed) as caught:
            run_stage("second", run, quiet)
    assert str(caught.value) == (
        f"second failed: DVC's cache {full_disk}: not written: No space left on device; make room on the disk, "
        "then run the same command again; `dvc gc --workspace` removes what only earlier runs have needed"
    )
    assert not caught.value.again


def test_what_dvc_says_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As DVC 3.67 has said it on a full, a protected and a read-only disk."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cache, "_folder", lambda: tmp_path / ".dvc/cache")
    said = "ERROR: failed to transfer '1f5a' - [Errno 28] No space left on device: 'a' -> '/elsewhere/1f/.yD.tmp'"
    assert (cache.disk_fault_in([said]) or "").endswith(
        "elsewhere/1f/.yD.tmp: not written: No space left on device; make room on the disk, "
        "then run the same command again"
    )
    inside = said.replace("/elsewhere", os.fspath(tmp_path / ".dvc/cache/files"))
    for line in (inside, "ERROR: failed to reproduce 'second': [Errno 28] No space left on device"):
        assert (cache.disk_fault_in(["> exec", line]) or "").startswith(
            f"DVC's cache {tmp_path / '.dvc/cache'}: not written"
        )
    assert cache.disk_fault_in(["ERROR: failed to reproduce 'second': [Errno 2] No such file", "[Errno 28]"]) is None
