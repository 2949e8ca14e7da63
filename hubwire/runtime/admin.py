"""The admin listener of a process: what Prometheus, Kubernetes and operators ask of it over HTTP.

    GET /metrics     for Prometheus
    GET /livez       200 while the event loop turns; a process that does not answer has to be killed
    GET /readyz      200 when the process may get traffic; else 503 with the reasons, one a line
    GET /startupz    200 once it has served for the first time

It listens apart from clients' traffic, on the loopback address unless told otherwise, and asks for no
credentials: whoever can reach the port may read the numbers. No metric has an id, a user or a payload in it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import NamedTuple, cast

import structlog

from hubwire.runtime.health import Health

log = structlog.get_logger(__name__)

MAX_CONNECTIONS = 64
"""More are not taken: a scraper and a kubelet need two."""
MAX_HEAD_BYTES = 16 * 1024
IDLE_SECONDS = 90.0
"""How long a connection may say nothing; Prometheus scrapes once a minute or more often."""

TEXT = "text/plain; charset=utf-8"


class Answer(NamedTuple):
    status: int
    body: bytes
    content_type: str = TEXT


Page = Callable[[str], Answer]
"""Makes an answer; given the Accept header."""


def health_pages(health: Health) -> dict[str, Page]:
    """/livez, /readyz and /startupz."""

    def ready(_accept: str) -> Answer:
        problems = health.problems()
        return _lines(503, *problems) if problems else _lines(200, "ready")

    def started(_accept: str) -> Answer:
        return _lines(200, "started") if health.started else _lines(503, *health.problems())

    return {"/livez": lambda _accept: _lines(200, "alive"), "/readyz": ready, "/startupz": started}


def _lines(status: int, *lines: str) -> Answer:
    return Answer(status, "".join(line + "\n" for line in lines).encode())


@asynccontextmanager
async def admin_listener(listener: socket.socket, pages: Mapping[str, Page]) -> AsyncIterator[None]:
    """Serve these pages on a bound socket, which is closed at the end."""
    loop = asyncio.get_running_loop()
    open_now: set[_Requests] = set()
    server = await loop.create_server(lambda: _Requests(pages, open_now), sock=listener, backlog=16)
    try:
        yield
    finally:
        server.close()
        for one in [*open_now]:
            one.hang_up()


class _Requests(asyncio.Protocol):
    """One connection: small requests without a body, answered in their order."""

    def __init__(self, pages: Mapping[str, Page], open_now: set[_Requests]) -> None:
        self._pages = pages
        self._open_now = open_now
        self._buffer = bytearray()
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if len(self._open_now) >= MAX_CONNECTIONS:
            self._transport.abort()
            return
        self._open_now.add(self)
        self._wait()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.hang_up)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while not self._transport.is_closing():
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > MAX_HEAD_BYTES:
                    self._answer(_lines(431, "The head of the request is too long."), close=True)
                return
            head = self._buffer[:end].decode("latin-1")
            del self._buffer[: end + 4]
            self._request(head)
            self._wait()

    def _request(self, head: str) -> None:
        line, *rest = head.split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (h.partition(":") for h in rest)}
        words = line.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            self._answer(_lines(400, "This is no HTTP request."), close=True)
            return
        method, target, version = words
        close = version == "HTTP/1.0" or headers.get("connection", "").lower() == "close"
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            self._answer(_lines(413, "Requests have no body here."), close=True)
            return
        page = self._pages.get(target.partition("?")[0])
        if page is None:
            answer = _lines(404, f"There is {', '.join(self._pages)}.")
        elif method not in ("GET", "HEAD"):
            answer = _lines(405, "Only GET and HEAD.")
        else:
            try:
                answer = page(headers.get("accept", ""))
            except Exception:
                log.exception("admin_request_failed", path=target[:100])
                answer = _lines(500, "Internal error.")
        self._answer(answer, close=close, only_head=method == "HEAD")

    def _answer(self, answer: Answer, *, close: bool, only_head: bool = False) -> None:
        lines = (
            f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
            f"Content-Type: {answer.content_type}",
            f"Content-Length: {len(answer.body)}",
            f"Connection: {'close' if close else 'keep-alive'}",
            *(("Allow: GET, HEAD",) if answer.status == 405 else ()),
        )
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        self._transport.write(head if only_head else head + answer.body)
        if close:
            self._transport.close()

    def hang_up(self) -> None:
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open_now.discard(self)
        if self._timer is not None:
            self._timer.cancel()
