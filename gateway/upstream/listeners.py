"""Event listeners: copies of events for message brokers (server-events.md section 5).

All listeners that match get an event. A client's event waits for them, with its own limits, before its
handler is asked. `connected` and `disconnected` come from the cluster's queue (gateway.upstream.notifier),
which has a copy for each endpoint, keeps it while the broker is away, and survives this process.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol, TypeAlias

import structlog

from gateway.upstream.clock import Clock, SystemClock
from gateway.upstream.contexts import (
    EventContext,
    NotificationContext,
    NotificationDelivered,
    NotificationResult,
    NotificationUnwanted,
)
from gateway.upstream.failures import FailureLog
from gateway.upstream.outcome import DeliveryFailure
from gateway.upstream.requests import event_time
from hubwire.model.errors import HubwireError, Unavailable
from hubwire.model.event_handlers import HandlerEvent
from hubwire.model.event_listeners import CloudEvent, NotTaken, choose_listeners
from hubwire.model.message import DataType
from hubwire.model.settings import EventHubEndpoint, EventListener, HubSettings, NatsEndpoint

log = structlog.get_logger(__name__)

Endpoint: TypeAlias = NatsEndpoint | EventHubEndpoint

WAITING_EVENTS: Final = 1000
DOWN_SECONDS: Final = 5.0
MAX_ENDPOINTS: Final = 1000

_CONTENT_TYPES: Final = {
    DataType.TEXT: "text/plain",
    DataType.JSON: "application/json",
    DataType.BINARY: "application/octet-stream",
    DataType.PROTOBUF: "application/x-protobuf",
}


class ListenerTarget(Protocol):
    """A broker, at one endpoint. The contract, which `tests/integration/test_listener_targets.py` holds
    every implementation against:

    - `publish` returns when the broker has acknowledged the event: it is there, at least once.
    - Attempts of one event carry the same `message_id`, by which a broker that can drops the repeats.
    - It ends within its own limit (three attempts of five seconds) and raises Unavailable, NotTaken if it
      counts attempts, when the broker did not take the event; InvalidRequest or LimitExceeded when it never
      will. Whether an event that raised Unavailable arrived is not known.
    - Concurrent calls are fine. Two events, the second published after the first returned, are in that
      order in the broker.
    - When cancelled nothing is left running; the event may or may not arrive.
    """

    async def publish(self, event: CloudEvent) -> None: ...


MakeTarget = Callable[[Endpoint], ListenerTarget | None]
"""The target of an endpoint; None when this service has none of that kind."""


class Wanted:
    """What came of a client's event: `wanted` when some listener is for it; `failure` when one that is
    required did not get it."""

    __slots__ = ("failure", "wanted")

    def __init__(self, wanted: bool, failure: DeliveryFailure | None = None) -> None:
        self.wanted = wanted
        self.failure = failure


class _Miss(NamedTuple):
    """The broker did not take an event; `later`: it may yet."""

    reason: str
    later: bool
    attempts: int = 0
    seconds: float = 0.0


class _Lane:
    """One endpoint. `active` counts the clients' events that wait for it."""

    __slots__ = ("active", "down_until", "target")

    def __init__(self, target: ListenerTarget | None) -> None:
        self.target = target
        self.active = 0
        self.down_until = 0.0


class Listeners:
    """Event listeners of all hubs, for one gateway. Made and used in one event loop; has no tasks.

    Counters are plain integers that metrics read: `delivered` by kind of event, `failed` attempts.
    """

    def __init__(
        self,
        settings_of: Callable[[str], HubSettings],
        make_target: MakeTarget,
        failures: FailureLog,
        clock: Clock | None = None,
        *,
        waiting_events: int = WAITING_EVENTS,
    ) -> None:
        self._settings_of = settings_of
        self._make_target = make_target
        self._failures = failures
        self._clock = clock or SystemClock()
        self._waiting_events = waiting_events
        self._lanes: dict[Endpoint, _Lane] = {}
        self.delivered: Counter[str] = Counter()
        self.failed = 0

    def wants(self, hub: str, event: HandlerEvent) -> bool:
        """Whether some listener of the hub is for this event, as the settings are now."""
        settings = self._settings_of(hub)
        return bool(settings.event_listeners) and bool(choose_listeners(settings, event))

    async def user_event(self, context: EventContext) -> Wanted:
        """Give a client's event to all listeners at once and wait for them, before its handler is asked
        (5.2). Never raises for what a broker does; failures are logged. When more than `waiting_events`
        wait for an endpoint, or while it is down, its copy fails at once."""
        settings = self._settings_of(context.source.hub)
        if not settings.event_listeners:
            return Wanted(False)
        chosen = choose_listeners(settings, HandlerEvent("user", context.name))
        if not chosen:
            return Wanted(False)
        source = context.source
        event = CloudEvent(
            source.hub,
            "user",
            context.name,
            source.connection_id,
            context.event_id,
            event_time(self._clock.time()),
            _CONTENT_TYPES[context.data_type],
            context.data,
            source.user_id,
            source.subprotocol,
            source.state,
            context.metadata,
        )
        if len(chosen) == 1:
            failures = [await self._now(chosen[0], event)]
        else:
            failures = await asyncio.gather(*(self._now(each, event) for each in chosen))
        required = (f for each, f in zip(chosen, failures, strict=True) if each.delivery == "required")
        return Wanted(True, next((failure for failure in required if failure is not None), None))

    def endpoints(self, hub: str, event: HandlerEvent) -> tuple[str, ...]:
        """The names of the endpoints whose listeners want to be told of it; two listeners of one endpoint
        would get copies that the broker drops as repeats."""
        settings = self._settings_of(hub)
        if not settings.event_listeners:
            return ()
        chosen = choose_listeners(settings, event)
        return tuple(dict.fromkeys(shown_endpoint(each.endpoint) for each in chosen))

    async def notify(self, context: NotificationContext) -> NotificationResult:
        """Give a copy of `connected` or `disconnected` to the endpoint `context.listener`: one attempt, whose
        failure is logged. While the broker is down it is not asked (`circuit_open`)."""
        source = context.source
        settings = self._settings_of(source.hub)
        for listener in choose_listeners(settings, HandlerEvent("sys", context.name)):
            if shown_endpoint(listener.endpoint) == context.listener:
                break
        else:
            return NotificationUnwanted()
        event = CloudEvent(
            source.hub,
            "sys",
            context.name,
            source.connection_id,
            context.event_id,
            event_time(context.time),
            "application/json",
            _body(context),
            source.user_id,
            source.subprotocol,
            source.state,
        )
        miss = await self._attempt(listener.endpoint, self._lane(listener.endpoint), event)
        if miss is None:
            return NotificationDelivered("", ())
        if miss.later and not miss.attempts:
            return DeliveryFailure("circuit_open", None, miss.reason, 0, 0.0, context.listener)
        self.failed += 1
        told = "nothing; it is sent again" if miss.later else "nothing"
        failure = self._record(listener.endpoint, event, miss, told)
        return failure if miss.later else failure._replace(category="unsendable")

    # -- inside ---------------------------------------------------------------------------------------

    def _lane(self, endpoint: Endpoint) -> _Lane:
        lane = self._lanes.get(endpoint)
        if lane is None:
            if len(self._lanes) >= MAX_ENDPOINTS:
                for other in [each for each, found in self._lanes.items() if not found.active]:
                    del self._lanes[other]
            lane = self._lanes[endpoint] = _Lane(self._make_target(endpoint))
        return lane

    async def _now(self, listener: EventListener, event: CloudEvent) -> DeliveryFailure | None:
        lane = self._lane(listener.endpoint)
        miss: _Miss | None
        if lane.active >= self._waiting_events:
            miss = _Miss(f"{lane.active} events wait for this endpoint already.", True)
        else:
            lane.active += 1
            try:
                miss = await self._attempt(listener.endpoint, lane, event)
            finally:
                lane.active -= 1
        if miss is None:
            return None
        return self._fail(listener.endpoint, event, miss, required=listener.delivery == "required")

    async def _attempt(self, endpoint: Endpoint, lane: _Lane, event: CloudEvent) -> _Miss | None:
        """None: the broker has it."""
        if lane.target is None:
            return _Miss(f"This service has no connector for {shown_endpoint(endpoint)}.", False)
        began = self._clock.monotonic()
        if began < lane.down_until:
            return _Miss("The broker did not take the last event; it is tried again soon.", True)
        attempts = 1
        try:
            await lane.target.publish(event)
        except HubwireError as error:
            reason, later = str(error), isinstance(error, Unavailable)
            if isinstance(error, NotTaken):
                attempts = error.attempts
            if later:
                lane.down_until = self._clock.monotonic() + DOWN_SECONDS
        except Exception as error:  # a target's bug must not end the queue or the client's event
            log.exception("listener_target_failed", hub=event.hub)
            reason, later = type(error).__name__, False
        else:
            self.delivered[event.kind] += 1
            return None
        return _Miss(reason, later, attempts, self._clock.monotonic() - began)

    def _fail(
        self, endpoint: Endpoint, event: CloudEvent, miss: _Miss, *, required: bool = False
    ) -> DeliveryFailure:
        self.failed += 1
        return self._record(endpoint, event, miss, "failed event" if required else "nothing")

    def _record(self, endpoint: Endpoint, event: CloudEvent, miss: _Miss, told: str) -> DeliveryFailure:
        failure = DeliveryFailure(
            "listener", None, miss.reason, miss.attempts, miss.seconds, shown_endpoint(endpoint)
        )
        self._failures.record(
            failure,
            at=self._clock.time(),
            hub=event.hub,
            event=event.name,
            connection_id=event.connection_id,
            told=told,
        )
        return failure


def shown_endpoint(endpoint: Endpoint) -> str:
    """An endpoint for people, where the URL of a handler stands otherwise."""
    if isinstance(endpoint, NatsEndpoint):
        return f"nats:{endpoint.stream}/{endpoint.subject_prefix}"
    return f"eventhub:{endpoint.fully_qualified_namespace}/{endpoint.event_hub_name}"


def _body(context: NotificationContext) -> bytes:
    if context.name == "connected":
        return b"{}"
    return json.dumps({"reason": context.reason}, separators=(",", ":")).encode()
