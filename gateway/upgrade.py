"""Hands an accepted socket over to picows: the one place that uses its `WSProtocol` constructor.

The constructor is not public API (DESIGN.md section 6): picows is pinned, and
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

READ_BUFFER_BYTES = 2048
"""The first size of a connection's read buffer, and picows' least: it is most of an idle connection."""

_silent = logging.getLogger("hubwire.picows")
_silent.setLevel(logging.CRITICAL + 1)
# An adapter, since picows makes a child logger per connection from a plain one.
_logger: logging.LoggerAdapter[logging.Logger] = logging.LoggerAdapter(_silent)


def hand_over(
    transport: asyncio.Transport, peer: WebSocketPeer, key: str, subprotocol: str | None, rest: bytes
) -> None:
    """Answer 101 and make `peer` the receiver of all that follows; `rest` is what came after the head.

    picows parses the request itself; it gets the few lines that it needs, so that it does not keep a
    token of many kilobytes for the life of the connection. The caller has checked the real one.
    """
    headers = {"Sec-WebSocket-Protocol": subprotocol} if subprotocol is not None else None
    response = WSUpgradeResponse.create_101_response(headers)
    protocol: Any = WSProtocol(
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
        READ_BUFFER_BYTES,
    )
    transport.set_write_buffer_limits(high=0)
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    _feed(
        protocol,
        b"GET / HTTP/1.1\r\nHost: hubwire\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key.encode("ascii") + b"\r\n\r\n",
    )
    if rest and not transport.is_closing():
        _feed(protocol, rest)


def _feed(protocol: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:
        buffer = protocol.get_buffer(-1)
        size = min(len(view), len(buffer))
        buffer[:size] = view[:size]
        del buffer
        protocol.buffer_updated(size)
        view = view[size:]
