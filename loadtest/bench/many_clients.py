"""One of the client processes of `many.py`: told what to do on its standard input, a word and numbers a line;
answers each with a line of JSON.

    publish RATE SECONDS   its clients publish to their small groups; answers with latencies
    broadcast              its first client publishes to the group of all; answers at once
    state                  how many are connected, what arrived since `forget`
    forget                 counts from nothing
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import select
from typing import Any

from loadtest.bench.load_clients import LoadClients
from loadtest.bench.targets import client_paths, hubwire_dialect
from loadtest.clients import client_frame

ALL = b"@B"
"""Marks what goes to all, so that it is not counted among the messages of small groups."""


class Crowd(LoadClients):
    """Clients that may lose their connection: `closed` counts them."""

    closed = broadcasts = 0

    def _count(self, fd: int, size: int, stamps: bool) -> None:
        super()._count(fd, size, stamps)
        self.broadcasts += self._buffer.count(ALL, 0, size)

    def hung_up(self, fd: int) -> None:
        self.closed += 1
        self._epoll.unregister(fd)
        self._by_fd.pop(fd).close()

    def to_all(self) -> None:
        body = b'{"type":"sendToGroup","group":"all","dataType":"text","noEcho":false,"data":"%s"}'
        self.sockets[0].send(client_frame(body % ALL.ljust(200, b"x")))

    def state(self) -> dict[str, Any]:
        return {
            "connected": len(self._by_fd),
            "closed": self.closed,
            "deliveries": self.deliveries,
            "broadcasts": self.broadcasts,
            "pongs": self.pongs,
        }


def steps(number: int, group: str) -> list[tuple[bytes, bytes]]:
    """Join the small group and the group of all."""
    joins = b"".join(
        client_frame(json.dumps({"type": "joinGroup", "group": name, "ackId": ack}).encode())
        for ack, name in ((1, group), (2, "all"))
    )
    return [(b'"connected"', joins), (b'"success":true', b""), (b'"success":true', b"")]


def crowd(port: int, first: int, count: int) -> Crowd:
    dialect = hubwire_dialect(client_paths(port, count, first))
    return Crowd(dataclasses.replace(dialect, steps=steps), port)


def serve(clients: Crowd) -> None:
    """Until its input ends."""
    asked = select.poll()
    asked.register(0, select.POLLIN | select.POLLHUP)
    rest = b""
    while True:
        clients.read(0.01)
        if not asked.poll(0):
            continue
        data = os.read(0, 4096)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            print(json.dumps(obey(clients, *line.decode().split())), flush=True)


def obey(clients: Crowd, word: str, *numbers: str) -> dict[str, Any]:
    if word == "publish":
        rate, seconds = map(float, numbers)
        clients.forget()
        sent = clients.publish_at(rate, seconds, len(clients.sockets))
        with contextlib.suppress(TimeoutError):
            clients.read_deliveries(sent * 10, 60, stamps=True)
        missing = sent * 10 - clients.deliveries
        return {"sent": sent, "missing": missing, "p50_ms": clients.p(0.5), "p99_ms": clients.p(0.99)}
    if word == "broadcast":
        clients.to_all()
    if word == "forget":
        clients.forget()
        clients.broadcasts = clients.pongs = 0
    return clients.state()


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("port", "first", "count", "at-once"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    a = parser.parse_args()
    clients = crowd(a.port, a.first, a.count)
    seconds = clients.connect(
        a.count,
        lambda number: f"g{number // 10}",
        at_once=a.at_once,
        seconds=a.seconds,
        source=a.source,
        first=a.first,
    )
    print(json.dumps({"seconds": seconds, **clients.state()}), flush=True)
    serve(clients)


if __name__ == "__main__":
    main()
