"""Events of a session that has moved wait for those that its gateways of before have not told yet.

Each gateway tells what happened while it held the session, out of its own outbox; so a `connected` that
waits for an application server at one of them could come after the `disconnected` of the next. The numbers of
events say what was first (`gateway.reliable.session`): an event goes out once no other outbox has an earlier
one of its connection. Asked until that is so, once for each gateway that a session comes to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from gateway.upstream.outbox import Record
from hubwire.bus.event_log import EventLog, unpack_document
from hubwire.model.errors import HubwireError, InvalidRequest

log = structlog.get_logger(__name__)

AT_ONCE = 16
"""Records that are looked at in the same moment: thousands of sessions may end together."""
PAUSE_SECONDS = 0.5
MOST_SECONDS = 7200.0
"""Longer than an event stays in a queue (`gateway.upstream.schedule.BackOff`): what an outbox still has then
is nobody's any more."""


class Following:
    """Those of one gateway. `open`: waits until NATS may be asked."""

    def __init__(self, events: EventLog, open: Callable[[], Awaitable[None]]) -> None:
        self._events = events
        self._open = open
        self._loop = asyncio.get_running_loop()
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def first(self, record: Record, wanted: Callable[[], int | None]) -> bool:
        """Wait until no other outbox has an event of the record's connection before the number that `wanted`
        gives; False when that gives None, so that nobody waits any more. Ends after MOST_SECONDS at last."""
        end = self._loop.time() + MOST_SECONDS
        while True:
            await self._open()
            number = wanted()
            if number is None:
                return False
            try:
                async with self._at_once:
                    waits = await self._waits(record, number)
                if not waits:
                    return True
                if self._loop.time() > end:
                    log.warning(
                        "event_not_waited_for", connection_id=record.connection_id, outbox=record.outbox
                    )
                    return True
            except HubwireError as error:
                log.debug("outboxes_not_compared", connection_id=record.connection_id, error=str(error))
            await asyncio.sleep(PAUSE_SECONDS)

    async def _waits(self, record: Record, number: int) -> bool:
        for subject in await self._events.elsewhere(record.outbox, record.connection_id):
            found = await self._events.read(subject)
            if found is None:
                continue
            try:
                pending = unpack_document(found.data).pending
            except InvalidRequest:
                continue  # nobody can tell it
            if any(each.number < number for each in pending):
                return True
        return False
