"""Work off what a gateway that has gone has left: events not sent, and `disconnected` for its clients.

A router asks for it (router/sweep.py), since it knows for certain who has gone. The outbox is taken by one
compare-and-set; each record that owes a `disconnected` then gets it by a compare-and-set of its own. To
repeat any of it changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from itertools import groupby
from typing import Protocol

import structlog

from gateway.upstream.outbox import Outbox, Record
from gateway.upstream.owed import may_outlive_gateway
from hubwire.bus.event_log import EventLog, unpack_document
from hubwire.model.errors import HubwireError, InvalidRequest

log = structlog.get_logger(__name__)

READ_AT_ONCE = 32
PAUSE_SECONDS = 0.5


class Fate(Enum):
    """What has become of a connection that its gateway has not ended: OVER, so its end is told now; MOVED to
    another gateway, which tells of it; or OPEN, since its client may still come back."""

    OVER = "over"
    MOVED = "moved"
    OPEN = "open"


FateOf = Callable[[str, str], Awaitable[Fate]]
"""From the connection id and the gateway that is gone. Raises Unavailable."""


async def always_over(_connection_id: str, _gateway: str) -> Fate:
    """What it is of plain connections: they end with their gateway."""
    return Fate.OVER


class Adopter(Protocol):
    def adopt(self, records: Sequence[Record]) -> bool:
        """Take over all records of one connection; False while there is no room for them."""


class TakeOver:
    """The outboxes that this gateway works off for others."""

    def __init__(
        self,
        name: str,
        events: EventLog,
        outbox: Outbox,
        adopter: Adopter,
        fate_of: FateOf = always_over,
    ) -> None:
        self._fate_of = fate_of
        self._name = name
        self._events = events
        self._outbox = outbox
        self._adopter = adopter
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def begin(self, outbox: str, revision: int) -> bool:
        """See `Notifier.sweep`."""
        if outbox in self._under_way:
            return True
        held = await self._events.hold(outbox, self._name, revision)
        if held is None:
            return False
        self._outbox.need()
        if outbox not in self._under_way:  # a second request may have come in between
            self._under_way[outbox] = asyncio.create_task(self._sweep(outbox, held))
        return True

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """For who ends them."""
        return [*self._under_way.values()]

    async def _sweep(self, outbox: str, held: int) -> None:
        log.info("outbox_taken_over", outbox=outbox)
        taken = 0
        try:
            while True:
                await self._outbox.open()
                try:
                    subjects = await self._events.subjects(outbox)
                    if not subjects:
                        await self._events.close_outbox(outbox, held)
                        break
                    taken += await self._pass(outbox, subjects)
                except HubwireError as error:
                    log.debug("outbox_not_read", outbox=outbox, error=str(error))
                    await asyncio.sleep(PAUSE_SECONDS)
                await self._worked_off(outbox)
            log.info("outbox_worked_off", outbox=outbox, records=taken)
        except Exception:
            log.exception("outbox_failed", outbox=outbox)  # the router asks again
        finally:
            del self._under_way[outbox]

    async def _worked_off(self, outbox: str) -> None:
        """Wait until what we hold of it is done. What there was no room for, or came late, is looked for
        after that."""
        await asyncio.sleep(PAUSE_SECONDS)
        while any(record.outbox == outbox for record in self._outbox.records.values()):  # noqa: ASYNC110
            await asyncio.sleep(PAUSE_SECONDS)

    async def _pass(self, outbox: str, subjects: list[str]) -> int:
        """Adopt what there is room for, a whole connection at a time, so that its order holds."""
        connections = [
            (connection, [*of_it])
            for connection, of_it in groupby(sorted(subjects, key=_connection_of), key=_connection_of)
        ]
        todo = iter(connections)
        taken = 0
        failed: HubwireError | None = None

        async def worker() -> None:
            nonlocal taken, failed
            try:
                for _, of_it in todo:
                    count = await self._adopt(outbox, of_it)
                    taken += count
            except HubwireError as error:
                failed = error

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(READ_AT_ONCE, len(connections))):
                tasks.create_task(worker())
        if failed is not None:
            raise failed
        return taken

    async def _adopt(self, outbox: str, subjects: list[str]) -> int:
        """All records of one connection, or none."""
        records = []
        for subject in subjects:
            message = await self._events.read(subject) if subject not in self._outbox.records else None
            if message is None:
                continue
            record = Record(outbox, _connection_of(subject), subject, message.seq)
            try:
                document = unpack_document(message.data)
            except InvalidRequest as error:
                log.error("event_record_unreadable", subject=subject, error=str(error))
                await self._events.remove(subject, message.seq)
                continue
            record.pending = [*document.pending]
            record.owed = document.owed
            if record.owed is not None and may_outlive_gateway(record.owed):
                fate = await self._fate_of(record.connection_id, outbox)
                if fate is Fate.OPEN:
                    return 0  # looked at again, until it is decided
                if fate is Fate.MOVED:
                    if not record.pending:
                        await self._events.remove(subject, message.seq)
                        continue
                    record.owed = None
            records.append(record)
        return len(records) if self._adopter.adopt(records) else 0


def _connection_of(subject: str) -> str:
    return subject.split(".")[3]
