"""Sources: what they hold, and one clear line for each thing that can be wrong with a user's files."""

import hashlib
import json
import os
import subprocess
import sys
from glob import glob
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.data import source
from troupe.data.corpus import Source
from troupe.data.files import expand
from troupe.data.source import describe, find_files, read_text
from troupe.errors import CorpusError


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def refusal(name: str) -> str:
    with pytest.raises(CorpusError) as raised:
        read_text(name)
    assert "\n" not in str(raised.value), "one line"
    return str(raised.value)


def test_python_docs_are_prose_without_repeated_paragraphs() -> None:
    text = read_text("python-docs")
    assert 300_000 < len(text) < 600_000
    assert 'The "assert" statement' in text
    paragraphs = text.split("\n\n")
    assert len(paragraphs) == len(set(paragraphs))


@pytest.mark.parametrize("name", ["python-docs", "files"])
def test_the_digest_is_that_of_the_text(name: str, tmp_path: Path) -> None:
    where = write(tmp_path / "a.txt", "añb") if name == "files" else name
    described, content = describe(where), read_text(where).encode()
    assert described.kind == name
    assert (described.bytes, described.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_tiny_shakespeare_is_described_without_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "fetch", None)
    described = describe("tiny-shakespeare")
    assert described.bytes == 1_115_394
    assert described.sha256 == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    assert "public domain" in described.licence


def test_tiny_shakespeare_from_the_mirror_must_be_the_known_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "tiny-shakespeare.txt", "First Citizen: not quite")
    monkeypatch.setenv("TROUPE_MIRROR", str(tmp_path))
    assert "expected 86c4e6aa" in refusal("tiny-shakespeare")


def test_files_of_a_glob_are_joined_by_blank_lines_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path / "b.md", "second")
    write(tmp_path / "a.txt", "first")
    write(tmp_path / "deep/c.jsonl", '{"text": "third"}\n{"id": 7, "text": "fourth"}\n\n')
    write(tmp_path / "empty.txt", "")
    assert read_text(str(tmp_path / "**")) == "first\n\nsecond\n\nthird\n\nfourth"
    assert describe(str(tmp_path / "*.md")) == Source(
        "files",
        [(tmp_path / "b.md").as_posix()],
        6,
        hashlib.sha256(b"second").hexdigest(),
        "as given by the user",
    )


def test_a_relative_path_is_recorded_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data/mine.txt", "text")
    monkeypatch.chdir(tmp_path)
    assert describe("data/*.txt").files == ["data/mine.txt"]


def test_a_file_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    assert read_text(write(tmp_path / "notes [1].txt", "one")) == "one"


def test_byte_order_mark_and_crlf_are_dropped(tmp_path: Path) -> None:
    assert read_text(write(tmp_path / "w.txt", b"\xef\xbb\xbfone\r\ntwo\r\n")) == "one\ntwo\n"


BYTES = st.lists(st.sampled_from([b"\xef\xbb\xbf", b"\r", b"\n", b"\r\n", b"a", b" ", "é".encode(), "😀".encode()]))


@given(content=BYTES.map(b"".join), piece=st.integers(1, 9))
def test_a_text_read_in_pieces_of_any_size_is_the_text_read_at_once(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, piece: int
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "pieces.txt", b"x" + content)
    bom = write(tmp_path_factory.getbasetemp() / "bom.txt", b"\xef\xbb\xbf" + b"x" + content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "PIECE", piece)
        assert read_text(path) == read_text(bom) == "x" + content.decode().replace("\r\n", "\n")
        assert describe(path).sha256 == hashlib.sha256(read_text(path).encode()).hexdigest()


@given(
    before=BYTES.map(b"".join),
    wrong=st.sampled_from([b"\xff", b"\x80", b"\xe2\x82", b"\xf0\x9f"]),
    piece=st.integers(1, 9),
)
def test_the_place_of_a_wrong_byte_does_not_depend_on_the_pieces(
    tmp_path_factory: pytest.TempPathFactory, before: bytes, wrong: bytes, piece: int
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "wrong.txt", before + wrong)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "PIECE", piece)
        assert f"not UTF-8 at byte {len(before)};" in refusal(path)


@given(
    texts=st.lists(st.text(st.sampled_from("a \n\r\u2028é"), min_size=0, max_size=5), max_size=4),
    piece=st.integers(1, 9),
    suffix=st.sampled_from([".txt", ".jsonl"]),
)
def test_documents_read_in_pieces_are_joined_unless_blank(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], piece: int, suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("documents")
    write(folder / "0.txt", "first")
    for number, text in enumerate(texts, 1):
        write(folder / f"{number}{suffix}", json.dumps({"text": text}) if suffix == ".jsonl" else text)
    kept = [text if suffix == ".jsonl" else text.replace("\r\n", "\n") for text in texts if text.strip()]
    kept = list(dict.fromkeys(kept))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "PIECE", piece)
        assert read_text(f"{folder}/*") == "\n\n".join(["first", *kept])


def test_a_line_separator_in_json_is_no_end_of_line(tmp_path: Path) -> None:
    text = "a\u2028b\x85c"
    assert read_text(write(tmp_path / "t.jsonl", json.dumps({"text": text}, ensure_ascii=False))) == text


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("t.txt", b"good \xff bad", "t.txt: not UTF-8 at byte 5"),
        ("t.txt", "héllo".encode("utf-16"), "t.txt: not UTF-8 at byte 0"),
        ("t.txt", b"", "there is no text in it"),
        ("t.md", b" \n\t\n", "there is no text in it"),
        ("t.pdf", b"%PDF", "t.pdf: data.source takes .txt, .md, .jsonl files only"),
        ("t.jsonl", b'{"text": "a"}\n{"text": 3}', 't.jsonl:2: expected an object with a string field "text"'),
        ("t.jsonl", b'\n["text"]', 't.jsonl:2: expected an object with a string field "text"'),
        ("t.jsonl", b'{"text": "a"}\n\n{"text": "b', "t.jsonl:3: not JSON: Unterminated string"),
        ("t.jsonl", b"[" * 100_000, "t.jsonl:1: not JSON: nested too deeply"),
        ("t.jsonl", b'{"text": "\\ud800"}', "t.jsonl:1: "),
    ],
)
def test_unusable_files(tmp_path: Path, file: str, content: bytes, complaint: str) -> None:
    assert complaint in refusal(write(tmp_path / file, content))


def test_missing_files_and_mistyped_names(tmp_path: Path) -> None:
    assert "no such file; write python-docs, tiny-shakespeare, or a path or glob" in refusal("tiny-shakespear")
    assert "no such file" in refusal(str(tmp_path / "*.txt"))
    assert f"is a folder; name its files, e.g. {tmp_path}/*.txt" in refusal(f"{tmp_path}/")


def test_one_unsupported_file_in_a_glob_is_not_skipped_in_silence(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "text")
    write(tmp_path / "b.docx", "zip")
    with pytest.raises(CorpusError, match=r"b\.docx: .* narrow the glob"):
        find_files(str(tmp_path / "*"))


def test_a_file_whose_name_is_not_utf8_is_named(tmp_path: Path) -> None:
    try:
        write(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")), "text")
    except OSError:
        pytest.skip("this file system holds no such name")
    said = refusal(str(tmp_path / "*.txt"))
    assert "caf\\udce9.txt': the name is not UTF-8" in said
    assert "rename" in said
    assert said.encode()


def test_looking_at_the_source_imports_neither_numpy_nor_torch() -> None:
    """The inputs stage runs on every call of the pipeline, also when there is nothing to do."""
    probe = "import sys, troupe.stages.inputs; print(*{'numpy', 'torch', 'pooch', 'mlflow'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout == "\n"


def test_a_file_is_read_once_whatever_links_lead_to_it(tmp_path: Path) -> None:
    """A link upwards used to name each file 41 times and more, and what lies beside the folder too."""
    folder, elsewhere = tmp_path / "w/mine", tmp_path / "elsewhere"
    write(folder / "a.txt", "one")
    write(folder / "deep/b.txt", "two")
    write(tmp_path / "w/beside.txt", "not meant")
    write(elsewhere / "c.txt", "three")
    (folder / "deep/up").symlink_to("..")
    (folder / "deep/further").symlink_to(tmp_path / "w")
    (folder / "0").symlink_to("deep")
    (folder / "z").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    (folder / "0.txt").symlink_to("deep/b.txt")
    (folder / "z.txt").hardlink_to(folder / "a.txt")
    (folder / "nothing.txt").symlink_to("nowhere")
    found = [path.relative_to(folder).as_posix() for path in find_files(f"{folder}/**/*.txt")]
    assert found == ["a.txt", "deep/b.txt", "z/c.txt"]
    assert read_text(f"{folder}/**") == "one\n\ntwo\n\nthree"


@pytest.mark.parametrize(
    "pattern", ["*", "**", "**/*.txt", "d*/*.txt", "d?/[ab].txt", ".h/*", "d1/**/a.txt", "./*.txt"]
)
def test_globs_name_what_the_standard_library_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    for name in ["a.txt", ".b.txt", "d1/a.txt", "d1/c.txt", "d2/b.txt", "d1/e/a.txt", ".h/a.txt", "d1/.i/a.txt"]:
        write(tmp_path / name, name)
    monkeypatch.chdir(tmp_path)
    names = sorted({Path(name).as_posix() for name in glob(pattern, recursive=True) if Path(name).is_file()})  # noqa: PTH207
    assert [path.as_posix() for path in expand(pattern)] == names
    assert [str(path) for path in expand(f"{tmp_path}/{pattern}")] == [str(tmp_path / name) for name in names]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a/one.txt", "one")

    def refuse(folder: str) -> None:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read everything
    assert "cannot be read: Permission denied" in refusal(f"{tmp_path}/**/*.txt")


COPIED = st.sampled_from(["a", "b", "ab" * 9, "ab" * 9 + "c", "ab" * 9 + "\r\n", "\n ", "é" * 30])


@given(texts=st.lists(COPIED, max_size=9), piece=st.integers(1, 40), suffix=st.sampled_from([".txt", ".jsonl"]))
def test_of_documents_with_one_text_the_first_is_kept(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], piece: int, suffix: str
) -> None:
    """Short and long ones, in files of their own or lines of one."""
    folder = tmp_path_factory.mktemp("copies")
    write(folder / "0.txt", "first")
    if suffix == ".jsonl":
        write(folder / "1.jsonl", "\n".join(json.dumps({"text": text}) for text in texts))
    else:
        for number, text in enumerate(texts, 1):
            write(folder / f"{number}.txt", text)
    visible = [text if suffix == ".jsonl" else text.replace("\r\n", "\n") for text in texts if text.strip()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "PIECE", piece)
        patch.setattr(source, "BEGINNING", 8)
        kept, found = [*dict.fromkeys(visible)], describe(f"{folder}/*")
        assert read_text(f"{folder}/*") == "\n\n".join(["first", *kept])
    assert found.copies == len(visible) - len(kept)
    assert found.copied_bytes == len("".join(visible).encode()) - len("".join(kept).encode())
    assert found.sha256 == hashlib.sha256("\n\n".join(["first", *kept]).encode()).hexdigest()
