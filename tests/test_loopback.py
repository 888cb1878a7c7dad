"""Who may talk to a server on loopback."""

import os
import re
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from troupe.credentials import TOKEN, token, with_token
from troupe.loopback import Admission, Admitted, OwnPagesOnly


async def changed(_: object) -> PlainTextResponse:
    return PlainTextResponse("changed")


async def talk(socket: WebSocket) -> None:
    await socket.accept()
    await socket.close()


PLACE, SOCKET, SECRET = "http://127.0.0.1:4200", "ws://127.0.0.1:4200/ws", "a secret of many characters"
APP = Starlette(routes=[Route("/", changed, methods=["GET", "POST"]), WebSocketRoute("/ws", talk)])
CASES = [
    ({"host": "127.0.0.1:4200"}, True),
    ({"host": "localhost:4200", "origin": "http://localhost:4200"}, True),
    ({"host": "127.0.0.1:4200", "origin": "http://127.0.0.1:4200"}, True),
    ({"host": "rebound.example:4200"}, False),
    ({"host": "127.0.0.1.rebound.example:4200"}, False),
    ({"host": "127.0.0.1:80"}, False),
    ({"host": ""}, False),
    ({"host": "127.0.0.1:4200", "origin": "https://page.example"}, False),
    ({"host": "127.0.0.1:4200", "origin": "https://127.0.0.1:4200"}, False),
    ({"host": "127.0.0.1:4200", "origin": "http://127.0.0.1:8888"}, False),  # another program's page on this machine
    ({"host": "127.0.0.1:4200", "origin": "null"}, False),  # a page out of a file or a sandbox
    ({"host": "127.0.0.1:4200", "origin": ""}, False),
]


@pytest.mark.security("Prefect: only its own pages and programs of this machine, websockets too")
@pytest.mark.parametrize(("headers", "taken"), CASES)
def test_requests_and_websockets_of_its_own_pages_and_of_programs_alone(headers: dict[str, str], taken: bool) -> None:
    client = TestClient(OwnPagesOnly(APP), base_url=PLACE)
    for method in ("GET", "POST"):
        answer = client.request(method, "/", headers=headers)
        assert (answer.status_code, answer.text == "changed") == (200 if taken else 403, taken)
    if taken:
        with client.websocket_connect(SOCKET, headers=headers):
            pass
    else:
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(SOCKET, headers=headers):
            pass


def guarded() -> TestClient:
    return TestClient(OwnPagesOnly(Admission(Admitted(APP, SECRET, ["/health"]), SECRET)), base_url=PLACE)


@pytest.mark.security("MLflow: nothing without the token of the workspace")
@pytest.mark.parametrize("user", [None, ("troupe", ""), ("troupe", SECRET[:-1]), ("other", SECRET), ("troupe", SECRET)])
def test_without_the_token_nothing_is_answered(user: tuple[str, str] | None) -> None:
    right = user == ("troupe", SECRET)
    for method in ("GET", "POST"):
        answer = guarded().request(method, "/", auth=user)
        assert (answer.status_code, answer.text == "changed") == (200 if right else 401, right)
    assert guarded().get("/health").status_code == 404, "there is none, but the question is answered"
    with pytest.raises(WebSocketDisconnect), guarded().websocket_connect(SOCKET):
        pass


@pytest.mark.security("a browser that comes with the token is admitted by a cookie that is not the token")
def test_a_browser_comes_in_by_the_address_that_is_printed() -> None:
    client = guarded()
    assert client.get(with_token(PLACE, SECRET[1:])).status_code == 401
    assert not client.cookies
    page = client.get(with_token(PLACE, SECRET))
    assert "location.replace(location.pathname" in page.text
    assert "localStorage" not in page.text, "only Prefect's own pages need what lies there"
    prefect = TestClient(Admission(APP, SECRET, stored=True), base_url=PLACE)
    assert 'localStorage.setItem("prefect-password"' in prefect.get(with_token(PLACE, SECRET)).text
    [cookie] = page.headers.get_list("set-cookie")
    assert re.fullmatch(r"troupe-\w{8}=\w{64}; HttpOnly; Path=/; SameSite=strict", cookie)
    assert client.post("/").text == "changed"
    with client.websocket_connect(SOCKET):
        pass
    assert client.post("/", headers={"Origin": "http://127.0.0.1:8888"}).status_code == 403, "another program's page"
    other = guarded()
    other.cookies.set(cookie.partition("=")[0], "0" * 64)
    assert other.get("/").status_code == 401


@pytest.mark.security("the token: one for a workspace, in a file for its user alone")
def test_the_token_is_made_once_and_its_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = os.umask(0)
    try:
        with ThreadPool(8) as pool:
            [made] = set(pool.map(lambda _: token(), range(8)))
    finally:
        os.umask(before)
    assert len(made) >= 40
    assert TOKEN.stat().st_mode & 0o777 == 0o600
    TOKEN.chmod(0o644)
    assert token() == made
    assert TOKEN.stat().st_mode & 0o777 == 0o600
    TOKEN.write_text("")  # cut short
    assert token() not in ("", made)
