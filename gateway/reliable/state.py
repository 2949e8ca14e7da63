"""The state of a reliable session, as the fold keeps it and as it is carried about. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgpack

from gateway.reliable.messages import Logged
from gateway.reliable.seen import Publishes
from hubwire.bus.envelopes import pack
from hubwire.model.permissions import PermissionSet

STATE_VERSION: Final = 1
LEFT_VERSION: Final = 2
"""Of a session that has left groups: only those are not understood by gateways of before, which take sessions
over while an upgrade rolls, or is rolled back."""


class Base:
    """What a session that came from another inbox has had, per partition of its keys: its own memory, since
    what this inbox has had says nothing of it. It counts until the time `until`, when nobody repeats any more
    what was under way while it moved.

    `left` are those partitions of which it had left the groups by then. What the inbox has had of them was
    not for it; so when it has joined one again, a message must be fresh for both.
    """

    __slots__ = ("left", "partitions", "until")

    def __init__(self, partitions: dict[int, Publishes], until: float, left: set[int]) -> None:
        self.partitions = partitions
        self.until = until
        self.left = left


class SessionState:
    """One session as of a place in the log.

    `groups` and `permissions` are live: the fold changes them in place. `source` and `window` are opaque:
    what event handlers know of it, and the runs of executed ack ids. The ids of `unacked` are those from
    `acked` + 1 to `last_id`. `since`: its log begins behind that sequence number. `left`: the partitions of
    groups that it has left, and when it left one last. Whoever holds it may call `ack` before the entry of it
    is folded, nothing else.
    """

    __slots__ = (
        "acked",
        "base",
        "generation",
        "groups",
        "hub",
        "id",
        "last_id",
        "left",
        "permissions",
        "since",
        "source",
        "subprotocol",
        "unacked",
        "unacked_bytes",
        "user_id",
        "window",
    )

    def __init__(
        self,
        id: str,
        hub: str,
        user_id: str | None,
        subprotocol: str,
        *,
        groups: set[str] | None = None,
        permissions: PermissionSet | None = None,
        source: bytes = b"",
        generation: int = 0,
    ) -> None:
        self.id = id
        self.hub = hub
        self.user_id = user_id
        self.subprotocol = subprotocol
        self.generation = generation
        self.groups = set() if groups is None else groups
        self.permissions = PermissionSet() if permissions is None else permissions
        self.source = source
        self.window: list[int] = []
        self.last_id = 0
        self.acked = 0
        self.unacked: deque[Logged] = deque()
        self.unacked_bytes = 0
        self.base: Base | None = None
        self.left: dict[int, float] | None = None
        self.since = 0

    def ack(self, sequence_id: int) -> None:
        """Everything up to that id is released; all of it when it is beyond what was sent (4.3)."""
        while self.acked < sequence_id and self.unacked:
            self.unacked_bytes -= self.unacked.popleft().size
            self.acked += 1

    def replay(self, now: float) -> Iterator[tuple[int, Logged]]:
        """What the client may not have, with the ids, without what has expired (4.6, 4.7)."""
        for at, message in enumerate(tuple(self.unacked), self.acked + 1):
            if not message.expires or now < message.expires:
                yield at, message


def pack_state(
    session: SessionState,
    *,
    generation: int | None = None,
    base: Base | None = None,
    inline: bool = True,
) -> bytes:
    """The state, for `unpack_state`: with its messages in it, or else with their places only; with its own
    base or another one."""
    if base is None:
        base = session.base
    base_left = list(base.left) if base is not None else []
    left = [*map(list, session.left.items())] if session.left else []
    with_left = [base_left, left] if base_left or left else []
    return pack(
        [
            LEFT_VERSION if with_left else STATE_VERSION,
            session.id,
            session.hub,
            session.user_id,
            session.subprotocol,
            session.generation if generation is None else generation,
            list(session.groups),
            session.permissions.snapshot(),
            session.source,
            session.window,
            session.last_id,
            session.acked,
            session.since,
            [[p, seen.pack()] for p, seen in base.partitions.items()] if base is not None else None,
            base.until if base is not None else 0.0,
            [[m.key, m.body, m.size, m.expires] if inline else list(m.place) for m in session.unacked],
            *with_left,
        ]
    )


Find = Callable[[int, list[Any]], Logged]
"""From the index among the unacknowledged and what is packed of a message to the message."""


def unpack_state(blob: bytes, find: Find) -> SessionState:
    """Raises ValueError, TypeError or LookupError when it is no state, or when a message is not found."""
    packed = msgpack.unpackb(blob, raw=False, unicode_errors="surrogatepass", strict_map_key=False)
    version, id, hub, user_id, subprotocol, generation, groups, permissions, source, *rest = packed
    if version not in (STATE_VERSION, LEFT_VERSION):
        raise ValueError(f"Not a session's state of version {STATE_VERSION} or {LEFT_VERSION}.")
    window, last_id, acked, since, base, until, unacked, *with_left = rest
    base_left, left = with_left or ((), ())
    session = SessionState(
        id,
        hub,
        user_id,
        subprotocol,
        groups=set(groups),
        permissions=PermissionSet.restored(permissions),
        source=source,
        generation=generation,
    )
    session.window = window
    session.last_id = last_id
    session.acked = acked
    session.since = since
    if base is not None:
        partitions = {partition: Publishes.restored(seen) for partition, seen in base}
        session.base = Base(partitions, until, set(base_left))
    if left:
        session.left = dict(left)
    session.unacked.extend(find(at, one) for at, one in enumerate(unacked))
    if len(unacked) != last_id - acked:
        raise ValueError("What is not acknowledged does not fit the ids.")
    session.unacked_bytes = sum(message.size for message in session.unacked)
    return session
