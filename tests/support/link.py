"""One connection of the gateway on a real TCP socket, without a bus: its far end in the test's hands."""

from __future__ import annotations

import asyncio
import socket
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
import uvloop
from support.stack import Raw, until

from gateway.bounds import Bounds
from gateway.connection import SEND_EVENT, Connection, Mode
from gateway.flusher import Flusher
from gateway.protocol.json_v1 import JSON_V1
from gateway.transport import WebSocketPeer
from gateway.upgrade import hand_over
from hubwire.model.permissions import PermissionSet
from hubwire.runtime.tls_transport import TlsEdge, TlsTransport

KEY = b64encode(b"0123456789abcdef").decode()
ALL = ("webpubsub.joinLeaveGroup", "webpubsub.sendToGroup")
both_loops = pytest.mark.parametrize(
    "loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


def run(loop: Callable[[], asyncio.AbstractEventLoop], test: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(test, 60))


class Executor:
    """Notes what a connection asks for, and has it done when the test says so, or at once."""

    def __init__(self, at_once: bool = False) -> None:
        self.at_once = at_once
        self.asked: list[tuple[str, Any]] = []
        self.pending: list[Any] = []
        self.ends: list[str] = []
        self.reasons: list[str | None] = []

    def _ask(self, what: str, about: Any, done: Any) -> None:
        self.asked.append((what, about))
        if self.at_once:
            done(None)
        else:
            self.pending.append(done)

    def publish(self, _connection: Connection, request: Any, done: Any) -> None:
        self._ask("publish", request.data, done)

    def join(self, _connection: Connection, group: str, done: Any) -> None:
        self._ask("join", group, done)

    def leave(self, _connection: Connection, group: str, done: Any) -> None:
        self._ask("leave", group, done)

    def event(self, _connection: Connection, request: Any, done: Any) -> None:
        self._ask("event", request.data, done)

    def registered(self, _connection: Connection) -> None:
        self.asked.append(("registered", None))

    def ended(self, _connection: Connection, category: str, reason: str | None) -> None:
        self.ends.append(category)
        self.reasons.append(reason)

    @property
    def requests(self) -> list[tuple[str, Any]]:
        return [one for one in self.asked if one[0] != "registered"]

    def finish(self, error: Any = None, *, which: int = 0) -> None:
        self.pending.pop(which)(error)


class Tls(NamedTuple):
    """Both ends of a link over TLS, for the name localhost."""

    server: ssl.SSLContext
    client: ssl.SSLContext


async def tcp_pair(receive_buffer: int = 0, send_buffer: int = 0) -> tuple[socket.socket, socket.socket]:
    """Our end and the client's."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        far = socket.socket()
        if receive_buffer:
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        far.connect(listener.getsockname())
        near, _ = listener.accept()
    if send_buffer:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    near.setblocking(False)
    far.setblocking(False)
    return near, far


@asynccontextmanager
async def linked(
    peer: WebSocketPeer,
    *,
    rest: bytes = b"",
    receive_buffer: int = 0,
    send_buffer: int = 0,
    tls: Tls | None = None,
) -> AsyncIterator[Raw]:
    """`peer` handed the one end of a connection; the other end, behind its 101."""
    near, far = await tcp_pair(receive_buffer, send_buffer)
    loop = asyncio.get_running_loop()
    limit = max(receive_buffer, 4096)
    if tls is None:
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
        hand_over(transport, peer, KEY, None, rest)
        raw = Raw(*await asyncio.open_connection(sock=far, limit=limit))
    else:
        wrapped = TlsTransport(TlsEdge(lambda: tls.server), asyncio.Protocol())
        await loop.create_connection(lambda: wrapped, sock=near)
        raw = Raw(
            *await asyncio.open_connection(sock=far, limit=limit, ssl=tls.client, server_hostname="localhost")
        )
        await until(lambda: wrapped.opened)  # TLS 1.3: the client is done before us
        hand_over(wrapped, peer, KEY, None, rest)
    try:
        assert (await raw.head())[0] == 101
        yield raw
    finally:
        raw.close()
        peer.abort()
        await until(lambda: peer.finished)


def new_connection(
    executor: Executor,
    *,
    codec: Any = JSON_V1,
    roles: Sequence[str] = ALL,
    mode: Mode = SEND_EVENT,
    outbox_limit: int = 1_000_000,
    flusher: Flusher | None = None,
) -> Connection:
    return Connection(
        "id",
        "chat",
        "user",
        codec,
        PermissionSet.from_roles(roles),
        set(),
        mode,
        executor=executor,
        flusher=flusher or Flusher(asyncio.get_running_loop()),
        bounds=Bounds(outbox_bytes=outbox_limit),
    )
