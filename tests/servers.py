"""Real servers for tests: MLflow's, and one that speaks S3."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BUCKET = "troupe"


@contextmanager
def started(words: list[str], health: str, logs: Path = Path(), **environment: str) -> Iterator[str]:
    """Run `python WORDS --port PORT` until the end of the block; its address, once `health` answers."""
    port = str(free_port())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (said := logs / f"{words[1]}.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, *words, "--host", "127.0.0.1", "--port", port],
            env=os.environ | {"PATH": path} | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 120
            while not _answers(f"http://127.0.0.1:{port}{health}"):
                assert server.poll() is None, said.read_text()
                assert time.monotonic() < deadline, said.read_text()
                time.sleep(0.3)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, 15)
            server.wait(30)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def s3(logs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that speaks S3, with an empty bucket; this process and its children may write to it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "for-tests")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    with started(["-m", "moto.server"], "/moto-api/", logs) as url:
        urllib.request.urlopen(urllib.request.Request(f"{url}/{BUCKET}", method="PUT"), timeout=10).close()
        yield url


def keys(url: str, prefix: str) -> list[str]:
    """The names of the objects in the bucket that begin so."""
    with urllib.request.urlopen(f"{url}/{BUCKET}?list-type=2&prefix={prefix}", timeout=10) as answer:
        return re.findall("<Key>([^<]+)</Key>", answer.read().decode())
