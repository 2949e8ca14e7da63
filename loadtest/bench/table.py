"""The rows of the table of performance: what is measured, by what it is judged, what it is to reach."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from loadtest.bench import rows
from loadtest.bench.rows import Options, Run


def _fan_out(run: Run) -> float:
    return run["hubwire"]["fan_out_us"] / run["floor"]["us"]


class Head(NamedTuple):
    """What a row is judged by: a number that should be small. `tolerance`: what another run may have more of
    it, as a part, before it counts as worse."""

    title: str
    of: Callable[[Run], float]
    reach: float
    dream: float | None
    unit: str = "times"
    tolerance: float = 0.15


class Row(NamedTuple):
    number: int
    name: str
    title: str
    measure: Callable[[Options], Run]
    heads: tuple[Head, ...]


def _of_peer(key: str, peer: str = "centrifuge") -> Callable[[Run], float]:
    return lambda run: run["hubwire"][key] / run[peer][key]


def _of_plain(key: str) -> Callable[[Run], float]:
    return lambda run: run["hubwire reliable"][key] / run["hubwire"][key]


ROWS = (
    Row(
        1,
        "broadcast",
        "One publish at a time to 1,000 members of one group: gateway CPU a delivery",
        rows.broadcast,
        (Head("gateway CPU a delivery, in sends of the bare loop", _fan_out, 1.25, 1.1),),
    ),
    Row(
        2,
        "overload",
        "The same with publishes faster than can be sent",
        rows.overload,
        (Head("gateway CPU a delivery, in sends of the bare loop", _fan_out, 0.8, 0.4, tolerance=0.25),),
    ),
    Row(
        3,
        "small",
        "1,000 clients in 100 groups of 10, 4,000 publishes/s: CPU of all a publish and its 10 deliveries",
        rows.small,
        (
            Head("CPU, of Centrifuge's", _of_peer("us_at_4000"), 1.0, 0.75),
            Head("p99 at 2,000/s", lambda run: run["hubwire"]["p99_ms_at_2000"], 10, None, "ms", 1.0),
        ),
    ),
    Row(
        4,
        "connect",
        "Connect, check a token, join one group of ten; 64 handshakes in flight: CPU of all a client",
        rows.connect,
        (Head("CPU, of Centrifuge's without a token", _of_peer("us"), 1.0, 0.7),),
    ),
    Row(
        5,
        "memory",
        "10,000 idle clients with a user and one group each: memory (PSS) of all processes a client",
        rows.memory,
        (Head("growth of all processes a client", lambda run: run["hubwire"]["kib"], 10, 6, "KiB", 0.05),),
    ),
    Row(
        6,
        "rest",
        "REST: send to a user of one client, keep-alive, a new token each: CPU of all a call",
        rows.rest,
        (
            Head(
                "CPU a call, in sends of the bare loop",
                lambda run: run["hubwire"]["us"] / run["floor"]["us"],
                32,
                18,
                tolerance=0.2,
            ),
        ),
    ),
    Row(
        7,
        "reliable",
        "Reliable clients: broadcast and small groups",
        rows.reliable,
        (
            Head("broadcast, of plain", _of_plain("fan_out_us"), 2, 1.4),
            Head("small groups at 4,000/s, of plain", _of_plain("us_at_4000"), 2, 1.4),
        ),
    ),
    Row(
        9,
        "idle",
        "10,000 idle clients, a ping each 20 s: CPU of all",
        rows.idle,
        (Head("part of a core", lambda run: run["hubwire"]["core"], 0.047, None, "cores", 0.3),),
    ),
)
