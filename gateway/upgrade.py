"""Hands an accepted socket over to picows: the one place that uses its `WSProtocol`.

Its constructor is not public API (DESIGN.md section 6): picows is pinned, and
tests/unit/test_pinned_contracts.py checks what we rely on. The way out is our own RFC 6455 parser.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from picows import WSUpgradeResponse, WSUpgradeResponseWithListener
from picows.picows import WSAutoPingStrategy, WSProtocol  # type: ignore[attr-defined]

from gateway.transport import WebSocketPeer
from hubwire.model.limits import MAX_MESSAGE_BYTES

PARSER_BYTES = 2048
"""The first size of a parser's buffer, and picows' least: it is most of an idle connection."""

_ANY_KEY = "AAAAAAAAAAAAAAAAAAAAAA=="
_silent = logging.getLogger("hubwire.picows")
_silent.setLevel(logging.CRITICAL + 1)
# An adapter, since picows makes a child logger per connection from a plain one.
_logger: logging.LoggerAdapter[logging.Logger] = logging.LoggerAdapter(_silent)


def hand_over(
    transport: asyncio.Transport, peer: WebSocketPeer, key: str, subprotocol: str | None, rest: bytes
) -> None:
    """Answer 101 and make `peer` the receiver of all that follows; `rest` is what came after the head."""
    wire = Wire(transport, peer)
    transport.set_write_buffer_limits(high=0)
    transport.set_protocol(wire)
    wire.upgrade(key, subprotocol)
    peer.connected(transport)
    if rest:
        wire.feed(memoryview(rest))


class Wire(asyncio.BufferedProtocol):
    """Between one socket and picows' parser, which takes it for its transport.

    picows alone would double its read buffer whenever it is nearly full and never give it back, so a
    client that sends one large message, or small ones fast, would hold megabytes for as long as it
    stays. Here sockets are read into one shared buffer, the parser gets pieces that leave room, and
    after a large frame a new parser takes its place.

    On a frame that breaks the standard picows writes a close frame, goes on parsing, also what it just
    refused for its size, and hangs up a moment later. Here its close frame is the news of the violation:
    the parser is dropped, and the peer closes in its own way.
    """

    __slots__ = ("_answered", "_parser", "_peer", "_shared", "_upgrading", "large", "tail", "transport")

    def __init__(self, transport: asyncio.Transport, peer: WebSocketPeer) -> None:
        self.transport = transport
        self._peer = peer
        self._shared = peer.flusher.read_buffer
        self._parser: Any = None
        self._upgrading = False
        self._answered = False
        # Set by the peer at each frame: the bytes behind it, and whether one was large.
        self.tail = 0
        self.large = False

    def upgrade(self, key: str, subprotocol: str | None) -> None:
        """Let picows write the 101. It parses the request itself; it gets the few lines that it needs, so
        that it does not keep a token of many kilobytes. The caller has checked the real ones."""
        headers = {"Sec-WebSocket-Protocol": subprotocol} if subprotocol is not None else None
        response = WSUpgradeResponse.create_101_response(headers)
        peer = self._peer
        self._parser = WSProtocol(
            None,
            None,
            False,  # server side
            lambda _request: WSUpgradeResponseWithListener(response, peer),
            _logger,
            True,  # disconnect on an exception of the listener
            None,  # no handshake timeout: the head is here
            False,  # we ping ourselves (gateway.keepalive)
            10,
            10,
            WSAutoPingStrategy.PING_WHEN_IDLE,
            False,  # and answer pings ourselves, in order with the rest
            MAX_MESSAGE_BYTES,
            None,
            PARSER_BYTES,
        )
        self._upgrading = True
        self._parser.connection_made(self)
        self.feed(
            memoryview(
                b"GET / HTTP/1.1\r\nHost: hubwire\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key.encode("ascii") + b"\r\n\r\n"
            )
        )
        self._upgrading = False
        self._answered = True

    def feed(self, data: memoryview) -> None:
        """Have bytes of the client parsed, and the peer called for each frame in them."""
        while data and self._parser is not None:
            parser = self._parser
            room = parser.get_buffer(-1)
            # A quarter of what is free stays so, or picows would take it for full.
            size = min(len(data), len(room) - len(room) // 4)
            room[:size] = data[:size]
            del room
            parser.buffer_updated(size)
            if self.large:
                self.large = False
                if self._parser is parser:
                    self._renew(bytes(data[size - self.tail : size]))
            data = data[size:]

    def _renew(self, begun: bytes) -> None:
        """A parser with a small buffer, in the same state: `begun` is the start of the next frame."""
        self.upgrade(_ANY_KEY, None)
        self.feed(memoryview(begun))

    # -- what the socket calls -----------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._shared

    def buffer_updated(self, nbytes: int) -> None:
        self._peer.silent = 0
        self.feed(self._shared[:nbytes])

    def data_received(self, data: bytes) -> None:
        """Never called. uvloop keeps the `data_received` of the protocol before if there is no other."""

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._parser = None
        self._peer.lost()

    def pause_writing(self) -> None:
        """The peer sees by itself that the kernel did not take everything."""

    def resume_writing(self) -> None:
        self._peer.resume_writing()

    # -- what picows calls ---------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.transport.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        return 1  # or picows would write to the socket past us

    def write(self, data: bytes) -> None:
        if self._upgrading:
            if not self._answered:
                self.transport.write(data)
        elif self._parser is not None:
            self._parser = None
            code = int.from_bytes(data[2:4], "big")
            text = f"Messages are limited to {MAX_MESSAGE_BYTES} bytes." if code == 1009 else ""
            self._peer.violated(code, text or bytes(data[4:]).decode("utf-8", "replace"))

    def close(self) -> None:
        """picows hangs up after a violation; the peer does so itself."""

    abort = close
