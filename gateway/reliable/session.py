"""A reliable session as its holder has it: the folded state, the socket that it has or lacks, what is
owed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from gateway.protocol.codec import ReliableCodec
from gateway.protocol.negotiate import RELIABLE
from gateway.reliable.state import SessionState
from gateway.session import AckWindow
from gateway.upstream.source import EventSource, SourceSnapshot
from hubwire.model.errors import HubwireError, NotFound, Unavailable
from hubwire.model.permissions import PermissionSet

if TYPE_CHECKING:
    from gateway.reliable.connection import ReliableConnection

EVENTS_AHEAD = 1_000_000
"""Each holder of a session counts its events in a range of its own: most of them are not logged, and no
number may be used twice."""
EVENTS_LOGGED = EVENTS_AHEAD // 2
"""After so many the count is logged, so that a range is never left."""

_source = msgspec.msgpack.Decoder(SourceSnapshot)


class Session:
    """What the holder knows beside the log. `state` belongs to the fold and is only read here, but for acks.

    `generation` and `revision` are those of the session's record. `over`: its end is decided, or it is
    another gateway's: `moved`. `moving`: another gateway wants it, and who has it is not decided. `judged`:
    whether what is not acknowledged may end it; not before a recovered client's first ack. `came`: when, by
    the loop's clock, it came from elsewhere or was last wanted there, in vain. `wanted`: the
    highest generation that another gateway has marked, -1 for none; it can be one that we have not heard of
    ourselves yet, since the record comes first.
    """

    __slots__ = (
        "_logged_events",
        "_source",
        "announced",
        "came",
        "changes",
        "codec",
        "connection",
        "deadline",
        "generation",
        "judged",
        "logged_source",
        "moved",
        "moving",
        "over",
        "revision",
        "state",
        "wanted",
        "window",
    )

    def __init__(self, state: SessionState, *, generation: int, revision: int, recovered: bool) -> None:
        self.state = state
        self.codec: ReliableCodec = RELIABLE[state.subprotocol]
        self.generation = generation
        self.revision = revision
        self.connection: ReliableConnection | None = None
        self.deadline = 0.0
        self.came = -math.inf
        self.judged = not recovered
        self.announced = recovered
        self.over = False
        self.moving = False
        self.moved = False
        self.wanted = -1
        self.changes: dict[str, list[Callable[[], None]]] | None = None
        self.window = AckWindow.restored(state.window) if state.window else AckWindow()
        self._source: EventSource | None = None
        self.logged_source: tuple[object, object] = (None, None)
        self._logged_events = 0
        if recovered and state.source:
            source = self.source
            source.events = max(source.events + EVENTS_AHEAD, generation * EVENTS_AHEAD)
            self._logged_events = source.events

    def held(self, generation: int, revision: int) -> None:
        """The record says that it is held here in this generation: who has marked one of before is too
        late."""
        if generation > self.generation:
            self.generation, self.revision = generation, revision
        self.moving = self.wanted >= self.generation

    def fault(self) -> HubwireError | None:
        """Why nothing can be asked of it here; None when it is here."""
        if self.moved or (self.moving and not self.over):
            return Unavailable("The session is on its way to another gateway.")
        return NotFound("The connection is closed.") if self.over else None

    @property
    def id(self) -> str:
        return self.state.id

    @property
    def hub(self) -> str:
        return self.state.hub

    @property
    def user_id(self) -> str | None:
        return self.state.user_id

    @property
    def groups(self) -> set[str]:
        return self.state.groups

    @property
    def permissions(self) -> PermissionSet:
        return self.state.permissions

    @property
    def source(self) -> EventSource:
        """What event handlers know of it; made when it is first asked for."""
        source = self._source
        if source is None:
            if self.state.source:
                source = EventSource.restored(_source.decode(self.state.source))
            else:
                source = EventSource(self.hub, self.id, self.user_id)
                source.subprotocol = self.state.subprotocol
            if self.announced:
                source.events = max(1, source.events)
            self._source = source
            self.logged_source = (source.state, source.cookies)
        return source

    @property
    def source_changed(self) -> bool:
        """Whether an event handler has said something that must outlive this gateway, or very much has
        happened."""
        source = self._source
        return source is not None and (
            self.logged_source != (source.state, source.cookies)
            or source.events - self._logged_events > EVENTS_LOGGED
        )

    def packed_source(self) -> bytes:
        self.logged_source = (self.source.state, self.source.cookies)
        self._logged_events = self.source.events
        return msgspec.msgpack.encode(self.source.snapshot())
