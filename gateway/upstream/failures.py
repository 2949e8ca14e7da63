"""What went wrong with event handlers: one log line, one count, and the latest kept for people to see."""

from __future__ import annotations

from collections import Counter, deque
from typing import Final, NamedTuple

import structlog

from gateway.upstream.outcome import DeliveryFailure

CHEAP_LINES: Final = 10
MAX_CHEAP: Final = 1000
"""Hubs and categories whose lines are counted; past it counting begins anew."""

log = structlog.get_logger(__name__)


class FailureRecord(NamedTuple):
    """One failed event. `at` is Unix time in seconds; `url` is without its secrets; `told` is what the
    client learns of it. The other fields are those of `DeliveryFailure`."""

    at: float
    hub: str
    event: str
    connection_id: str
    url: str
    category: str
    status: int | None
    reason: str
    attempts: int
    seconds: float
    told: str


class _Second:
    """The lines of one second about failures that cost no attempt."""

    __slots__ = ("at", "left_out", "lines")

    def __init__(self) -> None:
        self.at = self.lines = self.left_out = 0


class FailureLog:
    """Keeps the latest `kept` failures, and as many of those that cost no attempt, so that a flood of them
    leaves their cause to be seen. `counts` are plain integers by category, for metrics.

    Every failure is counted and kept, and every one that cost an attempt is a line in the log. Clients can
    make events fail as fast as they send them while an upstream is left alone; of those a category of a hub
    has ten lines a second, and the next line says how many were left out (`suppressed`).
    """

    def __init__(self, kept: int) -> None:
        self._latest: deque[FailureRecord] = deque(maxlen=kept)
        self._latest_cheap: deque[FailureRecord] = deque(maxlen=kept)
        self._cheap: dict[tuple[str, str], _Second] = {}
        self.counts: Counter[str] = Counter()

    def record(
        self, failure: DeliveryFailure, *, at: float, hub: str, event: str, connection_id: str, told: str
    ) -> None:
        one = FailureRecord(
            at,
            hub,
            event,
            connection_id,
            failure.url,
            failure.category,
            failure.status,
            failure.reason,
            failure.attempts,
            round(failure.seconds, 3),
            told,
        )
        self.counts[failure.category] += 1
        (self._latest if failure.attempts else self._latest_cheap).append(one)
        suppressed = 0 if failure.attempts else self._suppressed(hub, failure.category, at)
        if suppressed is None:
            return
        more = {"suppressed": suppressed} if suppressed else {}
        # A handler that turns a client away works as it should: nobody must look.
        tell = log.info if failure.category == "refused" else log.warning
        tell(
            "event_failed" if failure.category != "refused" else "connect_refused",
            hub=hub,
            upstream_event=event,
            connection_id=connection_id,
            url=failure.url,
            category=failure.category,
            status=failure.status,
            reason=failure.reason,
            attempts=failure.attempts,
            seconds=one.seconds,
            told=told,
            **more,
        )

    def _suppressed(self, hub: str, category: str, at: float) -> int | None:
        """How many lines were left out before this one; None when this one is left out too."""
        if len(self._cheap) > MAX_CHEAP:
            self._cheap.clear()
        second = self._cheap.setdefault((hub, category), _Second())
        if int(at) != second.at:
            second.at, second.lines = int(at), 0
        elif second.lines >= CHEAP_LINES:
            second.left_out += 1
            return None
        second.lines += 1
        left_out, second.left_out = second.left_out, 0
        return left_out

    def latest(self) -> list[FailureRecord]:
        """The newest first."""
        both = [*reversed(self._latest), *reversed(self._latest_cheap)]
        return sorted(both, key=lambda each: each.at, reverse=True)
