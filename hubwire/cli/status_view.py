"""What `hubwire status` makes of two rounds of answers: sums, rates, problems. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hubwire.bus.keys import PARTITIONS
from hubwire.runtime.status import Distribution, Status

CONNECTIONS = "webpubsub_server_active_connections"
OPENED, CLOSED = "webpubsub_connection_opened_total", "webpubsub_connection_closed_total"
SESSIONS = "webpubsub_reliable_sessions"
OWNED = "hubwire_router_partitions"
UNSYNCED = "hubwire_router_unsynced"
PUBLISHES = "hubwire_router_publishes_total"
LOAD = "webpubsub_server_utilization"
MEMORY = "process_memory_usage_bytes"
OUTBOX = "webpubsub_outbox_size_bytes"
FILES, MAX_FILES = "hubwire_process_open_files", "hubwire_process_open_files_limit"
PENDING = "webpubsub_upstream_notifications_pending"
EVENT_FAILURES = "webpubsub_upstream_failures_total"
MESSAGES = "webpubsub_messages_total"
TRAFFIC = "webpubsub_network_io_bytes_total"
DELIVERY = "webpubsub_message_delivery_duration_seconds"
REST = "http_server_request_duration_seconds"
MOST_SECONDS = 10.0
BUSY = 0.9
FULL = 0.8


class Rates(NamedTuple):
    """Per second, over all processes. `delivery_*` are seconds, None when nothing was measured."""

    messages: float
    bytes: float
    published: float
    rest: float
    opened: float
    closed: float
    event_failures: float
    delivery_p50: float | None
    delivery_p99: float | None

    def facts(self) -> dict[str, float | None]:
        """For programs: JSON has no infinity, so what is above all bounds is told as ten seconds."""
        return {
            "messages": self.messages,
            "bytes": self.bytes,
            "published": self.published,
            "rest": self.rest,
            "opened": self.opened,
            "closed": self.closed,
            "eventFailures": self.event_failures,
            "deliverySecondsP50": self.delivery_p50 and min(self.delivery_p50, MOST_SECONDS),
            "deliverySecondsP99": self.delivery_p99 and min(self.delivery_p99, MOST_SECONDS),
        }


class Glance(NamedTuple):
    """The cluster between two rounds of answers."""

    processes: Sequence[Status]
    rates: Rates
    partitions: dict[str, int]
    connections: int
    sessions: int
    problems: list[str]

    def facts(self) -> dict[str, Any]:
        """For programs."""
        return {
            "ok": not self.problems,
            "problems": self.problems,
            "partitions": {
                "total": PARTITIONS,
                "owned": sum(self.partitions.values()),
                "by": self.partitions,
            },
            "connections": self.connections,
            "reliableSessions": self.sessions,
            "rates": self.rates.facts(),
            "processes": [
                {name: value for name, value in one.items() if name not in ("distributions", "at")}
                for one in self.processes
            ],
        }


def glance(before: Iterable[Status], now: Sequence[Status], holders: Mapping[str, str]) -> Glance:
    """`holders` are the live leases: run name to role."""
    partitions = {one["run"]: int(one["numbers"].get(OWNED, 0)) for one in now if one["role"] == "router"}
    return Glance(
        now,
        _rates({one["run"]: one for one in before}, now),
        partitions,
        int(_sum(now, CONNECTIONS)),
        int(_sum(now, SESSIONS)),
        [*_of_cluster(now, partitions, holders), *(said for one in now for said in _of_process(one))],
    )


def _sum(processes: Iterable[Status], name: str) -> float:
    return sum(one["numbers"].get(name, 0) for one in processes)


def _rates(before: Mapping[str, Status], now: Sequence[Status]) -> Rates:
    def per_second(name: str) -> float:
        total = 0.0
        for one, old, seconds in _pairs(before, now):
            total += max(0.0, one["numbers"].get(name, 0) - old["numbers"].get(name, 0)) / seconds
        return total

    delivered = _grown(before, now, DELIVERY)
    rest = sum(sum(_difference(one, old, REST)[1]) / seconds for one, old, seconds in _pairs(before, now))
    return Rates(
        per_second(MESSAGES),
        per_second(TRAFFIC),
        per_second(PUBLISHES),
        rest,
        per_second(OPENED),
        per_second(CLOSED),
        per_second(EVENT_FAILURES),
        quantile(delivered, 0.5),
        quantile(delivered, 0.99),
    )


def _pairs(before: Mapping[str, Status], now: Sequence[Status]) -> list[tuple[Status, Status, float]]:
    """Those that were there before, too, and the seconds between."""
    return [
        (one, before[one["run"]], one["at"] - before[one["run"]]["at"])
        for one in now
        if one["run"] in before and one["at"] > before[one["run"]]["at"]
    ]


def _difference(one: Status, old: Status, name: str) -> Distribution:
    bounds, counts = one["distributions"].get(name, ([], []))
    _, earlier = old["distributions"].get(name, (bounds, [0] * len(counts)))
    return list(bounds), [max(0, new - was) for new, was in zip(counts, earlier, strict=False)]


def _grown(before: Mapping[str, Status], now: Sequence[Status], name: str) -> Distribution:
    found = [_difference(one, old, name) for one, old, _ in _pairs(before, now)]
    found = [one for one in found if one[1]]
    if not found:
        return [], []
    return found[0][0], [sum(column) for column in zip(*(counts for _, counts in found), strict=True)]


def quantile(distribution: Distribution, part: float) -> float | None:
    """The bound below which that part of the values is; None without values."""
    bounds, counts = distribution
    wanted, seen = part * sum(counts), 0
    if not wanted:
        return None
    for bound, count in zip([*bounds, float("inf")], counts, strict=True):
        seen += count
        if seen >= wanted:
            return bound
    return None


def _of_cluster(
    now: Sequence[Status], partitions: Mapping[str, int], holders: Mapping[str, str]
) -> Iterable[str]:
    roles = {one["role"] for one in now}
    for role in ("router", "gateway"):
        if role not in roles:
            yield f"There is no {role}."
    answered = {one["run"] for one in now}
    for run, role in sorted(holders.items()):
        if run not in answered:
            yield f"The {role} {run} holds a lease and does not answer."
    owned = sum(partitions.values())
    if partitions and owned < PARTITIONS:
        yield f"{PARTITIONS - owned} of {PARTITIONS} partitions have no owner that answers."


def _of_process(one: Status) -> Iterable[str]:
    who, numbers = f"{one['role']} {one['run']}", one["numbers"]
    for problem in one["problems"]:
        yield f"{who}: {problem}"
    if numbers.get(LOAD, 0) > BUSY:
        yield f"{who}: it uses {numbers[LOAD]:.0%} of a core; add processes."
    if numbers.get(FILES, 0) > FULL * numbers.get(MAX_FILES, float("inf")):
        yield f"{who}: {numbers[FILES]:.0f} of {numbers[MAX_FILES]:.0f} descriptors are in use."
    if numbers.get(UNSYNCED, 0):
        yield f"{who}: {numbers[UNSYNCED]:.0f} snapshots of members are missing."
