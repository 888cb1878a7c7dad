"""Servers on loopback: for who has the workspace's token, and for nothing that a foreign web page has sent.

A page that the user's browser shows can send requests to 127.0.0.1, as a form or under a name of its own that comes to
mean 127.0.0.1 (DNS rebinding). Every user of this machine can send them.
"""

import hmac
import urllib.parse
from collections.abc import Mapping, Sequence
from hashlib import sha256

from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from troupe.credentials import QUERY, USER, base64, basic

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
ASKED_FOR = (
    f"this server asks for the token of its workspace: `make address` prints the address that has it; programs send it "
    f"as the password of the user {USER}"
)
# Prefect's pages send what lies there as their credentials; their own form for it would have to be filled in by hand.
STORE = 'localStorage.setItem("prefect-password", "{credentials}");'
PAGE = """<!doctype html><meta charset="utf-8"><title>troupe</title><script>
{store}
location.replace(location.pathname + location.hash);
</script><noscript>The pages of this server need JavaScript.</noscript>"""


class OwnPagesOnly:
    """ASGI middleware: 403 for a request, or a websocket, under a foreign Host or from a page of a foreign Origin.

    Programs send no Origin. Browsers send it with everything that could change something, and "null" for what is none.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not (reason := _foreign(scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
        else:
            await PlainTextResponse(reason, status_code=403)(scope, receive, send)


class Admission:
    """ASGI middleware: a browser that comes with the token in its address is admitted.

    It gets a cookie that is not the token (`Admitted` takes it), until it is closed, for all servers of the workspace,
    for cookies know no ports; and, if `stored`, the credentials that Prefect's own pages send, which its storage keeps.
    The address without the token follows.
    """

    def __init__(self, app: ASGIApp, secret: str, stored: bool = False) -> None:
        self._app, self._secret, self._stored = app, secret, stored

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = _given(scope) if scope["type"] == "http" and (scope["method"], scope["path"]) == ("GET", "/") else None
        if given is None:
            await self._app(scope, receive, send)
            return
        await self._answer(given)(scope, receive, send)

    def _answer(self, given: str) -> Response:
        if not _equal(given, self._secret):
            return PlainTextResponse("this is not, or no longer, the token; `make address` prints it", status_code=401)
        store = STORE.format(credentials=base64(f"{USER}:{self._secret}")) if self._stored else ""
        page = PAGE.format(store=store)
        answer = HTMLResponse(page, headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
        name, value = _cookie(self._secret)
        answer.set_cookie(name, value, httponly=True, samesite="strict")
        return answer


class Admitted:
    """ASGI middleware: 401 for a request without the token, as a password, and without the cookie of `Admission`.

    Requests for one of the paths in `free` are answered all the same.
    """

    def __init__(self, app: ASGIApp, secret: str, free: Sequence[str]) -> None:
        self._app, self._secret, self._free = app, secret, free

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in self._free or self._has_it(HTTPConnection(scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "the token is missing"})
        else:
            challenge = {"WWW-Authenticate": f'Basic realm="{USER}"'}
            await PlainTextResponse(ASKED_FOR, status_code=401, headers=challenge)(scope, receive, send)

    def _has_it(self, request: HTTPConnection) -> bool:
        name, value = _cookie(self._secret)
        by_password = _equal(request.headers.get("authorization", ""), basic(USER, self._secret))
        return by_password or _equal(request.cookies.get(name, ""), value)


def _foreign(scope: Scope) -> str:
    """Why a request is refused; "" if it is not."""
    headers: Mapping[str, str] = HTTPConnection(scope).headers
    ours = {f"{name}:{scope['server'][1]}" for name in NAMES}
    if headers.get("host") not in ours:
        return "this server answers requests to 127.0.0.1 and localhost only"
    origin = headers.get("origin")
    if origin is not None and origin.removeprefix("http://") not in ours:
        return "this server answers its own pages only"
    return ""


def _given(scope: Scope) -> str | None:
    """The token in an address, right or wrong."""
    found = urllib.parse.parse_qs(scope["query_string"].decode("latin-1")).get(QUERY)
    return found[0] if found else None


def _cookie(secret: str) -> tuple[str, str]:
    """Name and value. The name is another one for another workspace, whose servers share the host with ours."""
    name = f"troupe-{sha256(secret.encode()).hexdigest()[:8]}"
    return name, hmac.new(secret.encode(), b"cookie", sha256).hexdigest()


def _equal(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())
