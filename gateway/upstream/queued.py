"""One copy of an event as it waits: for a handler, or for a listener. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import msgspec

from gateway.upstream.audience import Audience, lane_of
from gateway.upstream.contexts import NotificationContext
from gateway.upstream.outbox import Record
from gateway.upstream.owed import disconnected_of
from gateway.upstream.source import EventSource
from hubwire.bus.event_log import Pending
from hubwire.model.event_handlers import DISCONNECTED, HandlerEvent

_decoder = msgspec.msgpack.Decoder(NotificationContext)


class QueuedEvent(NamedTuple):
    """What the schedule carries. `listener` names the endpoint that it is for, "" the handler. `key` is the
    upstream or endpoint that its bytes are counted for. `source`: the connection, while it is here."""

    record: Record
    pending: Pending
    hub: str
    handled: HandlerEvent
    listener: str
    key: Hashable
    source: EventSource | None

    @property
    def lane(self) -> str:
        return lane_of(self.record.connection_id, self.listener)


def context_of(pending: Pending) -> NotificationContext:
    """What waits. Raises msgspec.DecodeError."""
    return _decoder.decode(pending.payload)


def copy_for(context: NotificationContext, listener: str) -> NotificationContext:
    """The event for one of its audience. Cookies are the handler's own."""
    if not listener:
        return context
    source = msgspec.structs.replace(context.source, cookies=())
    return msgspec.structs.replace(context, source=source, listener=listener)


def last_words(owed: bytes, now: float, audience: Audience) -> list[Pending]:
    """The `disconnected` that a gateway owed, for everybody who wants it. `now` is Unix time."""
    last = disconnected_of(owed, now)
    copies = [copy_for(last, listener) for listener in audience.of(last.source.hub, DISCONNECTED)]
    return [Pending(last.event_id, last.time, msgspec.msgpack.encode(each)) for each in copies]


def adopted(record: Record, pending: Pending, audience: Audience) -> QueuedEvent:
    """A copy that another gateway has left."""
    context = context_of(pending)
    event, hub, listener = context.handled, context.source.hub, context.listener
    if ".reliable." in (context.source.subprotocol or ""):
        record.follows = True  # it may have come there from elsewhere
    key = audience.turns_of(hub, event, listener)
    return QueuedEvent(record, pending, hub, event, listener, key, None)
