"""What is made of the answers of all processes: sums, rates, and what is wrong."""

from __future__ import annotations

import json
from typing import Any

from hubwire.cli.status_view import glance, quantile
from hubwire.runtime.status import Status


def status(role: str, run: str, at: float = 10.0, **more: Any) -> Status:
    base: dict[str, Any] = {
        "role": role,
        "name": role,
        "run": run,
        "host": "box",
        "pid": 1,
        "since": 0.0,
        "at": at,
        "problems": [],
        "numbers": {},
        "distributions": {},
    }
    return Status(**{**base, **more})  # type: ignore[typeddict-item]


def router(run: str = "r", partitions: int = 256, **numbers: float) -> Status:
    return status("router", run, numbers={"hubwire_router_partitions": partitions, **numbers})


GATEWAY = status("gateway", "g", numbers={"webpubsub_server_active_connections": 7})


def problems(*processes: Status, **holders: str) -> list[str]:
    return glance([], processes, holders).problems


def test_a_cluster_in_which_nothing_is_wrong_has_no_problems() -> None:
    seen = glance([], [router("a", 128), router("b", 128), GATEWAY], {"a": "router", "g": "gateway"})
    assert seen.problems == []
    assert (seen.connections, seen.partitions) == (7, {"a": 128, "b": 128})
    assert json.loads(json.dumps(seen.facts()))["ok"] is True


def test_each_thing_that_is_wrong_is_told() -> None:
    assert problems(GATEWAY) == ["There is no router."]
    assert problems(router()) == ["There is no gateway."]
    assert problems(router(), GATEWAY, lost="gateway") == [
        "The gateway lost holds a lease and does not answer."
    ]
    assert problems(router("r", 200), GATEWAY) == ["56 of 256 partitions have no owner that answers."]
    assert problems(router(hubwire_router_unsynced=3), GATEWAY) == [
        "router r: 3 snapshots of members are missing."
    ]
    busy = status("gateway", "g", numbers={"webpubsub_server_utilization": 0.97})
    assert problems(router(), busy) == ["gateway g: it uses 97% of a core; add processes."]
    files = {"hubwire_process_open_files": 900.0, "hubwire_process_open_files_limit": 1000.0}
    assert problems(router(), status("gateway", "g", numbers=files)) == [
        "gateway g: 900 of 1000 descriptors are in use."
    ]
    away = status("gateway", "g", problems=["NATS is not connected."])
    assert problems(router(), away) == ["gateway g: NATS is not connected."]


def test_rates_are_of_those_that_were_there_before_and_by_their_own_clocks() -> None:
    name = "webpubsub_messages_total"

    def told(run: str, at: float, messages: float) -> Status:
        return status("gateway", run, at, numbers={name: messages})

    before = [told("a", 100.0, 50), told("b", 7.0, 10)]
    now = [told("a", 102.0, 90), told("b", 8.0, 40), told("new", 1.0, 1_000_000)]
    assert glance(before, now, {}).rates.messages == 20 + 30


def test_a_counter_that_began_anew_is_no_negative_rate() -> None:
    before = [status("gateway", "a", 1.0, numbers={"webpubsub_messages_total": 500})]
    now = [status("gateway", "a", 2.0, numbers={"webpubsub_messages_total": 3})]
    assert glance(before, now, {}).rates.messages == 0


def test_delivery_times_are_of_the_time_between_and_of_all_together() -> None:
    name = "webpubsub_message_delivery_duration_seconds"
    bounds = [0.001, 0.01, 0.1]

    def told(run: str, at: float, counts: list[int]) -> Status:
        return status("gateway", run, at, distributions={name: (bounds, counts)})

    before = [told("a", 1.0, [1000, 0, 0, 0]), status("gateway", "b", 1.0)]
    now = [told("a", 2.0, [1000, 60, 0, 0]), told("b", 2.0, [0, 0, 40, 0])]
    rates = glance(before, now, {}).rates
    assert (rates.delivery_p50, rates.delivery_p99) == (0.01, 0.1)
    assert glance(now, now, {}).rates.delivery_p50 is None
    late = glance(before, [told("a", 2.0, [1000, 0, 0, 5])], {})
    assert late.rates.delivery_p50 == float("inf")
    assert late.facts()["rates"]["deliverySecondsP50"] == 10.0


def test_a_quantile_is_the_bound_below_which_that_part_is() -> None:
    distribution = ([1.0, 2.0], [5, 4, 1])
    assert [quantile(distribution, part) for part in (0.5, 0.9, 0.99)] == [1.0, 2.0, float("inf")]
    assert quantile(([1.0], [0, 0]), 0.5) is None
