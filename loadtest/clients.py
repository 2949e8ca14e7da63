"""Many WebSocket clients in one cheap process: they count what arrives, and publish what they are told.

Only for the load scripts here: it speaks just enough RFC 6455 for a server that sends unfragmented frames.
Deliveries are counted by bytes, since all frames of one run are equally long.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Sequence

PROTOCOL = "json.webpubsub.azure.v1"
HANDSHAKES_AT_ONCE = 64
MARK = b"@T"
STAMP_DIGITS = 19
_SLICES = 20


def client_frame(payload: bytes, opcode: int = 0x1) -> bytes:
    """A masked frame, of text if not told otherwise. The mask is zero, so the payload stays readable."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


class AcksInTurn:
    """Acknowledges for reliable clients what they have, each once a second as the vendors' clients do, one
    after another so that it is no burst. `highest`: by descriptor, the last sequence id that came."""

    def __init__(self) -> None:
        self.highest: dict[int, int] = {}
        self._acked: dict[int, int] = {}
        self._slice = 0
        self._next_slice = 0.0

    def send(self, sockets: Sequence[socket.socket]) -> None:
        """Call it after each read; most times it is nobody's turn."""
        now = time.monotonic()
        if now < self._next_slice:
            return
        self._next_slice = now + 1 / _SLICES
        for sock in sockets[self._slice :: _SLICES]:
            fd = sock.fileno()
            highest = self.highest.get(fd, 0)
            if highest != self._acked.get(fd, 0):
                self._acked[fd] = highest
                sock.send(client_frame(b'{"type":"sequenceAck","sequenceId":%d}' % highest))
        self._slice = (self._slice + 1) % _SLICES


class Clients:
    """A set of connected sockets on one epoll. All waits have deadlines; failure is an exception."""

    def __init__(self, protocol: str = PROTOCOL) -> None:
        self._protocol = protocol
        self._epoll = select.epoll()
        self._buffer = bytearray(1 << 20)
        self.sockets: list[socket.socket] = []
        self._by_fd: dict[int, socket.socket] = {}
        self.received_bytes = 0
        self.latencies: list[float] = []

    def connect_raw(self, port: int, count: int) -> None:
        """Plain TCP clients, for the bare loop."""
        for _ in range(count):
            self._add(socket.create_connection(("127.0.0.1", port), timeout=10))

    def connect(
        self, port: int, count: int, path_of: Callable[[int], str], first_of: Callable[[int], bytes]
    ) -> None:
        """WebSocket clients; each sends `first_of(i)` once it is upgraded and waits for its answers."""
        for start in range(0, count, HANDSHAKES_AT_ONCE):
            batch = [
                self._begin(port, path_of(i)) for i in range(start, min(count, start + HANDSHAKES_AT_ONCE))
            ]
            for number, sock in enumerate(batch, start):
                self._read_until(sock, b'"connected"')
                first = first_of(number)
                if first:
                    sock.sendall(client_frame(first))
                    self._read_until(sock, b'"success":true')
                self._add(sock)

    def _begin(self, port: int, path: str) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"Sec-WebSocket-Protocol: {self._protocol}\r\n\r\n".encode()
        )
        return sock

    @staticmethod
    def _read_until(sock: socket.socket, wanted: bytes) -> None:
        got = b""
        while wanted not in got:
            data = sock.recv(65536)
            if not data:
                raise ConnectionError(f"The server hung up: {got[:300]!r}")
            got += data

    def _add(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sockets.append(sock)
        self._by_fd[sock.fileno()] = sock
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def read(self, wait: float, *, stamps: bool = False) -> int:
        """Read what is there, waiting up to `wait` seconds for something. Returns the bytes read."""
        got = 0
        view = memoryview(self._buffer)
        for fd, _ in self._epoll.poll(wait, 1024):
            try:
                size = os.readv(fd, [view])
            except BlockingIOError:
                continue
            if size == 0:
                raise ConnectionError("The server closed a connection during the run.")
            got += size
            if stamps:
                at = self._buffer.find(MARK, 0, size)
                if 0 <= at <= size - STAMP_DIGITS - len(MARK):
                    sent = int(self._buffer[at + len(MARK) : at + len(MARK) + STAMP_DIGITS])
                    self.latencies.append((time.time_ns() - sent) / 1e6)
        self.received_bytes += got
        return got

    def read_bytes(self, wanted: int, seconds: float, *, stamps: bool = False) -> None:
        """Read until `wanted` bytes have come since the last call of `forget`. TimeoutError otherwise."""
        end = time.monotonic() + seconds
        while self.received_bytes < wanted:
            if time.monotonic() > end:
                raise TimeoutError(f"{self.received_bytes} of {wanted} bytes came within {seconds} s.")
            self.read(0.05, stamps=stamps)

    def forget(self) -> None:
        while self.read(0.05):
            pass
        self.received_bytes = 0
        self.latencies.clear()

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        self._epoll.close()


def percentile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else float("nan")
