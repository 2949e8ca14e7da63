"""The records of reliable sessions: which gateway holds a session, in which generation.

One stream, `hw_sessions`, that keeps the last message of each subject `hw.session.<connection id>`. A
session has a record only once it moved, was attached again or ended; without one it is in generation 0,
held by the gateway that made its id. A session that has ended has no holder, but says whose it was: that one
owes its last event. It is kept for a while, so that nobody brings it back, and then removed by the server.

Guarantee: a record changes by compare-and-set only, so of several that want a session one gets it.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from hubwire.bus.client import BusClient
from hubwire.bus.envelopes import VERSION, pack, unpack
from hubwire.bus.jetstream import StreamMissing, call, last_of, store
from hubwire.bus.subjects import SESSION_SUBJECTS, SESSIONS_STREAM, session_subject
from hubwire.model.errors import InvalidRequest, Unavailable
from hubwire.model.names import gateway_of

NOBODY: Final = ""
"""The holder of a session that has ended."""

TOMBSTONE_SECONDS: Final = 900
MAX_BYTES: Final = 256 * 1024 * 1024
"""More than a million records; past it no session moves or ends until others are removed."""


class SessionRecord(NamedTuple):
    """`revision` is what a change must name (0: there is no record). `ended_by`: the last holder of one that
    has ended, else ""."""

    generation: int
    holder: str
    revision: int
    ended_by: str = ""

    @property
    def ended(self) -> bool:
        return self.holder == NOBODY


class SessionRecords:
    """The records, for one process. Everything ends within seconds or raises Unavailable."""

    def __init__(self, bus: BusClient, *, memory: bool, replicas: int) -> None:
        self._bus = bus
        self._config: dict[str, Any] = {
            "name": SESSIONS_STREAM,
            "subjects": [SESSION_SUBJECTS],
            "retention": "limits",
            "discard": "new",
            "max_msgs_per_subject": 1,
            "max_msgs": -1,
            "max_bytes": MAX_BYTES,
            "max_age": 0,
            "max_consumers": -1,
            "storage": "memory" if memory else "file",
            "num_replicas": replicas,
            "allow_msg_ttl": True,
            "allow_direct": False,
        }

    async def open(self) -> None:
        """Make the stream unless it is there. Done by `change` too, when it turns out to be missing."""
        try:
            await call(self._bus, "INFO", SESSIONS_STREAM, {})
        except StreamMissing:
            await call(self._bus, "CREATE", SESSIONS_STREAM, self._config)

    async def read(self, connection_id: str) -> SessionRecord:
        """Who holds a session, as the stream's leader has it. Raises Unavailable, and InvalidRequest for an
        id that is not one of ours."""
        maker = gateway_of(connection_id)
        if maker is None:
            raise InvalidRequest(f"{connection_id[:64]!r} is no connection id.")
        try:
            found = await last_of(self._bus, SESSIONS_STREAM, session_subject(connection_id))
        except StreamMissing:
            found = None
        if found is None:
            return SessionRecord(0, maker, 0)
        try:
            _, generation, holder, *rest = unpack(found.data)
            ended_by = rest[0] if rest else ""
            if not (isinstance(generation, int) and isinstance(holder, str) and isinstance(ended_by, str)):
                raise TypeError("a generation and a holder are needed")
        except (InvalidRequest, ValueError, TypeError) as error:
            raise Unavailable(f"The record of {connection_id} cannot be read: {error}") from error
        return SessionRecord(generation, holder, found.seq, ended_by)

    async def change(self, connection_id: str, generation: int, holder: str, revision: int) -> int | None:
        """Replace the record that stands at `revision` (0: there is none). Its new revision, or None when it
        does not stand there: somebody else was first.

        Raises Unavailable when it is not known whether it was changed, or will be: what is read then may
        still be followed by this change. Only a later change from the same revision settles it. Raises
        StreamFull too.
        """
        return await self._put(connection_id, [VERSION, generation, holder], revision)

    async def end(
        self,
        connection_id: str,
        generation: int,
        ended_by: str,
        revision: int,
        ttl_seconds: int = TOMBSTONE_SECONDS,
    ) -> int | None:
        """`change` to a session that has ended: nobody holds it, and it is forgotten after a while.
        `ended_by` is its holder until now."""
        record = [VERSION, generation, NOBODY, ended_by]
        return await self._put(connection_id, record, revision, ttl_seconds)

    async def _put(
        self, connection_id: str, record: list[Any], revision: int, ttl_seconds: int | None = None
    ) -> int | None:
        data = pack(record)
        subject = session_subject(connection_id)
        try:
            return await store(self._bus, subject, data, revision, ttl_seconds=ttl_seconds)
        except StreamMissing:
            await self.open()  # raises Unavailable while a leader is being elected
        try:
            return await store(self._bus, subject, data, revision, ttl_seconds=ttl_seconds)
        except StreamMissing as error:
            raise Unavailable("The records of sessions have no leader.") from error
