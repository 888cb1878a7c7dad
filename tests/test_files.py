"""Small files are written whole or not at all."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.errors import ArtifactError
from troupe.files import read_json, sha256_file, write_atomic, write_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(JSON)
def test_json_round_trip(tmp_path_factory: pytest.TempPathFactory, content: object) -> None:
    path = tmp_path_factory.mktemp("json") / "file.json"
    write_json(path, content)
    assert read_json(path) == content


def test_not_a_number_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"bpb": 1.5})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"bpb": float("nan")})
    assert read_json(path) == {"bpb": 1.5}


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ArtifactError, match=r"file: not written: No space left on device; make room") as error:
        write_atomic(path, b"new")
    assert "\n" not in str(error.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.security("files have the mode that the umask gives")
@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_files_have_the_mode_that_the_umask_gives(mask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_json(tmp_path / "deep" / "file.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "deep" / "file.json").stat().st_mode & 0o777 == mode
    assert (tmp_path / "deep").stat().st_mode & 0o077 == 0o077 & ~mask


@pytest.mark.parametrize(
    "content", [b"1" * 5000, b"[" * 100_000], ids=["a number of 5000 digits", "brackets in brackets"]
)
def test_json_beyond_what_python_reads_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"file\.json: not JSON that can be read") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    for read in (read_json, sha256_file):
        with pytest.raises(ArtifactError, match="cannot be read: Is a directory"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"), [(b'{"a": 1,\n}', "file.json:2: not JSON"), (b'"\xff"', "not UTF-8 at byte 1")]
)
def test_a_broken_file_is_named_with_its_place(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=says):
        read_json(path)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    for read in (read_json, sha256_file):
        with pytest.raises(ArtifactError, match="make pipeline"):
            read(tmp_path / "absent")


def test_the_digest_is_the_published_one(tmp_path: Path) -> None:
    """FIPS 180-2, appendix B.1: sha256 of "abc"."""
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
