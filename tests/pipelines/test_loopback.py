"""Who may talk to a server on loopback."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from pipelines.loopback import OwnPagesOnly


async def changed(_: object) -> PlainTextResponse:
    return PlainTextResponse("changed")


async def talk(socket: WebSocket) -> None:
    await socket.accept()
    await socket.close()


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
    client = TestClient(OwnPagesOnly(APP, 4200))
    for method in ("GET", "POST"):
        answer = client.request(method, "/", headers=headers)
        assert (answer.status_code, answer.text == "changed") == (200 if taken else 403, taken)
    if taken:
        with client.websocket_connect("/ws", headers=headers):
            pass
    else:
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws", headers=headers):
            pass
