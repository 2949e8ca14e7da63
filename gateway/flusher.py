"""What all connections of one event loop share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
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
        """`peer.turn` is to be written at the end of this turn."""
        self.adder()(peer)

    def adder(self) -> Callable[[WebSocketPeer], None]:
        """`add` for the rest of this turn, as one call for each of many peers."""
        if not self._dirty:
            self._loop.call_soon(self.flush)
        return self._dirty.append

    def flush(self) -> None:
        """Write what this turn gathered: of each peer in one write."""
        dirty, self._dirty = self._dirty, []
        write = os.write
        for peer in dirty:
            try:
                data = peer.turn
                # Nearly always one frame for a socket that takes it: done here, without calls of ours for
                # each peer.
                if type(data) is bytes and peer.direct >= 0:
                    peer.turn = None
                    try:
                        written = write(peer.direct, data)
                    except BlockingIOError:
                        written = 0
                    if written != len(data):
                        peer.write(data[written:])
                else:
                    peer.flush()
            except OSError:
                peer.broken()
            except Exception:  # one broken socket must not silence those behind it in the list
                log.exception("flush_failed")
                peer.cut("ServiceTransientError")
