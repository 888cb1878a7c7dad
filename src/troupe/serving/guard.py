"""Who may ask. On loopback: programs of this machine, no foreign web page (its Origin) and nobody who calls this
machine by a foreign name (its Host: DNS rebinding). Elsewhere: who has the token."""

import hmac
import ipaddress

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from troupe.serving.faults import Refusal

LOCAL_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
MOST_BYTES = 2**20  # of a request
TOO_LARGE = f"a request must not be larger than {MOST_BYTES} bytes"
OPEN = ("/", "/page.js", "/health")  # the page itself, which then asks for the token, and whether the server lives


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """ASGI middleware: refuses foreign origins (403), requests without the token, if there is one (401), and bodies
    beyond `MOST_BYTES` (413)."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._check(scope, Headers(scope=scope))
        except Refusal as refusal:
            await refusal.response(scope["path"])(scope, receive, send)
            return
        await self.app(scope, _limited(receive), send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is not None and origin != f"{scope['scheme']}://{headers.get('host')}":
            raise Refusal(403, "another web page asks; only this server's own page and programs may")
        if self.token is not None and scope["path"] not in OPEN and not _has(headers, self.token):
            challenge = {"WWW-Authenticate": "Bearer"}
            raise Refusal(401, "the bearer token is missing or wrong", code="invalid_api_key", headers=challenge)
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MOST_BYTES:
            raise Refusal(413, TOO_LARGE)


def _has(headers: Headers, token: str) -> bool:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


def _limited(receive: Receive) -> Receive:
    """For a body that does not say how long it is."""
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MOST_BYTES:
            raise HTTPException(413, TOO_LARGE)
        return message

    return limited
