"""What all connections of one event loop share."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from gateway.transport import WebSocketPeer

READ_BYTES = 64 * 1024

log = structlog.get_logger(__name__)


class Flusher:
    """What all connections of one event loop share: the list of those that have something to send in
    this turn, and the buffer that their sockets are read into, one at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._dirty: list[WebSocketPeer] = []
        self.read_buffer = memoryview(bytearray(READ_BYTES))

    def add(self, peer: WebSocketPeer) -> None:
        if not self._dirty:
            self._loop.call_soon(self.flush)
        self._dirty.append(peer)

    def flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for peer in dirty:
            try:
                peer.flush()
            except Exception:  # one broken socket must not silence those behind it in the list
                log.exception("flush_failed")
                peer.cut("ServiceTransientError")
