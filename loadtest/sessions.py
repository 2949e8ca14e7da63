"""Clients of the reliable subprotocol for the load scripts: they ack, lose their sockets, and come back.

Like `clients.py` they speak just enough of it: `Counting` counts messages, of both subprotocols, by a mark in
their data; `Sessions` reads every frame, checks the sequence ids, and recovers on other gateways.
"""

from __future__ import annotations

import heapq
import json
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from itertools import count

from clients import MARK, STAMP_DIGITS, AcksInTurn, Clients, client_frame

RELIABLE = "json.reliable.webpubsub.azure.v1"
RETRY_SECONDS = 1.0
_ID = b'{"sequenceId":'


class Counting(Clients):
    """`deliveries` since `forget`. With `acks` each client acks once a second what it has, as the vendors'
    clients do, one after another so that it is no burst."""

    def __init__(self, protocol: str, *, acks: bool = True) -> None:
        super().__init__(protocol)
        self.deliveries = 0
        self._acks = acks and protocol == RELIABLE
        self._in_turn = AcksInTurn()

    def read(self, wait: float, *, stamps: bool = False) -> int:
        got = 0
        view = memoryview(self._buffer)
        for fd, _ in self._epoll.poll(wait, 1024):
            try:
                size = os.readv(fd, [view])
            except BlockingIOError:
                continue
            except ConnectionResetError:
                size = 0
            if size == 0:
                self.hung_up(fd)
                continue
            got += size
            found = self._buffer.count(MARK, 0, size)
            self.deliveries += found
            if not found:
                continue
            at = self._buffer.rfind(_ID, 0, size)
            if at >= 0:
                at += len(_ID)
                self._in_turn.highest[fd] = int(self._buffer[at : self._buffer.index(b",", at)])
            if stamps:
                at = self._buffer.find(MARK, 0, size) + len(MARK)
                sent = int(self._buffer[at : at + STAMP_DIGITS])
                self.latencies.append((time.time_ns() - sent) / 1e6)
        self.received_bytes += got
        if self._acks:
            self._in_turn.send(self.sockets)
        return got

    def hung_up(self, fd: int) -> None:
        raise ConnectionError("The server closed a connection during the run.")

    def read_deliveries(self, wanted: int, seconds: float, *, stamps: bool = False) -> None:
        """Until so many have come since `forget`. Raises TimeoutError."""
        end = time.monotonic() + seconds
        while self.deliveries < wanted:
            if time.monotonic() > end:
                raise TimeoutError(f"{self.deliveries} of {wanted} messages came within {seconds} s.")
            self.read(0.05, stamps=stamps)

    def forget(self) -> None:
        super().forget()
        self.deliveries = 0


class Tolerant(Counting):
    """Clients that may be closed: `closed` counts them."""

    closed = 0

    def hung_up(self, fd: int) -> None:
        self.closed += 1
        sock = self._by_fd.pop(fd)
        self._epoll.unregister(fd)
        self.sockets.remove(sock)
        sock.close()


class _Session:
    __slots__ = ("data", "fd", "id", "last", "lost_at", "path", "sock", "token", "upgraded")

    def __init__(self, path: str) -> None:
        self.path = path
        self.id = self.token = ""
        self.last = 0
        self.lost_at = 0.0
        self.sock: socket.socket | None = None
        self.fd = -1
        self.data = b""
        self.upgraded = False


class Sessions:
    """Sessions that go on over the loss of their sockets. Never acks, so everything is replayed to them.

    `whole` counts those that are connected; `refused` attempts that were told to try again; `wrong` sequence
    ids that were not the next one, and ends that were a verdict. `interruptions`: for how many seconds each
    of those that are back was without a socket.
    """

    def __init__(self, hub: str) -> None:
        self._hub = hub
        self._epoll = select.epoll()
        self._by_fd: dict[int, _Session] = {}
        self._due: list[tuple[float, int, _Session]] = []  # a heap
        self._order = count()
        self.all: list[_Session] = []
        self.ports: Sequence[int] = ()
        self.whole = self.refused = self.wrong = 0
        self.interruptions: list[float] = []
        self._turn = 0

    def open(self, count: int, path_of: Callable[[int], str], group: str, at_once: int = 64) -> None:
        """Connect and join; raises TimeoutError."""
        first = client_frame(json.dumps({"type": "joinGroup", "group": group, "ackId": 1}).encode())
        for start in range(0, count, at_once):
            some = [_Session(path_of(i)) for i in range(start, min(count, start + at_once))]
            self.all += some
            for one in some:
                self._dial(one, one.path)
            self._until(lambda: self.whole == len(self.all), 30)
            for one in some:
                assert one.sock is not None
                one.sock.send(first)
        self.run(1.0)

    def all_have(self, last: int, seconds: float) -> None:
        """Wait until each session has the message of that number."""
        self._until(lambda: all(one.last >= last for one in self.all), seconds)

    def come_back(self, seconds: float) -> float:
        """Wait until each has lost its socket and is connected again; returns when that was, by
        `time.monotonic`."""
        self._until(lambda: self.whole == len(self.all) <= len(self.interruptions), seconds)
        return time.monotonic()

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._step()

    def _until(self, is_so: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > end:
                raise TimeoutError(f"{self.whole} of {len(self.all)} are connected after {seconds} s.")
            self._step()

    def _dial(self, one: _Session, path: str) -> None:
        port = self.ports[self._turn % len(self.ports)]
        self._turn += 1
        one.data, one.upgraded = b"", False
        one.sock = sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        sock.setblocking(False)
        one.fd = sock.fileno()
        self._by_fd[one.fd] = one
        self._epoll.register(one.fd, select.EPOLLIN)
        sock.send(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"Sec-WebSocket-Protocol: {RELIABLE}\r\n\r\n".encode()
        )

    def _step(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            one = heapq.heappop(self._due)[2]
            query = f"awps_connection_id={one.id}&awps_reconnection_token={one.token}"
            self._dial(one, f"/client/hubs/{self._hub}?{query}")
        for fd, _ in self._epoll.poll(0.01, 256):
            one = self._by_fd[fd]
            try:
                data = os.read(fd, 65536)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                data = b""
            if data:
                one.data += data
                self._take(one)
            else:
                self._lost(one)

    def _lost(self, one: _Session) -> None:
        assert one.sock is not None
        if one.upgraded:
            self.whole -= 1
            one.lost_at = time.monotonic()
        else:
            self.refused += 1
        del self._by_fd[one.fd]
        self._epoll.unregister(one.fd)
        one.sock.close()
        one.sock = None
        # The first attempt is made at once, those after it a second apart (client-protocols.md 9.3).
        due = time.monotonic() + (0 if one.upgraded else RETRY_SECONDS)
        heapq.heappush(self._due, (due, next(self._order), one))

    def _take(self, one: _Session) -> None:
        data = one.data
        if data[:5] == b"HTTP/":
            head = data.find(b"\r\n\r\n")
            if head < 0:
                return
            data = data[head + 4 :]  # of a refusal: nothing follows but the end
        while len(data) >= 2:
            size, at = data[1], 2
            if size == 126:
                size, at = int.from_bytes(data[2:4], "big"), 4
            if len(data) < at + size:
                break
            self._frame(one, data[0] & 15, data[at : at + size])
            data = data[at + size :]
        one.data = data

    def _frame(self, one: _Session, opcode: int, payload: bytes) -> None:
        if opcode == 8:
            if payload[:2] == (1008).to_bytes(2, "big"):
                self.wrong += 1
            return
        if opcode != 1:
            return
        if payload.startswith(_ID):
            number = int(payload[len(_ID) : payload.index(b",")])
            if number == one.last + 1:
                one.last = number
            elif number > one.last:
                self.wrong += 1  # what comes again after a recovery is no fault: nothing was acked
            return
        told = json.loads(payload)
        if told.get("event") == "connected":
            if one.id not in ("", told["connectionId"]):
                self.wrong += 1
            one.id, one.token = told["connectionId"], told["reconnectionToken"]
            one.upgraded = True
            self.whole += 1
            if one.lost_at:
                self.interruptions.append(time.monotonic() - one.lost_at)

    def close(self) -> None:
        for one in self._by_fd.values():
            if one.sock is not None:
                one.sock.close()
        self._epoll.close()
