"""When which waiting event is sent: order, turns, back-off. Pure: time comes in, randomness too.

One *lane* for each connection: its events go out in the order of their numbers (`ce-id`), one at a time, and
the next one only when the one before it is done for good. One *upstream* for each handler: so many of its
events at a time, first come first served; when it is not there its events wait, and nobody else's.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Generic, Literal, NamedTuple, TypeVar

E = TypeVar("E")


class BackOff(NamedTuple):
    """An event has `tries` turns at most, the pause after the first is `first_seconds`, doubling up to
    `most_seconds`; and after `give_up_seconds` in the queue the next failure is the last. (A turn has the
    quick repeats of server-events.md 4.8 in it.) An upstream that is away altogether, so that its events
    are not even tried, is asked again every `away_seconds`, and that uses up no turns."""

    tries: int = 10
    first_seconds: float = 5.0
    most_seconds: float = 1200.0
    give_up_seconds: float = 3600.0
    away_seconds: float = 5.0

    def pause(self, attempts: int, chance: float) -> float:
        """After so many turns; `chance` in 0 to 1 spreads what failed together."""
        return min(self.first_seconds * 2.0 ** (attempts - 1), self.most_seconds) * (0.75 + chance / 2)


class Waiting(Generic[E]):
    """One event in the schedule. `stored`: it is in the queue of the cluster, so it may be sent; whoever sets
    it calls `Schedule.look`. `deadline`: from when on a failure is the last, on the schedule's clock."""

    __slots__ = ("attempts", "deadline", "event", "lane", "number", "state", "stored", "upstream")

    def __init__(self, lane: str, number: int, event: E, deadline: float, stored: bool = False) -> None:
        self.lane = lane
        self.number = number
        self.event = event
        self.deadline = deadline
        self.stored = stored
        self.attempts = 0
        self.state: Literal["idle", "paused", "ready", "running", "done"] = "idle"
        self.upstream: Hashable = None


class _Upstream(Generic[E]):
    __slots__ = ("away", "not_before", "ready", "reason", "running")

    def __init__(self) -> None:
        self.ready: deque[Waiting[E]] = deque()
        self.running = 0
        self.away = False
        self.not_before = 0.0
        self.reason = ""


class Schedule(Generic[E]):
    """Every event is added once and leaves once, by `done`. `upstream_of` says, when an event's turn comes,
    whose turn it uses up; it may change while the event waits. At most `at_once` events of an upstream are
    out at a time, one while it is away."""

    def __init__(
        self,
        upstream_of: Callable[[E], Hashable],
        back_off: BackOff,
        at_once: int,
        chance: Callable[[], float],
    ) -> None:
        self._upstream_of = upstream_of
        self._back_off = back_off
        self._at_once = at_once
        self._chance = chance
        self._lanes: dict[str, list[Waiting[E]]] = {}
        self._upstreams: dict[Hashable, _Upstream[E]] = {}
        self._paused: list[tuple[float, int, Waiting[E]]] = []
        self._order = count()
        self.size = 0

    def __len__(self) -> int:
        return self.size

    def add(self, waiting: Waiting[E]) -> None:
        lane = self._lanes.setdefault(waiting.lane, [])
        self.size += 1
        # Behind the one whose turn has begun, whatever the numbers say: that one cannot be called back.
        begun = 1 if lane and lane[0].state != "idle" else 0
        insort(lane, waiting, lo=begun, key=lambda each: each.number)
        self.look(waiting.lane)

    def look(self, lane: str) -> None:
        """The first of a lane may have become ready: it was stored, or what was before it is done."""
        waiting = self._lanes.get(lane)
        if waiting and waiting[0].stored and waiting[0].state == "idle":
            self._ready(waiting[0])

    def _ready(self, waiting: Waiting[E]) -> None:
        waiting.state = "ready"
        waiting.upstream = self._upstream_of(waiting.event)
        upstream = self._upstreams.get(waiting.upstream)
        if upstream is None:
            upstream = self._upstreams[waiting.upstream] = _Upstream()
        upstream.ready.append(waiting)

    def take(self, now: float) -> Iterator[Waiting[E]]:
        """The events whose turn it is now; each must come back by `done`, `failed` or `not_tried`."""
        paused = self._paused
        while paused and paused[0][0] <= now:
            waiting = heappop(paused)[2]
            if waiting.state == "paused":
                self._ready(waiting)
        for upstream in [*self._upstreams.values()]:
            limit = 1 if upstream.away else self._at_once
            while upstream.ready and upstream.running < limit and upstream.not_before <= now:
                waiting = upstream.ready.popleft()
                if waiting.state != "ready":
                    continue
                waiting.state = "running"
                upstream.running += 1
                yield waiting

    def take_expired(self, now: float) -> Iterator[tuple[Waiting[E], str]]:
        """Events of upstreams that are away whose time is over: they are given up without a further try. With
        why the upstream is away; each must be given to `done`."""
        for upstream in [*self._upstreams.values()]:
            if upstream.away:
                while upstream.ready and upstream.ready[0].deadline <= now:
                    waiting = upstream.ready.popleft()
                    if waiting.state == "ready":
                        waiting.state = "running"
                        upstream.running += 1
                        yield waiting, upstream.reason

    def wake_at(self, now: float) -> float | None:
        """When `take` may have something, if nothing else happens; None: never."""
        times = [self._paused[0][0]] if self._paused else []
        for upstream in self._upstreams.values():
            if upstream.ready:
                if upstream.running < (1 if upstream.away else self._at_once):
                    times.append(upstream.not_before)
                if upstream.away:
                    times.append(upstream.ready[0].deadline)
        return max(now, min(times)) if times else None

    # -- how it ended ------------------------------------------------------------------------------

    def done(self, waiting: Waiting[E], answered: bool = False) -> None:
        """Delivered, given up, or not wanted any more: whatever it was, the lane goes on. `answered`: the
        upstream is there. Also for one that was never taken."""
        if waiting.state == "done":
            return
        self._left(waiting, answered)
        waiting.state = "done"
        self.size -= 1
        lane = self._lanes[waiting.lane]
        lane.remove(waiting)
        if lane:
            self.look(waiting.lane)
        else:
            del self._lanes[waiting.lane]

    def failed(self, waiting: Waiting[E], now: float) -> bool:
        """It had its turn, and may work later. False: that was the last; keep it as a dead letter, then
        call `done`."""
        waiting.attempts += 1
        if waiting.attempts >= self._back_off.tries or now >= waiting.deadline:
            return False
        self._left(waiting, False)
        waiting.state = "paused"
        due = now + self._back_off.pause(waiting.attempts, self._chance())
        heappush(self._paused, (due, next(self._order), waiting))
        return True

    def not_tried(self, waiting: Waiting[E], now: float, reason: str) -> bool:
        """The upstream is left alone for a while: it goes back to the front. False as in `failed`."""
        if now >= waiting.deadline:
            return False
        upstream = self._upstreams[waiting.upstream]
        upstream.away = True
        upstream.reason = reason
        upstream.not_before = max(upstream.not_before, now + self._back_off.away_seconds)
        upstream.running -= 1
        waiting.state = "ready"
        upstream.ready.appendleft(waiting)
        return True

    def _left(self, waiting: Waiting[E], answered: bool) -> None:
        if waiting.state != "running":
            return
        upstream = self._upstreams[waiting.upstream]
        upstream.running -= 1
        if answered:
            upstream.away = False
            upstream.not_before = 0.0
        if not upstream.running and not upstream.ready and not upstream.away:
            del self._upstreams[waiting.upstream]

    def forget(self, lane: str, meant: Callable[[E], bool]) -> list[Waiting[E]]:
        """Others have taken events of a lane over: those that are not out leave, as if done, and are told."""
        gone = [each for each in self._lanes.get(lane, ()) if each.state != "running" and meant(each.event)]
        for waiting in gone:
            self.done(waiting)
        return gone
