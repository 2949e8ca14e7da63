"""The work queue of notifications: what application servers are still to be told (docs/decisions/0014).

One stream, `hw_events`, that keeps the last message of each subject:

    hw.event.<outbox>.<connection>             the life of a connection: that its `disconnected` is owed, and
                                               its `connected` and `disconnected` while they wait
    hw.event.<outbox>.<connection>.<number>    one other event that waits: `joined`, `left`
    hw.outbox.<outbox>                         the outbox is in use; who works it off

An outbox is named after the gateway whose connections it is about, and is worked off by it while it lives;
afterwards a living gateway takes it over, in one compare-and-set of `hw.outbox.<outbox>`. Each message
has one writer, who knows its revision; who takes it over changes it by compare-and-set, so of a gateway that
was wrongly believed dead and of its successor exactly one decides what becomes of a connection.

Guarantee: what is stored is kept until it is removed, or the stream's age is over. The stream is bounded:
past it `put` raises StreamFull, and nothing that is in it is lost.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
import nats.errors
import nats.js.errors
from nats.js.api import DiscardPolicy, StorageType, StreamConfig

from hubwire.bus.client import BusClient
from hubwire.bus.jetstream import StoredMessage, StreamMissing, call, last_of, store
from hubwire.bus.keys import partition_of
from hubwire.model.errors import InvalidRequest, Unavailable

STREAM: Final = "hw_events"
MAX_BYTES: Final = 256 * 1024 * 1024
"""About 400,000 connections whose `disconnected` is owed."""
MAX_AGE_SECONDS: Final = 7 * 24 * 3600.0
"""What is still true after a day is written again by its gateway."""
VERSION: Final = 1

_OUTBOX_PREFIX = "hw.outbox."


class Pending(msgspec.Struct, frozen=True, array_like=True):
    """An event that waits. `queued` is when it was given to the queue, Unix seconds; `payload` is what the
    gateway needs to send it, in its own format."""

    number: int
    queued: float
    payload: bytes


class Document(msgspec.Struct, frozen=True, array_like=True):
    """One message of the stream. `owed`: what is needed to tell of the end of a connection that has not
    ended, as far as its gateway has said."""

    version: int
    pending: tuple[Pending, ...] = ()
    owed: bytes | None = None

    def pack(self) -> bytes:
        return msgspec.msgpack.encode(self)


_decoder = msgspec.msgpack.Decoder(Document)


def unpack_document(data: bytes) -> Document:
    """Raises InvalidRequest."""
    try:
        document = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"Not a record of the event queue: {error}") from error
    if document.version != VERSION:
        raise InvalidRequest(f"Not a record of the event queue of version {VERSION}.")
    return document


def life_subject(outbox: str, connection_id: str) -> str:
    return f"hw.event.{outbox}.{connection_id}"


def event_subject(outbox: str, connection_id: str, number: int) -> str:
    return f"hw.event.{outbox}.{connection_id}.{number}"


def outbox_partition(outbox: str) -> int:
    """Whose router looks after it once its gateway is gone."""
    return partition_of(f"o\0{outbox}")


async def open_stream(bus: BusClient, config: StreamConfig) -> None:
    """Make the stream unless it is there; one that is there is taken as it is. Raises Unavailable."""
    try:
        await call(bus, "INFO", str(config.name), {})
        return
    except StreamMissing:
        pass
    try:
        async with asyncio.timeout(5):
            await bus.js.add_stream(config)
    except nats.js.errors.BadRequestError:
        return  # somebody made it a moment ago, configured otherwise; theirs counts
    except (TimeoutError, nats.errors.Error, OSError) as error:
        raise Unavailable(f"The stream {config.name} cannot be opened: {error!r}") from error


class EventLog:
    """The stream, for one process. Every method ends within a few seconds or raises Unavailable, after which
    it is not known whether a change was made."""

    def __init__(self, bus: BusClient, *, memory: bool, replicas: int) -> None:
        self._bus = bus
        self._config = StreamConfig(
            name=STREAM,
            subjects=["hw.event.>", "hw.outbox.*"],
            max_msgs_per_subject=1,
            max_bytes=MAX_BYTES,
            max_age=MAX_AGE_SECONDS,
            discard=DiscardPolicy.NEW,
            storage=StorageType.MEMORY if memory else StorageType.FILE,
            num_replicas=replicas,
        )

    async def open(self) -> None:
        await open_stream(self._bus, self._config)

    async def incarnation(self) -> str:
        """Differs when the stream was lost and made anew."""
        return str((await call(self._bus, "INFO", STREAM, {}))["created"])

    # -- records of events -------------------------------------------------------------------------

    async def put(self, subject: str, data: bytes, revision: int) -> int | None:
        """Replace the record that stands at `revision` (0: there is none). Its new revision, or None when it
        does not stand there. Raises StreamMissing, StreamFull too."""
        return await store(self._bus, subject, data, revision)

    async def remove(self, subject: str, revision: int) -> None:
        """Remove the record, unless it was changed after `revision`."""
        try:
            await call(self._bus, "PURGE", STREAM, {"filter": subject, "seq": revision + 1})
        except StreamMissing:
            pass

    async def read(self, subject: str) -> StoredMessage | None:
        return await last_of(self._bus, STREAM, subject)

    async def subjects(self, outbox: str) -> list[str]:
        """The subjects of all records of an outbox."""
        return await self._subjects(f"hw.event.{outbox}.>")

    async def elsewhere(self, outbox: str, connection_id: str) -> list[str]:
        """The subjects of a connection's records in other outboxes than this one."""
        own = f"hw.event.{outbox}."
        lives = await self._subjects(f"hw.event.*.{connection_id}")
        others = await self._subjects(f"hw.event.*.{connection_id}.*")
        return [subject for subject in (*lives, *others) if not subject.startswith(own)]

    async def _subjects(self, pattern: str) -> list[str]:
        found: list[str] = []
        while True:
            request = {"subjects_filter": pattern, "offset": len(found)}
            try:
                info = await call(self._bus, "INFO", STREAM, request)
            except StreamMissing:
                return []
            page = info["state"].get("subjects") or ()
            found += page
            if not page or len(found) >= info.get("total", 0):
                return found

    # -- outboxes ----------------------------------------------------------------------------------

    async def outboxes(self) -> list[str]:
        """All that are in use."""
        return [subject[len(_OUTBOX_PREFIX) :] for subject in await self._subjects(_OUTBOX_PREFIX + "*")]

    async def holder(self, outbox: str) -> tuple[str, int] | None:
        """Who works it off ("" for nobody yet), and the revision of that; None when it is not in use."""
        found = await last_of(self._bus, STREAM, _OUTBOX_PREFIX + outbox)
        return (found.data.decode(errors="replace"), found.seq) if found is not None else None

    async def hold(self, outbox: str, holder: str, revision: int) -> int | None:
        """Become who works it off; None when somebody else was first."""
        return await store(self._bus, _OUTBOX_PREFIX + outbox, holder.encode(), revision)

    async def close_outbox(self, outbox: str, revision: int) -> None:
        """It is empty and nobody will put anything there any more."""
        await self.remove(_OUTBOX_PREFIX + outbox, revision)
