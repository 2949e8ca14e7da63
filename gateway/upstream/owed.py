"""What is kept of a connection so that another gateway can tell of its end. Pure."""

from __future__ import annotations

import uuid
from typing import Final

import msgspec

from gateway.upstream.contexts import NotificationContext
from gateway.upstream.source import EventSource, SourceSnapshot

EVENTS_AHEAD: Final = 10_000
"""How many events may happen before what is owed is written again. If the gateway dies, `disconnected` gets
the number after these, so that it is never one that was used."""
LOST_REASON: Final = "The gateway of the connection was lost."

_NAMESPACE = uuid.UUID("6a1f4c0e-5a50-4f5e-9a1c-6a1f2f0f8d11")
_decoder = msgspec.msgpack.Decoder(SourceSnapshot)


def owe(source: EventSource) -> tuple[bytes, int]:
    """What to keep, and the count of events up to which it is good."""
    snapshot = msgspec.structs.replace(source.snapshot(), events=source.events + EVENTS_AHEAD)
    return msgspec.msgpack.encode(snapshot), snapshot.events


def disconnected_of(owed: bytes, now: float) -> NotificationContext:
    """The event that is owed; `now` is Unix time. Its request id is derived from the connection's, so that a
    repeat is recognised. Raises msgspec.DecodeError."""
    source = EventSource.restored(_decoder.decode(owed))
    number = source.next_id()
    request_id = uuid.uuid5(_NAMESPACE, f"{source.connection_id}/disconnected")
    return NotificationContext(source.snapshot(), "disconnected", number, now, str(request_id), LOST_REASON)


def may_outlive_gateway(owed: bytes) -> bool:
    """Whether it is of a reliable session, whose client may come back over another gateway. Raises
    msgspec.DecodeError."""
    return ".reliable." in (_decoder.decode(owed).subprotocol or "")
