"""A server on loopback answers its own pages and programs of this machine, and nothing that another page has sent."""

from collections.abc import Mapping

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")


class OwnPagesOnly:
    """ASGI middleware: 403 for a request, or a websocket, under a foreign Host or from a page of a foreign Origin.

    Programs send no Origin. Browsers send it with everything that could change something, and "null" for what is none.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}" for name in NAMES}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (reason := self._refusal(HTTPConnection(scope).headers)):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": reason})
                return
            await PlainTextResponse(reason, status_code=403)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, headers: Mapping[str, str]) -> str:
        if headers.get("host") not in self._hosts:
            return "this server answers requests to 127.0.0.1 and localhost only"
        origin = headers.get("origin")
        if origin is not None and origin.removeprefix("http://") not in self._hosts:
            return "this server answers its own pages only"
        return ""
