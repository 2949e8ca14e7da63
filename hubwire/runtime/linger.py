"""Says a last word on a socket and hangs up so that the peer gets to read it.

Closing a socket while bytes of the peer are unread makes the kernel reset the connection, and the peer
may lose what it was sent last. So the end of our data is sent first, and what still comes is read and
forgotten until the peer closes too, for a short time.
"""

from __future__ import annotations

import asyncio

LINGER_SECONDS = 2.0
FORGET_BYTES = 4096
MAX_FORGOTTEN_BYTES = 4 * 1024 * 1024
"""Who goes on sending at full speed is not read for the whole of that time."""


class _Forget(asyncio.BufferedProtocol):
    __slots__ = ("_buffer", "_left", "_timer", "_transport")

    def __init__(self, transport: asyncio.Transport, timer: asyncio.TimerHandle) -> None:
        self._buffer = memoryview(bytearray(FORGET_BYTES))
        self._left = MAX_FORGOTTEN_BYTES
        self._timer = timer
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._left -= nbytes
        if self._left < 0:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Never called. uvloop keeps the `data_received` of the protocol before if there is no other."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()


def say_last(transport: asyncio.Transport, data: bytes) -> None:
    """Write `data` and the end of the stream, then hang up: when the peer does, at most after a while."""
    timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, transport.abort)
    transport.set_protocol(_Forget(transport, timer))
    transport.write(data)
    if not transport.is_closing():  # the write can have failed
        transport.write_eof()
        transport.resume_reading()
