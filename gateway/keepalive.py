"""Pings every connection at its hub's interval and cuts those that are silent (client-protocols.md 1.10).

One timer a worker, not one a connection: a wheel of one-second slots, in each the connections that are
due. Silence is counted in pings that nothing followed, not in seconds: so neither a shorter interval nor
a pause of this process makes a living client look dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.connection import Connection
from gateway.frames import PING_FRAME
from hubwire.model.limits import KEEP_ALIVE_SILENT_INTERVALS

SLOTS = 128  # the longest interval is 120 s


class KeepAlive:
    """Owned by the gateway's task group: `run()` until cancelled."""

    def __init__(self, interval_of: Callable[[str], int]) -> None:
        self._interval_of = interval_of
        self._wheel: list[dict[Connection, None]] = [{} for _ in range(SLOTS)]
        self._position = 0
        self._intervals: dict[str, int] = {}
        self.timeouts = 0

    def __len__(self) -> int:
        return sum(map(len, self._wheel))

    def add(self, connection: Connection) -> None:
        """Begin to ping a connection."""
        interval = self._intervals.get(connection.hub)
        if interval is None:
            interval = self._intervals[connection.hub] = self._interval_of(connection.hub)
        connection.ping_slot = (self._position + interval) % SLOTS
        self._wheel[connection.ping_slot][connection] = None

    def discard(self, connection: Connection) -> None:
        """Forget a connection that has ended. Idempotent."""
        self._wheel[connection.ping_slot].pop(connection, None)

    def settings_changed(self) -> None:
        """Some hub's interval may be another: what is due later than the new one allows is due by then."""
        old, self._intervals = self._intervals, {}
        changed = {hub for hub, interval in old.items() if self._interval_of(hub) != interval}
        if not changed:
            return
        for connection in [c for slot in self._wheel for c in slot if c.hub in changed]:
            self.discard(connection)
            self.add(connection)

    async def run(self) -> None:
        while True:
            # At least a second passes between two ticks, whatever else happens, in which pongs are read.
            await asyncio.sleep(1.0)
            self.tick()

    def tick(self) -> None:
        """One second has passed: serve the slot that is due."""
        self._position = (self._position + 1) % SLOTS
        slot, self._wheel[self._position] = self._wheel[self._position], {}
        for connection in slot:
            if connection.over or connection.finished:
                continue
            if connection.reading_paused:
                connection.silent = 0  # it is we who do not listen
            elif connection.silent >= KEEP_ALIVE_SILENT_INTERVALS - 1:
                self.timeouts += 1
                connection.cut("PingTimeout", "The client does not answer pings.")
                continue
            connection.silent += 1
            connection.send(PING_FRAME)
            self.add(connection)
