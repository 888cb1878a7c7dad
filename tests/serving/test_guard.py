"""Who may ask, and how much: foreign pages and names on loopback, the token elsewhere, sizes everywhere."""

import socket
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.serving.conftest import Shelf, bundle, started
from troupe.errors import ParamsError
from troupe.serving.guard import MOST_BYTES, is_loopback
from troupe.serving.run import serve
from troupe.serving.scheduler import Limits

TOKEN = "a token of some length"
BODY = {"prompt": "a", "max_tokens": 1}


@pytest.mark.security("the model server: a foreign Host is refused")
@pytest.mark.parametrize("host", ["example.org", "127.0.0.1.example.org", "0.0.0.0", "troupe.local:5001", ""])
def test_a_foreign_host_is_refused(client: httpx.Client, host: str) -> None:
    for answer in (
        client.get("/", headers={"Host": host}),
        client.post("/v1/completions", json=BODY, headers={"Host": host}),
    ):
        assert answer.status_code == 400


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:5001", "LOCALHOST:1", "[::1]:5001"])
def test_its_own_names_are_not(client: httpx.Client, host: str) -> None:
    assert client.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.security("the model server: a foreign Origin is refused")
@pytest.mark.parametrize("origin", ["http://example.org", "null", "http://localhost:1", "https://{host}", ""])
def test_a_foreign_origin_is_refused(client: httpx.Client, origin: str) -> None:
    host = client.base_url.netloc.decode()
    headers = {"Origin": origin.format(host=host)}
    answer = client.post("/v1/completions", json=BODY, headers=headers)
    assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")
    assert client.post("/v1/completions", json=BODY, headers={"Origin": f"http://{host}"}).status_code == 200


@pytest.fixture(scope="module")
def guarded() -> Iterator[httpx.Client]:
    with started(Shelf(troupe=bundle()), token=TOKEN, local=False) as client:
        yield client


@pytest.mark.security("the model server: nothing without the token")
@pytest.mark.parametrize("sent", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ü"])
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/openapi.json", "/nowhere"])
def test_without_the_token_there_is_nothing(guarded: httpx.Client, path: str, sent: str | None) -> None:
    answer = guarded.get(path, headers={} if sent is None else {"Authorization": sent.encode()})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert guarded.get("/health").status_code == guarded.get("/").status_code == 200


def test_with_it_there_is_under_any_name(guarded: httpx.Client) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Host": "troupe.example.org"}
    assert guarded.post("/v1/completions", json=BODY, headers=headers).status_code == 200
    assert guarded.post("/invocations", json={"inputs": ["a"]}, headers=headers).status_code == 200
    assert guarded.post("/invocations", json={"inputs": ["a"]}).json()["error_code"] == "BAD_REQUEST"


def chunked(size: int) -> Iterator[bytes]:
    yield b'{"prompt": "'
    for _ in range(size // 2**16):
        yield b"a" * 2**16
    yield b'"}'


@pytest.mark.security("the model server: a body that is too large is not read")
@pytest.mark.parametrize("content", [lambda: b"a" * (MOST_BYTES + 1), lambda: chunked(2 * MOST_BYTES)])
def test_a_body_that_is_too_large_is_not_read(client: httpx.Client, content: Callable[[], bytes]) -> None:
    headers = {"Content-Type": "application/json"}
    try:
        answer = client.post("/v1/completions", content=content(), headers=headers)
    except httpx.WriteError:
        return  # it hung up before all was sent
    assert (answer.status_code, answer.json()["error"]["message"][:29]) == (413, "a request must not be larger ")


@pytest.mark.parametrize(
    ("host", "alone"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)]
)
def test_loopback(host: str, alone: bool) -> None:
    assert is_loopback(host) == alone


@pytest.mark.security("the model server: none beyond loopback without a token")
def test_no_server_for_others_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TROUPE_SERVE_TOKEN", raising=False)
    with pytest.raises(ParamsError, match="set TROUPE_SERVE_TOKEN"):
        serve("models:/troupe@champion", "0.0.0.0", 0, Limits())
    monkeypatch.setenv("TROUPE_SERVE_TOKEN", "short")
    with pytest.raises(ParamsError, match="at least 16 characters"):
        serve("models:/troupe@champion", "127.0.0.1", 0, Limits())


def test_a_port_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TROUPE_SERVE_TOKEN", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ParamsError, match=f"--port {port}: .*in use"):
            serve("models:/troupe@champion", "127.0.0.1", port, Limits())
