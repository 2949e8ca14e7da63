"""What a gateway measures: its metrics, and where each is read."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, get_args

from gateway.service import GatewayService
from gateway.tally import EVENT, GROUP, HubTally
from gateway.upstream.listeners import Listeners
from gateway.upstream.notifier import Notifier
from gateway.upstream.outcome import FailureCategory
from gateway.upstream.service import UpstreamService
from hubwire.runtime.meters import Meter, Reader, Sample

OUTBOX_SECONDS = 0.5
CATEGORIES: tuple[str, ...] = get_args(FailureCategory)
WEB_PUBSUB = "WebPubSub"
"""Azure's ClientType; others are for MQTT and Socket.IO."""

CONNECTIONS = Meter(
    "webpubsub.server.active_connections",
    "updown",
    "{connection}",
    "Open WebSockets of clients, by subprotocol (`none` for simple clients).",
    ("hub", "protocol"),
    "TotalConnectionCount",
)
OPENED = Meter(
    "webpubsub.connection.opened",
    "counter",
    "{connection}",
    "WebSockets that were opened; a reliable client that comes back opens another.",
    ("hub", "protocol"),
    "ConnectionOpenCount",
)
CLOSED = Meter(
    "webpubsub.connection.closed",
    "counter",
    "{connection}",
    "WebSockets that have ended, by Azure's close category; `SlowClient` are those that did not read fast "
    "enough, `Moved` those whose session went on elsewhere.",
    ("hub", "close_category"),
    "ConnectionCloseCount",
)
REQUESTS = Meter(
    "webpubsub.client.requests",
    "counter",
    "{request}",
    "Requests of clients to connect, by the status that they got: 101, or why not.",
    ("client_type", "status_code"),
    "ClientRequestStatusCode",
)
QUOTA = Meter(
    "webpubsub.connection.utilization",
    "gauge",
    "1",
    "Part of the connections that this gateway takes at most, 0 to 1.",
    azure="ConnectionQuotaUtilization",
)
MESSAGES = Meter(
    "webpubsub.messages",
    "counter",
    "{message}",
    "Messages from clients (`receive`: to a `group`, or an `event`) and to clients (`transmit`: by what they "
    "were addressed to). One message to a thousand clients is a thousand.",
    ("direction", "hub", "kind"),
)
TRAFFIC = Meter(
    "webpubsub.network.io",
    "counter",
    "By",
    "What these messages had: the data of those from clients, the whole frames of those to clients.",
    ("direction", "hub", "kind"),
    "InboundTraffic, OutboundTraffic",
)
HELD = Meter(
    "hubwire.messages.held",
    "counter",
    "{message}",
    "Messages of clients that waited for their turn, since the client or its hub sends more than the hub's "
    "limits allow. None of them is lost.",
    ("hub",),
)
FAILED = Meter(
    "hubwire.publishes.failed",
    "counter",
    "{message}",
    "Publishes of clients that no owner has confirmed in time, or that were not taken since too much waited: "
    "their members may lack them. A client that gave an ack id is told.",
    ("hub",),
)
DELIVERY = Meter(
    "webpubsub.message.delivery.duration",
    "histogram",
    "s",
    "From accepting a publish, by a client or REST, to writing it to the members here. One in sixteen of "
    "those by clients is measured, and every one by REST; between hosts as exactly as their clocks agree.",
    ("hub",),
)
DROPPED = Meter(
    "webpubsub.envelopes.dropped",
    "counter",
    "{envelope}",
    "Envelopes that were not delivered because they had been (`repeated`), or came from an owner of before "
    "(`fenced`). Both are as they should be.",
    ("reason",),
)
OUTBOX = Meter(
    "webpubsub.outbox.size",
    "gauge",
    "By",
    "What waits for clients that do not read as fast as they are sent to.",
)
OUTBOX_CONNECTIONS = Meter(
    "webpubsub.outbox.connections", "gauge", "{connection}", "How many clients something waits for."
)
CALLS = Meter(
    "webpubsub.upstream.request.duration",
    "histogram",
    "s",
    "Events that were taken to an event handler, repeats included: `success`, `status` for an answer that "
    "is no 2xx, or why there was no answer.",
    ("hub", "event", "outcome"),
)
ATTEMPTS = Meter(
    "webpubsub.upstream.attempts",
    "counter",
    "{request}",
    "HTTP requests to event handlers: first ones and repeats.",
    ("attempt",),
)
FAILURES = Meter(
    "webpubsub.upstream.failures",
    "counter",
    "{event}",
    "Events that were not delivered, or whose answer could not be used.",
    ("category",),
)
PENDING = Meter(
    "webpubsub.upstream.notifications.pending",
    "gauge",
    "{event}",
    "Notifications (connected, disconnected, joined, left) that are stored and not delivered yet.",
)
GIVEN_UP = Meter(
    "webpubsub.upstream.notifications.given_up",
    "counter",
    "{event}",
    "Notifications that became dead letters.",
)
LISTENED = Meter(
    "webpubsub.listener.events",
    "counter",
    "{event}",
    "Copies of events for event listeners, by what became of them.",
    ("outcome",),
)
SESSIONS = Meter(
    "webpubsub.reliable.sessions",
    "updown",
    "{session}",
    "Reliable sessions held here, with those whose client has half a minute to come back.",
)
RECOVERIES = Meter(
    "webpubsub.reliable.recoveries",
    "counter",
    "{recovery}",
    "Reliable clients that wanted to go on: `recovered`, `not_found`, `refused` for a token that is none of "
    "ours, `unavailable` for those that were told to try again.",
    ("outcome",),
)
MOVED = Meter(
    "webpubsub.reliable.sessions.moved",
    "counter",
    "{session}",
    "Sessions that were taken over from another gateway.",
)
INBOX = Meter("hubwire.inbox.size", "gauge", "By", "The log of the reliable sessions, as JetStream has it.")
INBOX_GROWN = Meter(
    "hubwire.inbox.untrimmed", "gauge", "By", "What the log has grown by since it was trimmed last."
)
INBOX_WAITING = Meter(
    "hubwire.inbox.waiting", "gauge", "By", "Entries of the log that are not known to be stored."
)
INBOX_TRIMMED_AGE = Meter(
    "hubwire.inbox.age",
    "gauge",
    "s",
    "How long ago the log was trimmed last: the age of the oldest in it, about.",
)
METERS = (
    CONNECTIONS, OPENED, CLOSED, REQUESTS, QUOTA, MESSAGES, TRAFFIC, HELD, FAILED, DELIVERY, DROPPED,
    OUTBOX, OUTBOX_CONNECTIONS, CALLS, ATTEMPTS, FAILURES, PENDING, GIVEN_UP, LISTENED,
    SESSIONS, RECOVERIES, MOVED, INBOX, INBOX_GROWN, INBOX_WAITING, INBOX_TRIMMED_AGE,
)  # fmt: skip


def readers(
    service: GatewayService, upstream: UpstreamService, notifier: Notifier, listeners: Listeners
) -> dict[Meter, Reader]:
    """Where the metrics of one run are read."""
    return {**_of_connections(service), **_of_events(upstream, notifier, listeners), **_of_sessions(service)}


def _of_connections(service: GatewayService) -> dict[Meter, Reader]:
    hubs, delivery, outboxes = service.tallies, service.delivery, _Outboxes(service)

    def labelled(field: str) -> Reader:
        def read() -> Iterator[Sample]:
            for hub, tally in hubs.items():
                for label, count in _items(getattr(tally, field)):
                    yield (hub, label), count

        return read

    def requests() -> Iterator[Sample]:
        opened = sum(sum(tally.opened.values()) for _, tally in hubs.items())
        yield (WEB_PUBSUB, "101"), opened
        for status, count in _items(service.door.refused):
            yield (WEB_PUBSUB, str(status)), count

    def traffic(of_bytes: bool) -> Reader:
        def read() -> Iterator[Sample]:
            for hub, tally in hubs.items():
                yield from _received(hub, tally, of_bytes)
                for kind, sent in _items(tally.sent):
                    yield ("transmit", hub, kind), sent.bytes if of_bytes else sent.messages

        return read

    return {
        CONNECTIONS: labelled("active"),
        OPENED: labelled("opened"),
        CLOSED: labelled("closed"),
        REQUESTS: requests,
        QUOTA: lambda: service.door.utilization,
        MESSAGES: traffic(False),
        TRAFFIC: traffic(True),
        HELD: lambda: [((hub,), tally.held) for hub, tally in hubs.items()],
        FAILED: lambda: [((hub,), tally.failed) for hub, tally in hubs.items()],
        DELIVERY: lambda: [((hub,), tally.delivery) for hub, tally in hubs.items()],
        DROPPED: lambda: [(("fenced",), delivery.fenced), (("repeated",), delivery.repeated)],
        OUTBOX: lambda: sum(outboxes.look()),
        OUTBOX_CONNECTIONS: lambda: len(outboxes.look()),
    }


class _Outboxes:
    """What waits for clients: looked at once a scrape, since there can be very many connections."""

    def __init__(self, service: GatewayService) -> None:
        self._service = service
        self._at = float("-inf")
        self._found: list[int] = []

    def look(self) -> list[int]:
        """The bytes of those for which something waits."""
        now = time.monotonic()
        if now - self._at > OUTBOX_SECONDS:
            reliable = self._service.reliable
            sockets = reliable.sockets() if reliable is not None else []
            waiting = [one.queued_bytes for one in chain(self._service.hubs, sockets)]
            self._at, self._found = now, [size for size in waiting if size]
        return self._found


def _received(hub: str, tally: HubTally, of_bytes: bool) -> Iterator[Sample]:
    yield ("receive", hub, GROUP), tally.published_bytes if of_bytes else tally.published
    yield ("receive", hub, EVENT), tally.events_bytes if of_bytes else tally.events


def _of_events(upstream: UpstreamService, notifier: Notifier, listeners: Listeners) -> dict[Meter, Reader]:
    client = upstream.client
    return {
        CALLS: upstream.calls.samples,
        ATTEMPTS: lambda: [
            (("first",), client.attempts - client.retries),
            (("repeat",), client.retries),
        ],
        FAILURES: lambda: [((name,), upstream.failures.counts[name]) for name in CATEGORIES],
        PENDING: lambda: notifier.waiting,
        GIVEN_UP: lambda: notifier.given_up,
        LISTENED: lambda: [
            (("delivered",), sum(listeners.delivered.values())),
            (("failed",), listeners.failed),
        ],
    }


def _of_sessions(service: GatewayService) -> dict[Meter, Reader]:
    reliable = service.reliable
    if reliable is None:
        return {}
    own = reliable.holder.log
    return {
        SESSIONS: lambda: len(reliable.holder),
        RECOVERIES: lambda: [((outcome,), count) for outcome, count in _items(reliable.recoveries)],
        MOVED: lambda: reliable.moves.moved,
        INBOX: lambda: reliable.inbox_bytes,
        INBOX_GROWN: lambda: own.bytes,
        INBOX_WAITING: lambda: own.writer.waiting_bytes,
        INBOX_TRIMMED_AGE: lambda: reliable.inbox_age,
    }


def _items(found: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """In one step, since the exporter may read on a thread of its own."""
    return list(found.items())
