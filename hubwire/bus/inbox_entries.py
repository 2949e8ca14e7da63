"""The entries of an inbox, the log of a gateway's reliable sessions (DESIGN.md section 5): pure.

One message of the stream is a batch of entries of one writer:
    [VERSION, writer, number, [entry, ...]]      `number` counts up, also over the writer's other inboxes

By a partition's owner:
    message     [MESSAGE, partition, epoch, stamp, sender, number, key, body, publisher, ack id]
By the gateway that holds the session, into its own inbox:
    direct      [DIRECT, session, body]
    opened      [OPENED, session, state]
    joined      [JOINED, session, group]
    left        [LEFT, session, group]
    permission  [PERMISSION, session, granted, permission, group]
    source      [SOURCE, session, source]
    acked       [ACKED, [[session, acked, window], ...]]
    closed      [CLOSED, session, generation]
    adopted     [ADOPTED, session, generation, since, part, parts, a part of the state]
    checkpoint  [CHECKPOINT, cycle, as of, part, parts, a part of what was seen]
    carried     [CARRIED, cycle, seq, entry, at, key, body, expires]
    snapshot    [SNAPSHOT, cycle, session, as of, part, parts, a part of the state]
    complete    [COMPLETE, cycle, as of]
By a gateway that wants a session, into its holder's inbox:
    mark        [MARK, session, generation, by]

`stamp` counts up per owner, partition and epoch, from 1. `publisher` and `ack id` are None, or name a
publish that its client may send again, also over another gateway. `group` of a permission is None for all
groups. Sequence numbers are those of the stream that the entry stands in. A state or what was seen may be
larger than a message, so it comes in parts: all of a kind behind one another, in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from hubwire.bus.envelopes import pack, unpack
from hubwire.model.errors import InvalidRequest

(
    MESSAGE,
    DIRECT,
    OPENED,
    JOINED,
    LEFT,
    PERMISSION,
    SOURCE,
    ACKED,
    CLOSED,
    MARK,
    ADOPTED,
    CHECKPOINT,
    SNAPSHOT,
    CARRIED,
    COMPLETE,
) = range(15)

PART_BYTES: Final = 128 * 1024
"""The largest part of a state."""


class Batch(NamedTuple):
    """One message of an inbox. An entry is a list that begins with its kind."""

    writer: str
    number: int
    entries: list[list[Any]]


def unpack_batch(data: bytes) -> Batch:
    """Raises InvalidRequest when the bytes are no batch. Entries are not looked into."""
    value = unpack(data)
    if len(value) != 4:
        raise InvalidRequest("Not a batch of an inbox.")
    _, writer, number, entries = value
    if not isinstance(writer, str) or type(number) is not int or not isinstance(entries, list):
        raise InvalidRequest("Not a batch of an inbox.")
    return Batch(writer, number, entries)


def message_entry(
    partition: int,
    epoch: int,
    stamp: int,
    sender: str,
    number: int,
    key: str,
    body: bytes,
    publisher: str | None = None,
    ack_id: int | None = None,
) -> bytes:
    """What an owner writes, packed once for as many inboxes as there are. `key` is the plain key."""
    return pack([MESSAGE, partition, epoch, stamp, sender, number, key, body, publisher, ack_id])


def direct_entry(session: str, body: bytes) -> bytes:
    """A message to one connection."""
    return pack([DIRECT, session, body])


def opened_entry(session: str, state: bytes) -> bytes:
    """A new session; `state` is made by gateway.reliable.state.pack_state."""
    return pack([OPENED, session, state])


def joined_entry(session: str, group: str) -> bytes:
    return pack([JOINED, session, group])


def left_entry(session: str, group: str) -> bytes:
    return pack([LEFT, session, group])


def permission_entry(session: str, granted: bool, permission: str, group: str | None) -> bytes:
    """A grant, or else a revocation."""
    return pack([PERMISSION, session, granted, permission, group])


def source_entry(session: str, source: bytes) -> bytes:
    """`source` is what event handlers know of the connection, packed by the holder; opaque to the fold."""
    return pack([SOURCE, session, source])


def acked_entry(acks: Iterable[tuple[str, int, list[int] | None]]) -> bytes:
    """Of each session what the client has, and `AckWindow.snapshot()` when that has changed, else None."""
    return pack([ACKED, [list(one) for one in acks]])


def closed_entry(session: str, generation: int) -> bytes:
    """The session has ended, or is held elsewhere. It closes what is of this generation or an older one."""
    return pack([CLOSED, session, generation])


def mark_entry(session: str, generation: int, by: str) -> bytes:
    """Changes no state. The holder in that generation lets go of the socket at exactly this place."""
    return pack([MARK, session, generation, by])


def adopted_entries(session: str, generation: int, since: int, state: bytes) -> Iterator[bytes]:
    """To be submitted behind one another. What stands behind `since` in the inbox is for the session too."""
    parts = _split(state)
    for part, piece in enumerate(parts):
        yield pack([ADOPTED, session, generation, since, part, len(parts), piece])


def checkpoint_entries(cycle: int, as_of: int, seen: bytes) -> Iterator[bytes]:
    parts = _split(seen)
    for part, piece in enumerate(parts):
        yield pack([CHECKPOINT, cycle, as_of, part, len(parts), piece])


def snapshot_entries(cycle: int, session: str, as_of: int, state: bytes) -> Iterator[bytes]:
    parts = _split(state)
    for part, piece in enumerate(parts):
        yield pack([SNAPSHOT, cycle, session, as_of, part, len(parts), piece])


def carried_entry(cycle: int, place: tuple[int, int, int], key: str, body: bytes, expires: float) -> bytes:
    """A message that stands where the log will be trimmed away, under its place."""
    return pack([CARRIED, cycle, *place, key, body, expires])


def complete_entry(cycle: int, as_of: int) -> bytes:
    return pack([COMPLETE, cycle, as_of])


def _split(blob: bytes) -> list[bytes]:
    return [blob[at : at + PART_BYTES] for at in range(0, len(blob), PART_BYTES)] or [b""]
