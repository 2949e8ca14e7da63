"""The limits of hubs as connections see them, and the pace of one client; without sockets and clocks."""

from __future__ import annotations

import gc

import pytest

from gateway.bounds import Bounds, HubBounds
from gateway.tally import HubTally
from gateway.throttle import Throttle
from hubwire.model.limits import MAX_MESSAGE_BYTES
from hubwire.model.settings import HubLimits


def test_without_limits_the_services_own_hold() -> None:
    bounds = Bounds(HubLimits(), 5000)
    assert bounds.max_message_bytes == MAX_MESSAGE_BYTES
    assert bounds.outbox_bytes == 5000
    assert bounds.messages_per_second == 0
    assert min(bounds.max_connections, bounds.max_groups) > 2**60


def test_who_holds_the_bounds_of_a_hub_sees_them_change() -> None:
    limits = {"chat": HubLimits(max_message_bytes=10)}
    hubs = HubBounds(lambda hub: limits.get(hub, HubLimits()), 5000)
    chat, other = hubs.of("chat"), hubs.of("other")
    assert hubs.of("chat") is chat
    limits["chat"] = HubLimits(messages_per_second=3, outbox_bytes=7)
    hubs.settings_changed()
    assert (chat.max_message_bytes, chat.messages_per_second, chat.outbox_bytes) == (MAX_MESSAGE_BYTES, 3, 7)
    assert (other.messages_per_second, other.outbox_bytes) == (0, 5000)


def test_hubs_without_connections_are_forgotten() -> None:
    hubs = HubBounds(lambda _hub: HubLimits(), 5000)
    kept = hubs.of("kept")
    for number in range(100):
        hubs.of(f"hub{number}")
    gc.collect()
    assert len(hubs) == 1
    assert hubs.of("kept") is kept


def paced(**limits: int) -> Bounds:
    return Bounds(HubLimits(**limits), 5000)


@pytest.mark.parametrize("per_second", [1, 2, 7, 1000])
def test_a_second_of_messages_may_come_at_once_and_then_one_by_one(per_second: int) -> None:
    throttle, bounds = Throttle(), paced(messages_per_second=per_second)
    assert [throttle.take(50.0, bounds, 9) for _ in range(per_second)] == [0.0] * per_second
    now = 50.0
    for _ in range(20):
        wait = throttle.take(now, bounds, 9)
        assert wait == pytest.approx(1 / per_second)
        assert throttle.take(now + wait / 2, bounds, 9) > 0.0
        now += wait
        assert throttle.take(now, bounds, 9) == 0.0


def test_who_was_quiet_has_no_more_than_a_second_of_messages_in_hand() -> None:
    throttle, bounds = Throttle(), paced(messages_per_second=5)
    throttle.take(0.0, bounds, 9)
    assert [throttle.take(1000.0, bounds, 9) == 0.0 for _ in range(6)] == [True] * 5 + [False]


def test_another_rate_holds_for_the_next_message() -> None:
    throttle, bounds = Throttle(), paced(messages_per_second=1)
    assert throttle.take(0.0, bounds, 9) == 0.0
    assert throttle.take(0.0, bounds, 9) == pytest.approx(1.0)
    bounds.set(HubLimits(messages_per_second=1000), 5000)
    assert throttle.take(0.0, bounds, 9) == pytest.approx(0.001)


def test_bytes_have_a_pace_of_their_own() -> None:
    throttle, bounds = Throttle(), paced(bytes_per_second=1000, messages_per_second=50)
    assert [throttle.take(0.0, bounds, 250) for _ in range(4)] == [0.0] * 4
    assert throttle.take(0.0, bounds, 250) == pytest.approx(0.25)
    assert throttle.take(0.25, bounds, 250) == 0.0
    assert throttle.take(0.25, bounds, 500) == pytest.approx(0.5)


def test_a_message_of_more_than_a_seconds_bytes_goes_when_nothing_is_owed_and_is_paid_later() -> None:
    throttle, bounds = Throttle(), paced(bytes_per_second=1000)
    assert throttle.take(0.0, bounds, 5000) == 0.0
    assert throttle.take(0.0, bounds, 5000) == pytest.approx(5.0)
    assert throttle.take(0.0, bounds, 1) == pytest.approx(4.001)
    assert throttle.take(5.0, bounds, 5000) == 0.0


def test_the_clients_of_a_hub_take_turns_and_who_floods_is_before_nobody_twice() -> None:
    bounds = paced(hub_messages_per_second_per_gateway=10)
    flood = Throttle()
    assert [flood.take(0.0, bounds, 9) for _ in range(10)] == [0.0] * 10  # what was in hand, for all together
    calm = [Throttle() for _ in range(5)]
    waits = [one.take(0.0, bounds, 9) for one in (flood, *calm)]
    assert waits == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert flood.take(0.1, bounds, 9) == 0.0
    assert flood.take(0.1, bounds, 9) == pytest.approx(0.6)  # behind all who wait
    assert [one.take(at, bounds, 9) for one, at in zip(calm, waits[1:], strict=True)] == [0.0] * 5


def test_a_place_in_the_line_is_kept_and_void_when_the_hubs_limit_is_another() -> None:
    bounds = paced(hub_messages_per_second_per_gateway=1)
    first, second = Throttle(), Throttle()
    assert first.take(0.0, bounds, 9) == 0.0
    assert first.take(0.0, bounds, 9) == pytest.approx(1.0)
    assert second.take(0.0, bounds, 9) == pytest.approx(2.0)
    assert second.take(0.5, bounds, 9) == pytest.approx(1.5)
    bounds.set(HubLimits(hub_messages_per_second_per_gateway=1), 5000)  # something else has changed
    assert second.take(0.5, bounds, 9) == pytest.approx(1.5)
    bounds.set(HubLimits(hub_messages_per_second_per_gateway=100), 5000)
    assert second.take(0.5, bounds, 9) == 0.0
    bounds.set(HubLimits(), 5000)
    assert first.take(0.5, bounds, 9) == 0.0


def test_each_message_that_waits_is_counted_once_and_said_once_in_a_while() -> None:
    throttle, bounds, tally = Throttle(), paced(messages_per_second=1), HubTally()
    said = [
        tally.holds_up(now)
        for now in (0.0, 0.2, 0.4, 1.0, 1.2, 2.0, 100.0, 100.0)
        if throttle.take(now, bounds, 9) and throttle.holds_another()
    ]
    assert said == [True, False, True]
    assert tally.held == 3
