"""Many WebSocket clients of one server on one epoll: they join, publish, count what arrives and time it.

What a server is told and answers is in its `Dialect`. Deliveries are counted by a mark in their data ("@T"
and 19 digits of nanoseconds), so servers that put several messages into one frame are counted rightly.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadtest.clients import MARK, STAMP_DIGITS, AcksInTurn, percentile

AT_ONCE = 64
PAYLOAD_BYTES = 200
_AT = MARK[0]
_REST = MARK[1:]
_ID = b'{"sequenceId":'
_NO_STEPS: Sequence[tuple[bytes, bytes]] = ()


def no_steps(number: int, group: str) -> Sequence[tuple[bytes, bytes]]:
    return _NO_STEPS


def stamped() -> bytes:
    """200 bytes of text that begin with the time."""
    return (MARK + b"%019d" % time.time_ns()).ljust(PAYLOAD_BYTES, b"x")


@dataclass(frozen=True)
class Dialect:
    """How one server is spoken to.

    `steps` are pairs: what must have come, and the bytes that are then sent; the client has joined when all
    are done. `publish` makes the bytes of a publish: number of the client, group, data. `ping` is what the
    server sends to learn whether a client lives (b"" for nothing), `pong` the answer. With `acks` sequence
    ids are acknowledged once a second.
    """

    path: Callable[[int, str], str]
    publish: Callable[[int, str, bytes], bytes]
    steps: Callable[[int, str], Sequence[tuple[bytes, bytes]]] = no_steps
    subprotocol: str = ""
    ping: bytes = b""
    pong: bytes = b""
    acks: bool = False

    def request(self, port: int, number: int, group: str) -> bytes:
        protocol = f"Sec-WebSocket-Protocol: {self.subprotocol}\r\n" if self.subprotocol else ""
        return (
            f"GET {self.path(number, group)} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{protocol}\r\n"
        ).encode()


class _Joining:
    """A client on its way in."""

    __slots__ = ("got", "request", "sock", "steps")

    def __init__(self, sock: socket.socket, request: bytes, steps: Sequence[tuple[bytes, bytes]]):
        self.sock = sock
        self.request = request
        self.steps = [(b"\r\n\r\n", b""), *steps]
        self.got = b""

    def advance(self) -> bool:
        """Read, answer what can be answered. True once it has joined."""
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return False
        if not data:
            raise ConnectionError(f"The server hung up: {self.got[:300]!r}")
        self.got += data
        while self.steps:
            wanted, answer = self.steps[0]
            at = self.got.find(wanted)
            if at < 0:
                return False
            if self.request:
                if b" 101 " not in self.got[:16]:
                    raise ConnectionError(f"The server refused: {self.got[:300]!r}")
                self.request = b""
            self.got = self.got[at + len(wanted) :]
            if answer:
                self.sock.sendall(answer)
            del self.steps[0]
        return True


class LoadClients:
    """Connected clients. All waits have deadlines; failure is an exception."""

    def __init__(self, dialect: Dialect, port: int) -> None:
        self.dialect = dialect
        self._port = port
        self._epoll = select.epoll()
        self._buffer = bytearray(1 << 20)
        self._cut: set[int] = set()
        self._in_turn = AcksInTurn()
        self.sockets: list[socket.socket] = []
        self._by_fd: dict[int, socket.socket] = {}
        self._groups: list[str] = []
        self.deliveries = self.received_bytes = self.blocked = self.pongs = 0
        self.latencies: list[float] = []

    def connect(
        self,
        count: int,
        group_of: Callable[[int], str],
        *,
        at_once: int = AT_ONCE,
        seconds: float = 120.0,
        source: str = "",
        first: int = 0,
    ) -> float:
        """`count` clients more, numbered from `first`, never more than `at_once` of them half connected, from
        the address `source` (each has 28,000 ports or so). Returns the seconds it took. TimeoutError, or
        ConnectionError when one is refused."""
        requests = [
            (number, group_of(number), self.dialect.request(self._port, number, group_of(number)))
            for number in range(first, first + count)
        ]
        requests.reverse()
        begun = time.monotonic()
        joining: dict[int, _Joining] = {}
        while requests or joining:
            if time.monotonic() > begun + seconds:
                raise TimeoutError(f"{len(self._by_fd)} clients had joined after {seconds} s.")
            while requests and len(joining) < at_once:
                number, group, request = requests.pop()
                sock = self._begin(source)
                joining[sock.fileno()] = _Joining(sock, request, self.dialect.steps(number, group))
                self._groups.append(group)
                self.sockets.append(sock)
                self._epoll.register(sock.fileno(), select.EPOLLOUT)
            for fd, events in self._epoll.poll(0.2, 1024):
                one = joining.get(fd)
                if one is None:
                    self._take(fd, stamps=False)
                elif events & select.EPOLLOUT:
                    one.sock.sendall(one.request)
                    self._epoll.modify(fd, select.EPOLLIN)
                elif one.advance():
                    del joining[fd]
                    self._by_fd[fd] = one.sock
        return time.monotonic() - begun

    def _begin(self, source: str) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source:
            sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: the port is found later
            sock.bind((source, 0))
        try:
            sock.connect(("127.0.0.1", self._port))
        except BlockingIOError:
            pass
        return sock

    def read(self, wait: float, *, stamps: bool = False, most: int = 1024) -> int:
        """Read what is there of so many clients, waiting up to `wait` seconds. Returns the bytes read."""
        got = 0
        for fd, _ in self._epoll.poll(wait, most):
            got += self._take(fd, stamps)
        if self.dialect.acks:
            self._in_turn.send(self.sockets)
        return got

    def _take(self, fd: int, stamps: bool) -> int:
        buffer = self._buffer
        try:
            size = os.readv(fd, [buffer])
        except BlockingIOError:
            return 0
        except ConnectionResetError:
            size = 0
        if size == 0:
            self.hung_up(fd)
            return 0
        self.received_bytes += size
        self._count(fd, size, stamps)
        if self.dialect.ping and buffer.find(self.dialect.ping, 0, size) >= 0:
            self._by_fd[fd].send(self.dialect.pong)
            self.pongs += 1
        if self.dialect.acks and (at := buffer.rfind(_ID, 0, size)) >= 0:
            at += len(_ID)
            end = buffer.find(b",", at, size)
            if end > 0:
                self._in_turn.highest[fd] = int(buffer[at:end])
        return size

    def _count(self, fd: int, size: int, stamps: bool) -> None:
        buffer = self._buffer
        if fd in self._cut:  # the last read ended between the two characters of a mark
            self._cut.discard(fd)
            self.deliveries += buffer.startswith(_REST, 0, size)
        if buffer[size - 1] == _AT:
            self._cut.add(fd)
        if stamps:
            self._count_stamps(size)
        else:
            self.deliveries += buffer.count(MARK, 0, size)

    def _count_stamps(self, size: int) -> None:
        buffer, now = self._buffer, time.time_ns()
        at = buffer.find(MARK, 0, size)
        while at >= 0:
            self.deliveries += 1
            begin = at + len(MARK)
            if begin + STAMP_DIGITS <= size:
                self.latencies.append((now - int(buffer[begin : begin + STAMP_DIGITS])) / 1e6)
            at = buffer.find(MARK, begin, size)

    def hung_up(self, fd: int) -> None:
        raise ConnectionError("The server closed a connection during the run.")

    def publish(self, number: int) -> None:
        """One publish of one client to its group; what the socket does not take at once is waited for."""
        data = self.dialect.publish(number, self._groups[number], stamped())
        sock = self.sockets[number]
        end = time.monotonic() + 30
        while data:
            try:
                data = data[sock.send(data) :]
            except BlockingIOError:
                self.blocked += 1
                if time.monotonic() > end:
                    raise TimeoutError("The server read nothing for 30 s.") from None
                self.read(0.001)

    def publish_at(self, rate: float, seconds: float, publishers: int) -> int:
        """Publish `rate` times a second over the first `publishers` clients, in an order that mixes groups,
        and read meanwhile. Returns how many were sent."""
        begun = time.monotonic()
        total, sent = int(rate * seconds), 0
        while sent < total:
            due = min(int((time.monotonic() - begun) * rate), total)
            while sent < due:
                self.publish((sent * 7919) % publishers)
                sent += 1
            # Of few at a time: whoever reads for long publishes in bursts, which are easier for servers.
            self.read(0.0005, stamps=True, most=32)
        return sent

    def read_deliveries(self, wanted: int, seconds: float, *, stamps: bool = False) -> None:
        """Until so many have come since `forget`. Raises TimeoutError."""
        end = time.monotonic() + seconds
        while self.deliveries < wanted:
            if time.monotonic() > end:
                raise TimeoutError(f"{self.deliveries} of {wanted} messages came within {seconds} s.")
            self.read(0.05, stamps=stamps)

    def quiet(self, seconds: float = 0.1) -> None:
        """Read until nothing has come for so long, at most 30 s; then count from nothing."""
        end = time.monotonic() + 30
        while self.read(seconds) and time.monotonic() < end:
            pass
        self.forget()

    def forget(self) -> None:
        self.deliveries = self.received_bytes = 0
        self.latencies.clear()

    def p(self, part: float) -> float:
        """A percentile of the latencies since `forget`, in milliseconds."""
        return round(percentile(self.latencies, part), 2)

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        self._epoll.close()
