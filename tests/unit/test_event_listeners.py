"""Which events listeners get, how events are written for NATS, and what happens when a broker is slow or away
(server-events.md section 5)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import FakeClock
from support.upstreams import event as user_event
from support.upstreams import source

from gateway.upstream.contexts import NotificationContext, NotificationDelivered, NotificationUnwanted
from gateway.upstream.failures import FailureLog
from gateway.upstream.listeners import Listeners, ListenerTarget
from gateway.upstream.outcome import DeliveryFailure
from hubwire.model.errors import InvalidRequest, Unavailable
from hubwire.model.event_handlers import CONNECT, CONNECTED, DISCONNECTED, HandlerEvent
from hubwire.model.event_listeners import (
    CloudEvent,
    NotTaken,
    UnsendableCopy,
    choose_listeners,
    header_value,
    nats_headers,
    nats_subject,
    subject_token,
)
from hubwire.model.message import DataType
from hubwire.model.settings import (
    EventHubEndpoint,
    EventListener,
    EventNameFilter,
    HubSettings,
    NatsEndpoint,
)

EVERYTHING = EventNameFilter(system_events=("connect", "connected", "disconnected"), user_event_pattern="*")
NATS = EventListener(NatsEndpoint(), EVERYTHING)


def copy(name: str = "ping", **changes: object) -> CloudEvent:
    made = CloudEvent("orders", "user", name, "c1", 3, "2026-11-24T10:00:00Z", "text/plain", b"hi")
    return made._replace(**changes)  # type: ignore[arg-type]


# -- the pure part ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "chosen"),
    [
        (CONNECTED, True),
        (DISCONNECTED, True),
        (CONNECT, False),  # it needs an answer
        (HandlerEvent("user", "Order.Created"), True),
        (HandlerEvent("user", "order.deleted"), False),
        (HandlerEvent("user", "connected"), False),
        (HandlerEvent("gp", "joined", "g"), False),
    ],
)
def test_a_listener_gets_what_its_filter_names(event: HandlerEvent, chosen: bool) -> None:
    only = EventNameFilter(
        system_events=("connect", "connected", "disconnected"), user_event_pattern="order.created, ping"
    )
    settings = HubSettings(event_listeners=(EventListener(NatsEndpoint(), only),))
    assert bool(choose_listeners(settings, event)) is chosen


def test_all_listeners_that_match_get_the_event_and_identical_ones_two_copies() -> None:
    other = EventListener(NatsEndpoint("B", "b"), EVERYTHING)
    settings = HubSettings(event_listeners=(NATS, other, NATS))
    assert choose_listeners(settings, CONNECTED) == (NATS, other, NATS)


def test_a_name_with_dots_stays_one_token_of_the_subject() -> None:
    assert nats_subject("awps", copy("order.created")) == "awps.orders.user.order%2Ecreated"
    assert nats_subject("a.b", copy("x", hub="my.hub")) == "a.b.my%2Ehub.user.x"
    assert subject_token("a b*>%\n") == "a%20b%2A%3E%25%0A"


@given(st.text())
def test_any_name_becomes_one_legal_token_and_no_two_names_the_same(name: str) -> None:
    token = subject_token(name)
    assert not set(token) & set(" .*>\t\r\n\0")
    assert bytes.fromhex("".join(_hex(token))).decode() == name


def _hex(token: str) -> list[str]:
    parts, at = [], 0
    while at < len(token):
        if token[at] == "%":
            parts.append(token[at + 1 : at + 3])
            at += 3
        else:
            parts.append(f"{ord(token[at]):02x}")
            at += 1
    return parts


@given(st.text())
def test_no_value_can_break_out_of_its_header(value: str) -> None:
    shown = header_value(value)
    assert shown.isascii()
    assert shown == "" or shown.isprintable()


def test_the_headers_are_those_of_the_documented_schema() -> None:
    event = copy(
        user_id="用户", subprotocol="json.webpubsub.azure.v1", state="c3Q=", metadata={"Tenant": "a b"}
    )
    assert dict(nats_headers(event)) == {
        "Nats-Msg-Id": "c1/3",
        "content-type": "text/plain",
        "ce-specversion": "1.0",
        "ce-awpsversion": "1.0",
        "ce-type": "azure.webpubsub.user.ping",
        "ce-source": "/hubs/orders/client/c1",
        "ce-id": "3",
        "ce-time": "2026-11-24T10:00:00Z",
        "ce-hub": "orders",
        "ce-eventname": "ping",
        "ce-connectionid": "c1",
        "ce-userid": "%E7%94%A8%E6%88%B7",
        "ce-subprotocol": "json.webpubsub.azure.v1",
        "ce-connectionstate": "c3Q=",
        "x-webpubsub-metadata-tenant": "a%20b",
    }


def test_what_nats_cannot_carry_is_refused_before_it_is_sent() -> None:
    with pytest.raises(UnsendableCopy, match="metadata key"):
        nats_headers(copy(metadata={"a b": "c"}))
    with pytest.raises(UnsendableCopy, match="too many"):
        nats_subject("awps", copy("用" * 128))


# -- queues and limits -----------------------------------------------------------------------------------


class Broker:
    """Keeps what it got; while `open` is not set nothing is acknowledged."""

    def __init__(self) -> None:
        self.got: list[CloudEvent] = []
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None
        self.calls = 0

    async def publish(self, event: CloudEvent) -> None:
        self.calls += 1
        await self.open.wait()
        if self.error is not None:
            raise self.error
        self.got.append(event)


def listeners_of(
    *chosen: EventListener, target: ListenerTarget | None, clock: FakeClock | None = None, **bounds: int
) -> Listeners:
    settings = HubSettings(event_listeners=chosen)
    return Listeners(lambda _: settings, lambda _: target, FailureLog(50), clock or FakeClock(), **bounds)


def told(name: str, connection: str = "c1", number: int = 1) -> NotificationContext:
    one = source(connection_id=connection).snapshot()
    reason = "bye" if name == "disconnected" else None
    return NotificationContext(one, name, number, 0.0, "r", reason, "", "nats:AWPS/awps")  # type: ignore[arg-type]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (a turn of the loop, nobody would set an event)
            await asyncio.sleep(0)


async def test_a_client_s_event_has_been_stored_when_it_returns() -> None:
    broker = Broker()
    listeners = listeners_of(NATS, target=broker)
    result = await listeners.user_event(
        user_event(name="order", data_type=DataType.TEXT, data=b"x", metadata={"k": "v"})
    )
    assert (result.wanted, result.failure) == (True, None)
    (got,) = broker.got
    assert (got.name, got.content_type, got.data, got.metadata) == ("order", "text/plain", b"x", {"k": "v"})
    assert listeners.delivered == {"user": 1}


async def test_an_event_that_nobody_listens_to_is_not_wanted() -> None:
    only = EventListener(NatsEndpoint(), EventNameFilter(user_event_pattern="other"))
    for chosen in ((), (only,)):
        listeners = listeners_of(*chosen, target=Broker())
        assert (await listeners.user_event(user_event())).wanted is False


async def test_a_failed_copy_fails_the_event_only_when_it_is_required() -> None:
    broker = Broker()
    broker.error = NotTaken("no stream", 3)
    best = listeners_of(NATS, target=broker)
    result = await best.user_event(user_event())
    assert (result.wanted, result.failure) == (True, None)
    required = listeners_of(EventListener(NatsEndpoint(), EVERYTHING, "required"), target=broker)
    failure = (await required.user_event(user_event())).failure
    assert failure is not None
    assert (failure.category, failure.url, failure.reason) == ("listener", "nats:AWPS/awps", "no stream")
    assert failure.attempts == 3


async def test_a_failure_tells_how_long_it_took() -> None:
    clock = FakeClock()

    class Slow(Broker):
        async def publish(self, event: CloudEvent) -> None:
            clock.advance(15)
            raise Unavailable("no answer")

    required = EventListener(NatsEndpoint(), EVERYTHING, "required")
    listeners = listeners_of(required, target=Slow(), clock=clock)
    first = (await listeners.user_event(user_event())).failure
    second = (await listeners.user_event(user_event())).failure
    assert first is not None
    assert second is not None
    assert (first.attempts, first.seconds) == (1, 15)
    assert (second.attempts, second.seconds) == (0, 0), "the broker was not asked"


async def test_a_broker_that_is_down_is_asked_again_after_five_seconds_only() -> None:
    broker, clock = Broker(), FakeClock()
    broker.error = Unavailable("no stream")
    listeners = listeners_of(NATS, target=broker, clock=clock)
    for _ in range(3):
        await listeners.user_event(user_event())
    assert (broker.calls, listeners.failed) == (1, 3)
    broker.error = None
    clock.advance(5.1)
    await listeners.user_event(user_event())
    assert (broker.calls, len(broker.got)) == (2, 1)


async def test_an_endpoint_that_nobody_serves_fails_and_is_told() -> None:
    listener = EventListener(EventHubEndpoint("x.servicebus.windows.net", "e"), EVERYTHING, "required")
    listeners = listeners_of(listener, target=None)
    failure = (await listeners.user_event(user_event())).failure
    assert failure is not None
    assert "eventhub:x.servicebus.windows.net" in failure.reason


async def test_too_many_waiting_events_fail_at_once() -> None:
    broker = Broker()
    broker.open.clear()
    listeners = listeners_of(NATS, target=broker, waiting_events=2)
    waiting = [asyncio.create_task(listeners.user_event(user_event())) for _ in range(2)]
    await until(lambda: broker.calls == 2)
    assert (await listeners.user_event(user_event())).wanted
    assert (broker.calls, listeners.failed) == (2, 1)
    broker.open.set()
    await asyncio.gather(*waiting)


async def test_a_notification_has_been_stored_when_it_returns_and_has_the_documented_body() -> None:
    broker = Broker()
    listeners = listeners_of(NATS, target=broker)
    for number, name in enumerate(("connected", "disconnected"), start=1):
        assert await listeners.notify(told(name, "a", number)) == NotificationDelivered("", ())
    assert [(event.name, event.message_id, event.data) for event in broker.got] == [
        ("connected", "a/1", b"{}"),
        ("disconnected", "a/2", b'{"reason":"bye"}'),
    ]
    assert listeners.delivered == {"sys": 2}


async def test_a_notification_that_the_broker_did_not_take_may_work_later_and_is_not_pressed_on_it() -> None:
    broker, clock, failures = Broker(), FakeClock(), FailureLog(50)
    broker.error = NotTaken("no stream", 3)
    settings = HubSettings(event_listeners=(NATS,))
    listeners = Listeners(lambda _: settings, lambda _: broker, failures, clock)
    first = await listeners.notify(told("connected"))
    second = await listeners.notify(told("connected", "other"))
    assert isinstance(first, DeliveryFailure)
    assert isinstance(second, DeliveryFailure)
    assert (first.category, first.attempts, first.may_work_later) == ("listener", 3, True)
    assert (second.category, second.attempts) == ("circuit_open", 0)
    assert (broker.calls, listeners.failed) == (1, 1)
    assert [each.told for each in failures.latest()] == ["nothing; it is sent again"]
    broker.error = None
    clock.advance(5.1)
    assert isinstance(await listeners.notify(told("connected")), NotificationDelivered)


async def test_a_notification_that_the_broker_will_never_take_is_not_tried_again() -> None:
    broker = Broker()
    broker.error = InvalidRequest("cannot be written")
    result = await listeners_of(NATS, target=broker).notify(told("connected"))
    assert isinstance(result, DeliveryFailure)
    assert not result.may_work_later


async def test_a_notification_whose_listener_is_gone_is_not_wanted_any_more() -> None:
    broker = Broker()
    elsewhere = EventListener(NatsEndpoint("B", "b"), EVERYTHING)
    result = await listeners_of(elsewhere, target=broker).notify(told("connected"))
    assert isinstance(result, NotificationUnwanted)
    assert broker.calls == 0


def test_each_endpoint_is_told_once_however_many_listeners_lead_there() -> None:
    other = EventListener(NatsEndpoint("B", "b"), EVERYTHING)
    listeners = listeners_of(NATS, other, NATS, target=None)
    assert listeners.endpoints("chat", CONNECTED) == ("nats:AWPS/awps", "nats:B/b")
    assert listeners.endpoints("chat", CONNECT) == ()
    assert listeners.endpoints("chat", HandlerEvent("gp", "joined", "g")) == ()
