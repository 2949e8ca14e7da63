"""TLS on an accepted socket, between its transport and the protocol that does not want to know of it.

Not the event loop's own TLS, for four reasons. uvloop's keeps 256 KiB for each connection; here sockets
are read into one shared buffer. It does not say how much the kernel has not taken, which the bound of an
outbox needs. It cannot end its data before the peer does, so a last word could be lost. And it cannot
answer who speaks plain HTTP. (docs/decisions/0031-tls-below-the-protocols.md)

The protocol above is told of the connection when it is accepted, so its deadline for a first request, and
its bound on such sockets, are those of the handshake too.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from typing import Any, cast

from hubwire.runtime.linger import MAX_FORGOTTEN_BYTES, say_last

READ_BYTES = 64 * 1024
RECORD_BYTES = 16 * 1024
"""The most that one record of TLS carries (RFC 8446, 5.1)."""
LINGER_SECONDS = 2.0
"""How long the peer has to close after us, once the kernel has taken all."""
FLUSH_SECONDS = 30.0
"""How long the kernel has to take what was written before a close."""
_HANDSHAKE = 22  # the first byte of what a TLS client sends

_NOBODY = asyncio.Protocol()
"""Has the place of a protocol that has been told of the end."""
_PLAIN_ANSWER = b"This port speaks TLS: use https:// or wss://.\n"


class TlsTally:
    """What the accepted sockets of one process came to."""

    def __init__(self) -> None:
        self.done = 0
        self.failed = 0
        """The two could not agree, or it was not TLS."""
        self.plain = 0
        """It was plain HTTP."""


class TlsEdge:
    """What all TLS connections of one listener share. `context` is asked for at each new one, so that a
    certificate can be replaced under way."""

    def __init__(self, context: Callable[[], ssl.SSLContext], tally: TlsTally | None = None) -> None:
        self.context = context
        self.tally = tally or TlsTally()
        self.buffer = memoryview(bytearray(READ_BYTES))

    def around(self, make: Callable[[], asyncio.BaseProtocol]) -> Callable[[], asyncio.BaseProtocol]:
        """A factory for `create_server` that puts TLS below what `make` makes."""
        return lambda: TlsTransport(self, make())


class TlsTransport(asyncio.BufferedProtocol, asyncio.Transport):
    """The protocol of a plain transport, and the transport of the protocol above it.

    What is written before the handshake is over goes nowhere: nobody can read it. `close` and `write_eof`
    are one here: what is written is flushed, the end is said, what still comes is forgotten until the peer
    closes. `get_write_buffer_size` is what the kernel has not taken, encrypted.
    """

    __slots__ = (
        "_above",
        "_buffered",
        "_closing",
        "_edge",
        "_forgotten",
        "_incoming",
        "_limits",
        "_lower",
        "_open",
        "_outgoing",
        "_paused",
        "_since",
        "_timer",
        "_tls",
        "fd",
    )

    def __init__(self, edge: TlsEdge, above: asyncio.BaseProtocol) -> None:
        self._edge = edge
        self._lower: asyncio.Transport | None = None
        self._tls: ssl.SSLObject | None = None  # from the first byte on
        self._incoming = self._outgoing = cast(ssl.MemoryBIO, None)
        self._open = False
        self._closing = False
        self._paused = False
        self._forgotten = 0
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.fd = -1
        self.set_protocol(above)

    # -- what the protocol above calls ----------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._above = protocol
        self._buffered = isinstance(protocol, asyncio.BufferedProtocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._above

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "sslcontext":
            return self._tls.context if self._tls is not None else self._edge.context()
        if name == "ssl_object":
            return self._tls
        return self._lower.get_extra_info(name, default) if self._lower is not None else default

    @property
    def opened(self) -> bool:
        """Whether the handshake is over, and the connection is not."""
        return self._open

    def is_closing(self) -> bool:
        return self._closing or self._lower is None or self._lower.is_closing()

    def is_reading(self) -> bool:
        return not self._paused and not self.is_closing()

    def pause_reading(self) -> None:
        if not self._paused and not self.is_closing():
            self._paused = True
            cast(asyncio.Transport, self._lower).pause_reading()

    def resume_reading(self) -> None:
        if not self._paused or self._lower is None:
            return
        self._paused = False
        if not self._lower.is_closing():
            self._lower.resume_reading()
            if self._open:  # what was read before the pause
                asyncio.get_running_loop().call_soon(self._read)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if self._lower is not None:
            self._lower.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._lower.get_write_buffer_limits() if self._lower is not None else (0, 0)

    def get_write_buffer_size(self) -> int:
        return self._lower.get_write_buffer_size() if self._lower is not None else 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._open or self.is_closing():
            return
        try:
            taken = self.put(data) if self.get_write_buffer_size() == 0 else 0
            with memoryview(data) as view:
                while taken < len(view) and self._lower is not None:
                    # Record by record: the buffer between would stay as large as it ever was.
                    taken += self._encrypt(view[taken : taken + RECORD_BYTES])
                    self._lower.write(self._outgoing.read())
        except OSError:
            self.abort()

    def put(self, data: bytes | bytearray | memoryview) -> int:
        """Encrypt and write to the kernel while it takes all; for when nothing waits. Returns how much of
        `data` is on its way: what remains is to be written. Raises OSError when the socket is gone."""
        lower = self._lower
        if not self._open or lower is None or self.is_closing():
            return len(data)
        taken, size = 0, len(data)
        with memoryview(data) as view:
            while taken < size:
                taken += self._encrypt(view if size <= RECORD_BYTES else view[taken : taken + RECORD_BYTES])
                if not self._send(lower):
                    break
        return taken

    def _encrypt(self, piece: memoryview) -> int:
        try:
            return cast(ssl.SSLObject, self._tls).write(piece)
        except ssl.SSLError as error:  # never but after the peer broke the protocol
            self.abort()
            raise ConnectionAbortedError(f"TLS cannot go on: {error.reason}") from error

    def _send(self, lower: asyncio.Transport) -> bool:
        """What was encrypted, to the kernel; False when it did not take all."""
        data = self._outgoing.read()
        if not data:
            return True
        if lower.get_write_buffer_size() == 0:
            try:
                written = os.write(self.fd, data)
            except BlockingIOError:
                written = 0
            if written == len(data):
                return True
            data = data[written:]
        lower.write(data)
        return lower.get_write_buffer_size() == 0

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.close()

    def close(self) -> None:
        """Flush, say the end, and hang up when the peer does, or after a while. Idempotent."""
        if self._closing:
            return
        lower = self._lower
        if lower is None or not self._open:
            self.abort()
            return
        self._closing = True
        try:
            cast(ssl.SSLObject, self._tls).unwrap()
        except ssl.SSLError:
            pass  # the peer's end is not here yet, or data is: either way ours is written
        if lower.is_closing():
            return
        lower.write(self._outgoing.read())
        if lower.is_closing():  # the write can have failed
            return
        lower.write_eof()
        if self._paused:
            self._paused = False
            lower.resume_reading()
        self._since = asyncio.get_running_loop().time()
        self._linger()

    def _linger(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._lingered)

    def _lingered(self) -> None:
        waited = asyncio.get_running_loop().time() - self._since
        if self.get_write_buffer_size() and waited < FLUSH_SECONDS:
            self._linger()
        else:
            self.abort()

    def abort(self) -> None:
        self._closing = True
        if self._lower is not None:
            self._lower.abort()

    # -- what the plain transport calls ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._lower = cast(asyncio.Transport, transport)
        self.fd = transport.get_extra_info("socket").fileno()
        cast(asyncio.Protocol, self._above).connection_made(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._edge.buffer

    def data_received(self, data: bytes) -> None:
        """Never called: uvloop wants one where a protocol may take the place of another."""

    def buffer_updated(self, nbytes: int) -> None:
        if self._closing:
            self._forgotten += nbytes
            if self._forgotten > MAX_FORGOTTEN_BYTES:
                self.abort()
            return
        data = self._edge.buffer[:nbytes]
        if self._tls is None:
            if data[0] != _HANDSHAKE:
                self._not_tls(data)
                return
            self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = self._edge.context().wrap_bio(self._incoming, self._outgoing, server_side=True)
        for at in range(0, nbytes, RECORD_BYTES):
            self._incoming.write(data[at : at + RECORD_BYTES])
            if self._open or self._shake_hands():
                self._read()
            if self._closing:
                break

    def _not_tls(self, data: memoryview) -> None:
        """Who speaks plain HTTP is told so, in plain HTTP; who speaks anything else, nothing."""
        lower = cast(asyncio.Transport, self._lower)
        self._closing = True
        if not 65 <= data[0] <= 90:  # no method of HTTP begins so
            self._edge.tally.failed += 1
            lower.abort()
            return
        self._edge.tally.plain += 1
        above, self._above, self._buffered = self._above, _NOBODY, False
        head = (
            f"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(_PLAIN_ANSWER)}\r\nConnection: close\r\n\r\n"
        )
        say_last(lower, head.encode() + _PLAIN_ANSWER)
        above.connection_lost(None)

    def _shake_hands(self) -> bool:
        lower, tls = cast(asyncio.Transport, self._lower), cast(ssl.SSLObject, self._tls)
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            lower.write(self._outgoing.read())
            return False
        except ssl.SSLError:
            self._edge.tally.failed += 1
            self._closing = True
            lower.write(self._outgoing.read())  # the alert, which says what is wrong
            lower.close()
            return False
        lower.write(self._outgoing.read())
        self._edge.tally.done += 1
        self._open = True
        return True

    def _read(self) -> None:
        """Decrypt what has come and hand it on, until the protocol above pauses or there is no more."""
        tls, incoming = cast(ssl.SSLObject, self._tls), self._incoming
        while not self._paused and not self._closing and self._open:
            if not incoming.pending and not tls.pending():
                break
            try:
                if self._buffered:
                    above = cast(asyncio.BufferedProtocol, self._above)
                    buffer = cast(memoryview, above.get_buffer(-1))
                    size = cast(int, tls.read(len(buffer), buffer))
                    if size:
                        above.buffer_updated(size)
                else:
                    data = tls.read(READ_BYTES)
                    size = len(data)
                    if size:
                        cast(asyncio.Protocol, self._above).data_received(data)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError:
                self.abort()
                return
            if not size:
                self._ended()
                return
        if self._outgoing.pending and not self.is_closing():
            cast(asyncio.Transport, self._lower).write(self._outgoing.read())  # answers of TLS itself

    def _ended(self) -> None:
        if not self._closing:
            cast(asyncio.Protocol, self._above).eof_received()
            self.close()

    def eof_received(self) -> bool:
        if self._open:
            self._ended()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._lower = None
        self._open = False
        above, self._above, self._buffered = self._above, _NOBODY, False
        above.connection_lost(exc)  # who knows us too: held on to, both would wait for the collector

    def pause_writing(self) -> None:
        cast(asyncio.Protocol, self._above).pause_writing()

    def resume_writing(self) -> None:
        if not self._closing:
            cast(asyncio.Protocol, self._above).resume_writing()


def direct_descriptor(transport: asyncio.Transport) -> int:
    """What may be written to past the transport while nothing waits in it; -1 for TLS, where nothing may be.
    Asked once a connection, so that plain ones pay nothing for TLS."""
    if isinstance(transport, TlsTransport):
        return -1
    return int(transport.get_extra_info("socket").fileno())
