"""The accept side: reads the head of each request and decides who answers it (DESIGN.md section 6).

A client endpoint is checked here and its socket handed over to the WebSocket library; everything else
goes, with the bytes already read, to the HTTP server behind (REST, when it is served on the same port).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from typing import cast

import structlog

from gateway.handshake import Refusal, is_client_path
from gateway.http_head import MAX_HEAD_BYTES, BadHead, Head, parse_head, path_of
from hubwire.runtime.limits import Reserve, max_plain_sockets
from hubwire.runtime.linger import say_last
from hubwire.runtime.plain_http import HEAD_SECONDS, HttpFactory

log = structlog.get_logger(__name__)

MAX_EARLY_BYTES = 64 * 1024
"""What a client may send behind its head before it is answered; more is not read until then."""

Decide = Callable[["Front", Head], Awaitable[Refusal | None]]
"""Decides on a client endpoint: a refusal to write, or None when the socket was handed over."""


class Undecided:
    """The accepted sockets that are not decided upon, in their order. Over `most` of them the oldest that
    still owes its head is dropped, so that silent ones keep nobody out."""

    def __init__(self) -> None:
        self._fronts: dict[Front, None] = {}
        self._reserve = Reserve()
        self.most = max_plain_sockets()

    def __len__(self) -> int:
        return len(self._fronts)

    def __iter__(self) -> Iterator[Front]:
        return iter([*self._fronts])

    def add(self, front: Front) -> bool:
        """False when there is no room; the socket has to be closed then."""
        if not self._reserve.admits(front.transport):
            return False
        if len(self._fronts) >= self.most:
            oldest = next((one for one in self._fronts if not one.deciding), None)
            if oldest is None:
                return False
            self.discard(oldest)
            oldest.transport.abort()
        self._fronts[front] = None
        return True

    def discard(self, front: Front) -> None:
        self._fronts.pop(front, None)


class Front(asyncio.Protocol):
    """One accepted socket, until it is handed over or refused."""

    __slots__ = ("_buffer", "_decide", "_http", "_owner", "_paused", "_task", "_timer", "lost", "transport")

    def __init__(self, owner: Undecided, decide: Decide, http: HttpFactory | None) -> None:
        self._owner = owner
        self._decide = decide
        self._http = http
        self._buffer = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._paused = False
        self.lost = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's does not derive from it
        if not self._owner.add(self):
            self._refuse(Refusal(503, "Too many connections.", (("Retry-After", "5"),)))
            return
        self._timer = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._too_late)

    @property
    def deciding(self) -> bool:
        return self._task is not None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._task is not None:
            if len(self._buffer) > MAX_EARLY_BYTES:
                self._paused = True
                self.transport.pause_reading()
            return
        if self._buffer.startswith((b"\r", b"\n")):  # RFC 9112, 2.2
            self._buffer = self._buffer.lstrip(b"\r\n")
        end = self._buffer.find(b"\r\n\r\n")
        line_end = self._buffer.find(b"\r\n")
        # Requests that are not for a client endpoint need not be complete to be passed on.
        if line_end >= 0 or len(self._buffer) > MAX_HEAD_BYTES:
            line = bytes(self._buffer[:line_end] if line_end >= 0 else self._buffer)
            if self._http is not None and not self.wants(line):
                self._pass_on()
                return
        if end < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                self._refuse(Refusal(431, f"The head of a request is limited to {MAX_HEAD_BYTES} bytes."))
            return
        if end > MAX_HEAD_BYTES:
            self._refuse(Refusal(431, f"The head of a request is limited to {MAX_HEAD_BYTES} bytes."))
            return
        try:
            head = parse_head(bytes(self._buffer[:end]))
        except BadHead as error:
            self._refuse(Refusal(400, str(error)))
            return
        del self._buffer[: end + 4]
        if not is_client_path(head.path):
            refusal = Refusal(404, "Only client endpoints are served here: /client/hubs/HUB.")
            self._refuse(refusal, head.method)
            return
        self._stop_timer()
        self._task = asyncio.create_task(self._answer(head))

    def wants(self, line: bytes) -> bool:
        """Whether a request is for a client endpoint, by its first line."""
        parts = line.split(b" ", 2)
        return len(parts) > 1 and is_client_path(path_of(parts[1].decode("latin-1")))

    def take_back(self, transport: asyncio.Transport, data: bytes) -> None:
        """The socket comes back from the HTTP server with a request for a client endpoint."""
        transport.set_protocol(self)
        self.connection_made(transport)
        if not transport.is_closing():
            self.data_received(data)

    async def _answer(self, head: Head) -> None:
        try:
            refusal = await self._decide(self, head)
        except Exception:
            log.exception("handshake_failed")
            refusal = Refusal(500, "Internal error.")
        if refusal is not None:
            self._refuse(refusal, head.method)
        self._leave()
        self._task = None

    def take_socket(self) -> tuple[asyncio.Transport, bytes]:
        """Give up the socket, and what came behind the head, to who takes it over."""
        self._leave()
        rest = bytes(self._buffer)
        self._buffer.clear()
        if self._paused:
            self.transport.resume_reading()
        return self.transport, rest

    def _pass_on(self) -> None:
        assert self._http is not None
        self._leave()
        protocol = self._http(self)
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        protocol.data_received(bytes(self._buffer))
        self._buffer.clear()

    def _refuse(self, refusal: Refusal, method: str = "") -> None:
        self._leave()
        if self.lost or self.transport.is_closing():
            return
        body, content_type = refusal.body, refusal.content_type
        if body is None:
            body, content_type = (refusal.text + "\n").encode("utf-8", "replace"), "text/plain; charset=utf-8"
        try:
            phrase = HTTPStatus(refusal.status).phrase
        except ValueError:
            phrase = "Refused"
        lines = [
            f"HTTP/1.1 {refusal.status} {phrase}",
            *([f"Content-Type: {content_type}"] if content_type else []),
            f"Content-Length: {len(body)}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in refusal.headers),
        ]
        if method == "HEAD":
            body = b""  # but for its length
        say_last(self.transport, "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body)

    def _too_late(self) -> None:
        # Neither a slow writer nor an idle socket may keep a place for long.
        self._refuse(Refusal(408, "The request did not arrive in time."))

    def _leave(self) -> None:
        self._owner.discard(self)
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._leave()
        if self._task is not None:
            self._task.cancel()  # nobody waits for the decision any more
