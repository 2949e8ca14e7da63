"""The limits of hubs as connections see them, and the pace of one client; without sockets and clocks."""

from __future__ import annotations

import gc

import pytest

from gateway.bounds import Bounds, HubBounds
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


@pytest.mark.parametrize("per_second", [1, 2, 7, 1000])
def test_a_second_of_messages_may_come_at_once_and_then_one_by_one(per_second: int) -> None:
    throttle = Throttle()
    assert [throttle.take(50.0, per_second) for _ in range(per_second)] == [0.0] * per_second
    now = 50.0
    for _ in range(20):
        wait = throttle.take(now, per_second)
        assert wait == pytest.approx(1 / per_second)
        assert throttle.take(now + wait / 2, per_second) > 0.0
        now += wait
        assert throttle.take(now, per_second) == 0.0


def test_who_was_quiet_has_no_more_than_a_second_of_messages_in_hand() -> None:
    throttle = Throttle()
    throttle.take(0.0, 5)
    assert [throttle.take(1000.0, 5) == 0.0 for _ in range(6)] == [True] * 5 + [False]


def test_another_rate_holds_for_the_next_message() -> None:
    throttle = Throttle()
    assert throttle.take(0.0, 1) == 0.0
    assert throttle.take(0.0, 1) == pytest.approx(1.0)
    assert throttle.take(0.0, 1000) == pytest.approx(0.001)
