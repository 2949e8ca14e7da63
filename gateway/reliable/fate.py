"""What becomes of the connections of a gateway that is gone, for who tells application servers of their
ends."""

from __future__ import annotations

from gateway.upstream.takeover import Fate
from hubwire.bus.client import BusClient
from hubwire.bus.event_log import EventLog, life_subject
from hubwire.bus.inbox import inbox_is_gone
from hubwire.bus.session_records import SessionRecords


class Fates:
    """Reads it from the records of sessions. A session is over once its record says so, or once the log is
    gone that it would be found in."""

    def __init__(self, bus: BusClient, records: SessionRecords, events: EventLog) -> None:
        self._bus = bus
        self._records = records
        self._events = events

    async def of(self, connection_id: str, gateway: str) -> Fate:
        """`gateway` is the one that is gone. Raises Unavailable."""
        record = await self._records.read(connection_id)
        if record.ended:
            return Fate.OVER
        if record.holder == gateway:
            return Fate.OVER if await inbox_is_gone(self._bus, gateway) else Fate.OPEN
        # It has moved. Who holds it now tells of its end, once it has written down that it owes that.
        if await self._events.read(life_subject(record.holder, connection_id)) is not None:
            return Fate.MOVED
        # Long after an end nothing is kept of it, and the maker of the id is taken for the holder.
        return Fate.OVER if await inbox_is_gone(self._bus, record.holder) else Fate.OPEN
