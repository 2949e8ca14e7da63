"""Events that are given up: kept as dead letters, and told in the log without flooding it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import structlog

from gateway.upstream.clock import Clock
from gateway.upstream.contexts import NotificationContext
from gateway.upstream.outcome import DeliveryFailure
from hubwire.bus.dead_letters import DeadLetter, DeadLetters
from hubwire.bus.event_log import Pending
from hubwire.model.errors import HubwireError, LimitExceeded

log = structlog.get_logger(__name__)

MAX_WAITING = 10_000
"""Letters that may wait for NATS. Past it an event that is given up is only counted and told of."""
PAUSE_SECONDS = 0.5
TELL_SECONDS = 1.0


class GivenUp:
    """`open`: waits until NATS may be written to. `count` and `lost` are counters for metrics."""

    def __init__(self, letters: DeadLetters, open: Callable[[], Awaitable[None]], clock: Clock) -> None:
        self._letters = letters
        self._open = open
        self._clock = clock
        self._reasons: Counter[tuple[str, str, str]] = Counter()
        self._waiting = 0
        self.count = 0
        self.lost = 0

    async def keep(
        self, context: NotificationContext, pending: Pending, attempts: int, failure: DeliveryFailure
    ) -> None:
        """Returns when the letter is kept, however long NATS is away."""
        source = context.source
        self.count += 1
        self.tell_of(source.hub, context.name, failure.reason)
        if self._waiting >= MAX_WAITING:
            self.lost += 1
            self.tell_of(source.hub, context.name, "No letter could be kept, NATS is away.")
            return
        letter = DeadLetter(
            hub=source.hub,
            event=context.name,
            connection_id=source.connection_id,
            number=context.event_id,
            happened=context.time,
            queued=pending.queued,
            given_up=self._clock.time(),
            attempts=attempts,
            category=failure.category,
            reason=failure.reason,
            status=failure.status,
            url=failure.url,
            user_id=source.user_id,
            group=context.group,
            payload=pending.payload,
        )
        self._waiting += 1
        try:
            while True:
                await self._open()
                try:
                    await self._letters.keep(letter)
                    return
                except LimitExceeded as error:
                    self.lost += 1
                    self.tell_of(source.hub, context.name, f"No letter could be kept: {error}")
                    return
                except HubwireError as error:
                    log.debug("dead_letter_not_kept", error=str(error))
                    await asyncio.sleep(PAUSE_SECONDS)
        finally:
            self._waiting -= 1

    def tell_of(self, hub: str, event: str, reason: str) -> None:
        self._reasons[hub, event, reason] += 1

    async def run(self) -> None:
        """One line a second at most for what was given up for one reason."""
        while True:
            await asyncio.sleep(TELL_SECONDS)
            reasons, self._reasons = self._reasons, Counter()
            for (hub, event, reason), count in reasons.items():
                log.error("events_given_up", hub=hub, event_name=event, count=count, reason=reason)
