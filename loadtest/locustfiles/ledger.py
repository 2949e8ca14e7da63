"""The account of a load test: what was sent, what came, what is missing, what came twice, how late.

Each process keeps one and tells it as a snapshot; the sum of the snapshots is the account of the run. What
must come is what was sent to a target times its members, so no process needs to know who is where.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ONE = "one"
"""The target of scenarios where each message has one receiver; its members are not counted."""
COUNTS = ("twice", "strange", "refused", "unknown", "reconnects", "recovered", "resent", "retried")
PARTS_OF_E = 50  # a bucket is 2 % wide


class Histogram:
    """Times in seconds, in buckets 2 % wide, so that those of several processes can be added."""

    def __init__(self, buckets: Iterable[Sequence[int]] = ()) -> None:
        self.buckets: Counter[int] = Counter()
        self.add(buckets)

    def note(self, seconds: float) -> None:
        self.buckets[int(math.log(max(seconds * 1e6, 1.0)) * PARTS_OF_E)] += 1

    def add(self, buckets: Iterable[Sequence[int]]) -> None:
        for bucket, count in buckets:
            self.buckets[bucket] += count

    def pairs(self) -> list[list[int]]:
        return [[bucket, count] for bucket, count in sorted(self.buckets.items())]

    def at(self, share: float) -> float:
        """Seconds that this share of the times does not exceed, but for the 2 %; 0 when there are none."""
        wanted, passed = share * self.buckets.total(), 0
        for bucket, count in sorted(self.buckets.items()):
            passed += count
            if passed >= wanted:
                return math.exp((bucket + 1) / PARTS_OF_E) / 1e6
        return 0.0


class Seen:
    """The numbers that came from one sender. It remembers the highest and the gaps, so it grows with what is
    lost."""

    def __init__(self) -> None:
        self._highest = -1
        self._missing: set[int] = set()

    def add(self, number: int) -> bool:
        """Whether it is new."""
        if number > self._highest:
            self._missing.update(range(self._highest + 1, number))
            self._highest = number
            return True
        if number in self._missing:
            self._missing.remove(number)
            return True
        return False


class Ledger:
    """One process's account. `step_seconds` is the width of a point in the plots."""

    def __init__(self, step_seconds: float = 1.0) -> None:
        self.sent: Counter[str] = Counter()
        self.members: Counter[str] = Counter()
        self.arrived: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.latency, self.behind, self.answers = Histogram(), Histogram(), Histogram()
        self._step = step_seconds
        self._steps: dict[int, tuple[Counter[str], Histogram]] = {}

    def joined(self, target: str) -> None:
        """One more client that gets what is sent to this target."""
        self.members[target] += 1

    def sending(self, target: str, at: float, behind: float) -> None:
        """A message is about to be sent, `at` seconds into the run and `behind` seconds later than
        planned."""
        self.sent[target] += 1
        self.behind.note(behind)
        self._at(at)[0]["sent"] += 1

    def was_refused(self, target: str) -> None:
        """The service said no: nobody has to get it."""
        self.sent[target] -= 1
        self.counts["refused"] += 1

    def came(self, target: str, new: bool, at: float, latency: float) -> None:
        """A message, `at` seconds into the run."""
        if not new:
            self.counts["twice"] += 1
            return
        self.arrived[target] += 1
        self.latency.note(latency)
        counts, times = self._at(at)
        counts["delivered"] += 1
        times.note(latency)

    def loaded(self, at: float, cpu: float, lag: float) -> None:
        """The generator's own CPU (a share of one core) and its worst lag in seconds, in the time up to
        `at`."""
        counts, _ = self._at(at)
        counts["cpu_permille"] = max(counts["cpu_permille"], int(cpu * 1000))
        counts["lag_us"] = max(counts["lag_us"], int(lag * 1e6))

    def _at(self, at: float) -> tuple[Counter[str], Histogram]:
        return self._steps.setdefault(int(max(at, 0.0) / self._step), (Counter(), Histogram()))

    def snapshot(self) -> dict[str, Any]:
        """All of it, in what JSON and msgpack can carry."""
        return {
            "sent": dict(self.sent),
            "members": dict(self.members),
            "arrived": dict(self.arrived),
            "counts": dict(self.counts),
            "latency": self.latency.pairs(),
            "behind": self.behind.pairs(),
            "answers": self.answers.pairs(),
            "step_seconds": self._step,
            "steps": [[at, dict(one), times.pairs()] for at, (one, times) in sorted(self._steps.items())],
        }


def total(snapshots: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The account of the run: `sent`, `expected`, `delivered`, `lost`, all of COUNTS, and the times in
    milliseconds.

    `lost` is never below zero: a message of which the service said no although it delivered it came too
    often.
    """
    sums: dict[str, Counter[str]] = {name: Counter() for name in ("sent", "members", "arrived", "counts")}
    times = {name: Histogram() for name in ("latency", "behind", "answers")}
    for snapshot in snapshots:
        for name, one in sums.items():
            one.update(snapshot[name])
        for name, histogram in times.items():
            histogram.add(snapshot[name])
    members = {target: 1 if target == ONE else sums["members"][target] for target in sums["sent"]}
    expected = {target: count * members[target] for target, count in sums["sent"].items()}
    lost = sum(max(0, wanted - sums["arrived"][target]) for target, wanted in expected.items())
    return {
        "sent": sums["sent"].total(),
        "expected": sum(expected.values()),
        "delivered": sums["arrived"].total(),
        "lost": lost,
        **{name: sums["counts"][name] for name in COUNTS},
        **{f"{name}_ms": _percentiles(histogram) for name, histogram in times.items()},
        "steps": _steps(snapshots),
    }


def _percentiles(times: Histogram) -> dict[str, float]:
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {name: round(times.at(share) * 1000, 3) for name, share in shares.items()}


def _steps(snapshots: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The points of the plots: rates and latencies of all, the load of the generator that has most."""
    steps: dict[int, tuple[Counter[str], Histogram]] = {}
    width = max([float(snapshot["step_seconds"]) for snapshot in snapshots] or [1.0])
    for snapshot in snapshots:
        for at, counts, times in snapshot["steps"]:
            sums, histogram = steps.setdefault(at, (Counter(), Histogram()))
            for name, value in counts.items():
                worst = name in ("cpu_permille", "lag_us")
                sums[name] = max(sums[name], value) if worst else sums[name] + value
            histogram.add(times)
    return [
        {
            "at": round(at * width, 3),
            "sent": sums["sent"] / width,
            "delivered": sums["delivered"] / width,
            "p50_ms": round(times.at(0.5) * 1000, 3),
            "p99_ms": round(times.at(0.99) * 1000, 3),
            "cpu": sums["cpu_permille"] / 1000,
            "lag_ms": sums["lag_us"] / 1000,
        }
        for at, (sums, times) in sorted(steps.items())
    ]
