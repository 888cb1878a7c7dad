#!/usr/bin/env bash
# uvicorn takes whatever socket it is given by --fd for a Unix one, a TCP socket too; asyncio then does not switch Nagle's
# algorithm off for its connections, and parts of a streamed answer wait for the acknowledgement of the part before.
#
# Where: uvicorn 0.54.0, uvicorn/server.py, startup(): socket.fromfd(config.fd, socket.AF_UNIX, socket.SOCK_STREAM);
#   CPython's asyncio/base_events.py, _set_nodelay(): only where sock.family is AF_INET or AF_INET6.
# Seen: a connection of `--fd` has the family AF_UNIX and TCP_NODELAY off, one of `--port` AF_INET and on. Of an answer in
#   three small parts, sent at once, the last arrives 43 ms after the first (--fd) and 0.2 ms after it (--port), medians.
# Why it matters: --fd is how systemd, circus and supervisors hand a listening socket over; a server that streams tokens
#   then stutters, and only there.
# Way out: set TCP_NODELAY on the listening socket (Linux hands it on to what it accepts), or pass the socket in Python:
#   uvicorn.Server(config).run(sockets=[socket.socket(fileno=fd)]).
#
# Exits with 0 while uvicorn behaves so, with 1 when it does not any more.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'uvicorn==0.54.0' 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import socket
import statistics
import sys
import threading
import time

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

PARTS = (b"first", b"second", b"last")


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for part in PARTS:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def look(**place):
    """The family and TCP_NODELAY of a connection, and milliseconds from the first to the last part of an answer."""
    seen = []

    class Protocol(H11Protocol):
        def connection_made(self, transport):
            one = transport.get_extra_info("socket")
            seen.append((one.family.name, bool(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))))
            super().connection_made(transport)

    how = {"http": Protocol, "log_level": "warning", "lifespan": "off", "loop": "asyncio"}
    server = uvicorn.Server(uvicorn.Config(app, **how, **place))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    times = []
    with socket.create_connection(server.servers[0].sockets[0].getsockname()) as client:
        for _ in range(30):
            client.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            answer, first = b"", 0.0
            while b"last" not in answer:
                answer += client.recv(10_000)
                first = first or time.perf_counter()
            times.append(1000 * (time.perf_counter() - first))
            while not answer.endswith(b"0\r\n\r\n"):
                answer += client.recv(10_000)
    server.should_exit = True
    thread.join()
    return *seen[0], statistics.median(times)


with socket.create_server(("127.0.0.1", 0)) as listener:
    by_fd = look(fd=listener.fileno())
by_port = look(port=0)
for name, (family, no_delay, milliseconds) in (("--fd", by_fd), ("--port", by_port)):
    print(f"uvicorn {uvicorn.__version__} {name:6}: {family}, TCP_NODELAY {no_delay}, last part after {milliseconds:.1f} ms")
sys.exit(0 if not by_fd[1] and by_port[1] else 1)
PYTHON
