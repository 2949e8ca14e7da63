"""What went wrong with event handlers: one log line, one count, and the latest kept for people to see."""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

import structlog

from gateway.upstream.outcome import DeliveryFailure

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


class FailureLog:
    """Keeps the latest `kept` failures. `counts` are plain integers by category, for metrics."""

    def __init__(self, kept: int) -> None:
        self._latest: deque[FailureRecord] = deque(maxlen=kept)
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
        self._latest.append(one)
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
        )

    def latest(self) -> list[FailureRecord]:
        """The newest first."""
        return list(reversed(self._latest))
