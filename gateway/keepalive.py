"""Pings every connection at its hub's interval and cuts those that are silent (client-protocols.md 1.10).

One timer a worker, not one a connection: a wheel of one-second slots, in each the connections that are
due. A change of a hub's interval counts from the next ping on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.connection import Connection
from gateway.frames import PING_FRAME
from gateway.transport import Clock
from hubwire.model.limits import KEEP_ALIVE_SILENT_INTERVALS

SLOTS = 128  # the longest interval is 120 s


class KeepAlive:
    """Owned by the gateway's task group: `run()` until cancelled."""

    def __init__(self, clock: Clock, interval_of: Callable[[str], int]) -> None:
        self._clock = clock
        self._interval_of = interval_of
        self._wheel: list[dict[Connection, None]] = [{} for _ in range(SLOTS)]
        self._position = 0
        self.timeouts = 0

    def add(self, connection: Connection) -> None:
        """Begin to ping a connection."""
        self._put(connection, self._interval_of(connection.hub))

    def _put(self, connection: Connection, interval: int) -> None:
        connection.ping_slot = (self._position + interval) % SLOTS
        self._wheel[connection.ping_slot][connection] = None

    def discard(self, connection: Connection) -> None:
        """Forget a connection that has ended. Idempotent."""
        self._wheel[connection.ping_slot].pop(connection, None)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += 1.0
            await asyncio.sleep(max(0.0, due - loop.time()))
            if loop.time() - due > 5.0:
                due = loop.time()  # we were paused: nobody is to blame for that silence
                self._forgive()
            self._clock.now = loop.time()
            self.tick()

    def _forgive(self) -> None:
        now = asyncio.get_running_loop().time()
        for slot in self._wheel:
            for connection in slot:
                connection.last_heard = now

    def tick(self) -> None:
        """One second has passed: serve the slot that is due."""
        self._position = (self._position + 1) % SLOTS
        slot, self._wheel[self._position] = self._wheel[self._position], {}
        for connection in slot:
            if connection.over or connection.finished:
                continue
            interval = self._interval_of(connection.hub)
            if self._clock.now - connection.last_heard > KEEP_ALIVE_SILENT_INTERVALS * interval:
                self.timeouts += 1
                connection.cut("PingTimeout")
                continue
            connection.send(PING_FRAME)
            self._put(connection, interval)
