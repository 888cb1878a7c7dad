"""Files by digest, against a real server on loopback: right bytes, wrong bytes, missing page, nobody there."""

import hashlib
import socket
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from troupe.data.download import fetch, mirrored
from troupe.errors import CorpusError

CONTENT = b"To be, or not to be"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ADVICE = "set TROUPE_MIRROR"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that offers play.txt; pooch's cache is a fresh folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "www").mkdir()
    (tmp_path / "www/play.txt").write_bytes(CONTENT)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "www"))) as http:
        Thread(target=partial(http.serve_forever, poll_interval=0.01), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_a_download_is_cached(server: str, tmp_path: Path) -> None:
    assert fetch(f"{server}/play.txt", SHA256, [], ADVICE) == CONTENT
    (tmp_path / "www/play.txt").unlink()
    assert fetch(f"{server}/play.txt", SHA256, [], ADVICE) == CONTENT


@pytest.mark.security("a download with another digest is refused")
def test_a_download_with_another_digest_is_refused_in_one_line(server: str) -> None:
    with pytest.raises(CorpusError) as refusal:
        fetch(f"{server}/play.txt", "0" * 64, [], ADVICE)
    assert SHA256 in str(refusal.value)
    assert "0" * 64 in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_missing_page_says_how_to_do_without(server: str) -> None:
    with pytest.raises(CorpusError, match=r"nothing\.txt: cannot download \(HTTPError\); set TROUPE_MIRROR"):
        fetch(f"{server}/nothing.txt", SHA256, [], ADVICE)


@pytest.mark.fault("no network: one line says how to do without")
def test_without_a_network_it_says_how_to_do_without(server: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/play.txt"
        with pytest.raises(CorpusError, match=r"cannot download \(ConnectionError\); set TROUPE_MIRROR"):
            fetch(url, SHA256, [], ADVICE)


def test_the_mirror_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TROUPE_MIRROR", str(tmp_path))
    (tmp_path / "play.txt").write_bytes(CONTENT)
    assert fetch("http://127.0.0.1:9/play.txt", SHA256, mirrored("play.txt"), ADVICE) == CONTENT


def test_a_mirrored_file_with_another_digest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TROUPE_MIRROR", str(tmp_path))
    (tmp_path / "play.txt").write_bytes(CONTENT[:-1])
    actual = hashlib.sha256(CONTENT[:-1]).hexdigest()
    with pytest.raises(CorpusError, match=rf"play\.txt: its sha256 is {actual}, expected {SHA256}; refused"):
        fetch("http://127.0.0.1:9/play.txt", SHA256, mirrored("play.txt"), ADVICE)


def test_no_mirror_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TROUPE_MIRROR", raising=False)
    assert mirrored("play.txt") == []
