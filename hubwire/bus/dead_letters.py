"""Dead letters: events that were given up, with the reason, for a person to look at and to send again.

The stream `hw_dead_letters` keeps the latest of them, bounded by number, bytes and age; the oldest go first.
"""

from __future__ import annotations

import secrets
from typing import Final, NamedTuple

import msgspec
from nats.js.api import DiscardPolicy, StorageType, StreamConfig

from hubwire.bus.client import BusClient
from hubwire.bus.event_log import VERSION, Document, EventLog, Pending, event_subject, open_stream
from hubwire.bus.jetstream import StoredMessage, StreamMissing, call, message_at, next_of, store
from hubwire.model.errors import NotFound, Unavailable

STREAM: Final = "hw_dead_letters"
SUBJECT: Final = "hw.dead"
MAX_COUNT: Final = 100_000
MAX_BYTES: Final = 64 * 1024 * 1024
MAX_AGE_SECONDS: Final = 7 * 24 * 3600.0


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An event that was given up.

    `number` is its `ce-id`; `happened`, `queued` and `given_up` are Unix seconds; `attempts` counts the
    turns that it had (each with the quick repeats of server-events.md 4.8); `category`, `reason`, `status`
    and `url` are those of the last failure, without secrets. `payload` is the event as the gateways queue
    it: it has the state and cookies of the connection, which are not for showing.
    """

    hub: str
    event: str
    connection_id: str
    number: int
    happened: float
    queued: float
    given_up: float
    attempts: int
    category: str
    reason: str
    status: int | None = None
    url: str = ""
    user_id: str | None = None
    group: str = ""
    payload: bytes = b""


class KeptLetter(NamedTuple):
    """`id` names it for `retry` and `drop`."""

    id: int
    letter: DeadLetter


_decoder = msgspec.msgpack.Decoder(DeadLetter)


def _unpack(message: StoredMessage) -> KeptLetter | None:
    try:
        return KeptLetter(message.seq, _decoder.decode(message.data))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # of another version, or not ours


class DeadLetters:
    """Keep, list, send again, drop. Everything raises Unavailable when NATS does not answer."""

    def __init__(self, bus: BusClient, *, memory: bool, replicas: int) -> None:
        self._bus = bus
        self._config = StreamConfig(
            name=STREAM,
            subjects=[SUBJECT],
            max_msgs=MAX_COUNT,
            max_bytes=MAX_BYTES,
            max_age=MAX_AGE_SECONDS,
            discard=DiscardPolicy.OLD,
            storage=StorageType.MEMORY if memory else StorageType.FILE,
            num_replicas=replicas,
        )
        self._events = EventLog(bus, memory=memory, replicas=replicas)

    async def keep(self, letter: DeadLetter) -> int:
        """Store it, and return its id. After Unavailable it may be there all the same."""
        data = msgspec.msgpack.encode(letter)
        try:
            stored = await store(self._bus, SUBJECT, data)
        except StreamMissing:
            await open_stream(self._bus, self._config)
            stored = await store(self._bus, SUBJECT, data)
        assert stored is not None
        return stored

    async def list(self, *, after: int = 0, limit: int = 100, hub: str = "") -> list[KeptLetter]:
        """The next letters after an id, oldest first; with `hub` only those of that hub (in any case)."""
        found: list[KeptLetter] = []
        while len(found) < limit:
            try:
                message = await next_of(self._bus, STREAM, SUBJECT, after)
            except StreamMissing:
                break
            if message is None:
                break
            after = message.seq
            kept = _unpack(message)
            if kept is not None and (not hub or kept.letter.hub == hub.lower()):
                found.append(kept)
        return found

    async def get(self, id: int) -> KeptLetter:
        """Raises NotFound."""
        try:
            message = await message_at(self._bus, STREAM, id)
        except StreamMissing:
            message = None
        kept = _unpack(message) if message is not None else None
        if kept is None:
            raise NotFound(f"There is no dead letter {id}.")
        return kept

    async def drop(self, id: int) -> None:
        """Raises NotFound."""
        await self.get(id)
        try:
            await call(self._bus, "MSG.DELETE", STREAM, {"seq": id, "no_erase": True})
        except Unavailable:
            # A message that is not there is refused with codes that depend on the kind of store.
            await self.get(id)
            raise

    async def retry(self, id: int, *, now: float) -> None:
        """Queue the event once more, with the same `ce-id`, and take its letter away. A gateway gets it
        within seconds. `now` is Unix time. Raises NotFound. When it fails in the middle the event may be
        sent although the letter is still there."""
        letter = (await self.get(id)).letter
        await self._events.open()
        # An outbox of its own, that belongs to nobody: the routers find it a living gateway.
        outbox = f"retry-{secrets.token_hex(6)}"
        document = Document(VERSION, (Pending(letter.number, now, letter.payload),))
        await self._events.put(event_subject(outbox, letter.connection_id, letter.number), document.pack(), 0)
        await self._events.hold(outbox, "", 0)
        await self.drop(id)
