"""What becomes of the connections of a gateway that is gone, for who tells application servers of their
ends.

Whoever comes to hold a session has stored that it owes its end before the record names it
(`gateway.reliable.moves`). So the record alone says whose it is to tell: the holder's, or, of one that has
ended, its last holder's. That makes it once, whatever dies.
"""

from __future__ import annotations

from gateway.upstream.takeover import Fate
from hubwire.bus.client import BusClient
from hubwire.bus.inbox import inbox_is_gone
from hubwire.bus.session_records import SessionRecords


class Fates:
    """Reads it from the records of sessions. A session is over once its record says so, or once the log is
    gone that it would be found in."""

    def __init__(self, bus: BusClient, records: SessionRecords) -> None:
        self._bus = bus
        self._records = records

    async def of(self, connection_id: str, gateway: str) -> Fate:
        """`gateway` is the one that is gone. Raises Unavailable."""
        record = await self._records.read(connection_id)
        if record.ended:
            return Fate.OVER if record.ended_by in ("", gateway) else Fate.MOVED
        if record.holder != gateway and record.revision:
            return Fate.MOVED
        # Without a record it is the maker's of the id; also long after an end, of which nothing is kept.
        return Fate.OVER if await inbox_is_gone(self._bus, record.holder) else Fate.OPEN
