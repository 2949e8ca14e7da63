"""What the gateway tells the event handlers' service of an event, and what it gets back. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from gateway.upstream.answers import ConnectAccepted, ConnectRefused, Identity
from gateway.upstream.outcome import DeliveryFailure
from gateway.upstream.requests import (
    EventRequest,
    Stamp,
    connected_request,
    disconnected_request,
    presence_request,
)
from gateway.upstream.source import EventSource, SourceSnapshot
from hubwire.model.event_handlers import HandlerEvent
from hubwire.model.message import DataType, Message
from hubwire.model.settings import EventHandler


class ConnectContext(NamedTuple):
    """A client that wants in; its token is verified. `claims` is everything in the token, {} without one.
    `query` is the raw query of its request, `headers` its headers in any casing. `certificates` are objects
    with `thumbprint` and `content`; this service sees none yet. `reliable`: whether this gateway serves the
    reliable subprotocols, so that a handler can choose one."""

    source: EventSource
    token: Identity
    claims: Mapping[str, Any]
    query: str
    headers: Iterable[tuple[str, str]]
    offered: tuple[str, ...]
    certificates: tuple[Mapping[str, str], ...] = ()
    reliable: bool = False


ConnectResult: TypeAlias = ConnectAccepted | ConnectRefused


class EventContext(NamedTuple):
    """A client's message. `event_id` comes from `source.next_id()`, also when a listener gets the event too.
    `simple`: the client has no subprotocol of ours. `wants_ack`: it gave an ack id. `closes`: its connection
    is closed when the event fails (4.6)."""

    source: EventSource
    event_id: int
    name: str
    data_type: DataType
    data: bytes
    metadata: Mapping[str, str] | None
    simple: bool
    wants_ack: bool
    closes: bool


class EventAnswered(NamedTuple):
    """Send `message`, if there is one, to the client; then its ack (4.5)."""

    message: Message | None


class EventFailed(NamedTuple):
    """The event failed (4.6): it is logged already, and the client is owed what `failure` does not say."""

    failure: DeliveryFailure


class EventUnhandled(NamedTuple):
    """No handler wants the event: a failure, unless a listener got it (4.5). Nothing is logged yet."""


UserEventResult: TypeAlias = EventAnswered | EventFailed | EventUnhandled


class NotificationContext(msgspec.Struct, frozen=True, array_like=True):
    """A `connected`, `disconnected`, `joined` or `left` event as it waits in a queue; can be packed with
    msgspec. Which handler gets it, and the signature, are decided when it is sent.

    `time` is when it happened, in Unix seconds. `request_id` is a GUID, one for all attempts; `reason` is
    for `disconnected`, `group` for `joined` and `left`. `listener` names the endpoint of the listener whose
    copy it is; "" for the handler's.
    """

    source: SourceSnapshot
    name: Literal["connected", "disconnected", "joined", "left"]
    event_id: int
    time: float
    request_id: str
    reason: str | None = None
    group: str = ""
    listener: str = ""

    @property
    def handled(self) -> HandlerEvent:
        """What handlers and listeners choose it by."""
        kind: Literal["gp", "sys"] = "gp" if self.name in ("joined", "left") else "sys"
        return HandlerEvent(kind, self.name, self.group)

    def request(self, handler: EventHandler, stamp: Stamp) -> EventRequest:
        """What is sent to the handler. Raises UnsendableEvent."""
        if self.name == "connected":
            return connected_request(self.source, handler, stamp, self.event_id)
        if self.name == "disconnected":
            return disconnected_request(self.source, handler, stamp, self.event_id, self.reason)
        return presence_request(self.source, handler, stamp, self.event_id, self.name, self.group)


class NotificationDelivered(NamedTuple):
    """`set_cookies` are for the source of the event, if it is still there: `source.store_cookies(url, ...)`
    with the `url` they came from, which must not be logged."""

    url: str
    set_cookies: tuple[str, ...]


class NotificationUnwanted(NamedTuple):
    """No handler is set up for it (any more)."""


NotificationResult: TypeAlias = NotificationDelivered | NotificationUnwanted | DeliveryFailure
