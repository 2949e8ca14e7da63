"""Keeps records of events in the cluster's queue as they should be, without anybody waiting for it.

What a record should be is said by changing it and calling `change`; a few writers bring the stream there,
the latest state of a record at a time, until it is done, however long NATS is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from gateway.upstream.source import EventSource
from hubwire.bus.client import BusClient
from hubwire.bus.event_log import VERSION, Document, EventLog, Pending
from hubwire.bus.jetstream import StreamFull, StreamMissing
from hubwire.bus.settle import settle
from hubwire.model.errors import HubwireError, LimitExceeded, Unavailable

log = structlog.get_logger(__name__)

WRITERS = 64
LOOK_SECONDS = 0.05
PAUSE_SECONDS = 0.1
FULL_TOLD_SECONDS = 60.0
RENEW_SECONDS = 24 * 3600.0


class Record:
    """One record of the stream, as it should be: `pending` and `owed`; without both it should not be there.

    `version` counts the changes, `stored` is the version that the stream has. `revision` is the stream's
    number of it, 0 before the first. `source` is there while the connection is a client of this process.
    `follows`: other outboxes may have events of the connection that come first.
    """

    __slots__ = (
        "busy",
        "connection_id",
        "follows",
        "outbox",
        "owed",
        "pending",
        "promised",
        "revision",
        "source",
        "stored",
        "subject",
        "told",
        "unsure",
        "version",
        "watched",
        "written_at",
    )

    def __init__(self, outbox: str, connection_id: str, subject: str, revision: int = 0) -> None:
        self.outbox = outbox
        self.connection_id = connection_id
        self.subject = subject
        self.pending: list[Pending] = []
        self.owed: bytes | None = None
        self.revision = revision
        self.version = 0
        self.stored = 0
        self.busy = False
        self.follows = False
        self.watched: list[asyncio.Future[None]] = []
        """Who waits until it is stored."""
        self.unsure: set[bytes] = set()
        """What may have been stored without our hearing of it."""
        self.written_at = 0.0
        self.source: EventSource | None = None
        self.promised = 0
        """The count of events up to which `owed` is good."""
        self.told: tuple[object, object] = (None, None)
        """State and cookies in `owed`."""

    @property
    def needed(self) -> bool:
        return bool(self.pending) or self.owed is not None


class Outbox:
    """The records that this process is responsible for, its own and those that it took over.

    `on_stored` is called after a version of a record was stored, `on_lost` when another gateway has taken
    it over. Nothing is written unless `may_act()`: while the lease of this process is valid.
    """

    def __init__(self, name: str, bus: BusClient, events: EventLog, may_act: Callable[[], bool]) -> None:
        self.name = name
        self._bus = bus
        self._events = events
        self._may_act = may_act
        self._loop = asyncio.get_running_loop()
        self.records: dict[str, Record] = {}
        self._changed: asyncio.Queue[Record] = asyncio.Queue()  # each record at most once
        self._needed = asyncio.Event()
        self._open = asyncio.Event()
        self._incarnation = ""
        self._mark: int | None = None
        self._mark_at = 0.0
        self._full_told = -FULL_TOLD_SECONDS
        self.on_stored: Callable[[Record], None] = lambda _record: None
        self.on_lost: Callable[[Record], None] = lambda _record: None
        self.full = 0
        """Writes that the stream had no room for."""
        bus.on_disconnect(self._interrupted)
        bus.on_reconnect(self._interrupted)

    def need(self) -> None:
        """The stream will be needed: a cluster without handlers never makes it."""
        self._needed.set()

    async def open(self) -> None:
        """Wait until the stream is there, and this process may act."""
        await self._open.wait()

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    def change(self, record: Record) -> None:
        """The record should be something else now."""
        record.version += 1
        self.records[record.subject] = record
        self.need()
        self._enqueue(record)

    async def stored(self, record: Record, seconds: float) -> None:
        """Wait until the record is stored as it should be now. Raises Unavailable when it is not in time, or
        is another gateway's."""
        version = record.version
        try:
            async with asyncio.timeout(seconds):
                while record.stored < version:
                    future: asyncio.Future[None] = self._loop.create_future()
                    record.watched.append(future)
                    await future
        except TimeoutError as error:
            raise Unavailable("The queue of events takes nothing.") from error

    @staticmethod
    def _tell_watchers(record: Record, error: HubwireError | None = None) -> None:
        watched, record.watched = record.watched, []
        for future in watched:
            settle(future, None, error)

    def _enqueue(self, record: Record) -> None:
        if not record.busy:
            record.busy = True
            self._changed.put_nowait(record)

    def _interrupted(self) -> None:
        self._open.clear()
        self._mark = None

    # -- writing -----------------------------------------------------------------------------------

    async def write(self) -> None:
        """One writer; run WRITERS of them."""
        while True:
            record = await self._changed.get()
            try:
                while record.stored != record.version and self.records.get(record.subject) is record:
                    await self._open.wait()
                    try:
                        await self._write(record)
                    except StreamMissing:
                        self._interrupted()
                    except HubwireError as error:
                        log.debug("event_record_not_written", subject=record.subject, error=str(error))
                        await asyncio.sleep(PAUSE_SECONDS)
            finally:
                record.busy = False

    async def _write(self, record: Record) -> None:
        """One attempt. Raises Unavailable when it has to be repeated."""
        version, needed = record.version, record.needed
        if not needed and not record.unsure:
            if record.revision:
                await self._events.remove(record.subject, record.revision)
            if record.version == version:
                self.records.pop(record.subject, None)
            else:
                record.revision = 0
            record.stored = version
            self._tell_watchers(record)
            return
        # What is not needed while we are unsure is emptied first: that shows whether it is still ours, and
        # what of us is still on its way to the stream comes too late.
        data = Document(VERSION, tuple(record.pending), record.owed).pack()
        try:
            revision = await self._events.put(record.subject, data, record.revision)
        except StreamFull as error:
            self._tell_full(error)
            if not needed:
                await self._settle(record, data)
                return
            revision = record.revision  # it lives in our memory only; that is better than not at all
        except LimitExceeded as error:  # so does what no message can hold, and to repeat it changes nothing
            log.error("event_record_too_large", connection_id=record.connection_id, error=str(error))
            revision = record.revision
        except StreamMissing:
            raise
        except Unavailable:
            record.unsure.add(data)
            raise
        if revision is None:
            await self._settle(record, data)
            return
        record.revision = revision
        record.unsure.clear()
        if needed:
            record.stored = version
            record.written_at = self._loop.time()
            self._tell_watchers(record)
            self.on_stored(record)

    async def _settle(self, record: Record, data: bytes) -> None:
        """It is not as we left it: an earlier attempt of ours was stored, the stream is a new one, or another
        gateway has taken the record over because it was certain that we are gone."""
        found = await self._events.read(record.subject)
        if found is None:
            record.revision = 0
            record.unsure.clear()
        elif found.data == data or found.data in record.unsure or found.seq == record.revision:
            record.revision = found.seq
            record.unsure.clear()
        else:
            log.warning("event_record_lost", connection_id=record.connection_id, outbox=record.outbox)
            self.records.pop(record.subject, None)
            self._tell_watchers(record, Unavailable("Another gateway has the record."))
            self.on_lost(record)

    def _tell_full(self, error: StreamFull) -> None:
        self.full += 1
        now = self._loop.time()
        if now - self._full_told >= FULL_TOLD_SECONDS:
            self._full_told = now
            log.error("event_queue_full", error=str(error), count=self.full)

    # -- being able to -----------------------------------------------------------------------------

    async def keep_open(self) -> None:
        """Make the stream when it is needed, and again when it is lost; say whether we may write."""
        await self._needed.wait()
        told = False
        while True:
            if not (self._bus.connected and self._may_act()):
                self._open.clear()
            elif self._mark is None or self._loop.time() - self._mark_at > RENEW_SECONDS:
                try:
                    await self._prepare()
                    told = False
                    self._open.set()
                except HubwireError as error:
                    if not told:
                        log.warning("event_queue_not_open", error=str(error))
                    told = True
                    await asyncio.sleep(PAUSE_SECONDS)
            else:
                self._open.set()
            await asyncio.sleep(LOOK_SECONDS)

    async def _prepare(self) -> None:
        await self._events.open()
        incarnation = await self._events.incarnation()
        if self._incarnation not in ("", incarnation):
            # The server's memory was lost with all that was in the stream; we still know our part of it.
            log.warning("event_queue_lost", records=len(self.records))
            for record in self.records.values():
                record.revision = 0
                record.unsure.clear()
                record.version += 1
                self._enqueue(record)
        self._incarnation = incarnation
        found = await self._events.holder(self.name)
        if found is not None and found[0] != self.name:
            raise Unavailable("Another gateway works off the events of this one, whose lease has ended.")
        mark = await self._events.hold(self.name, self.name, found[1] if found is not None else 0)
        if mark is None:
            raise Unavailable("The outbox was changed meanwhile.")
        self._mark = mark
        self._mark_at = self._loop.time()

    async def close(self, seconds: float) -> int:
        """Wait until nothing is left to do, for so long; returns how many records of this gateway's own
        remain. Without any, nobody has to look for what it has left behind."""
        end = self._loop.time() + seconds
        while self.records and self._loop.time() < end and self._may_act():  # noqa: ASYNC110 (at the stop)
            await asyncio.sleep(0.02)
        left = sum(record.outbox == self.name for record in self.records.values())
        if not left and self._mark is not None and self.is_open:
            try:
                await self._events.close_outbox(self.name, self._mark)
            except HubwireError as error:
                log.debug("outbox_not_closed", error=str(error))
        return left
