"""Sends the events of connections that are stored: each in its turn, until it is delivered or given up.

What waits here is in memory up to a bound, and stored by the outbox: when this process ends, another one
sends it (gateway.upstream.takeover).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Any

import structlog

from gateway.upstream.audience import Audience, lane_of
from gateway.upstream.budget import Budget
from gateway.upstream.clock import Clock
from gateway.upstream.contexts import NotificationDelivered, NotificationUnwanted
from gateway.upstream.following import Following
from gateway.upstream.given_up import GivenUp
from gateway.upstream.outbox import Outbox, Record
from gateway.upstream.outcome import DeliveryFailure
from gateway.upstream.queued import QueuedEvent, context_of
from gateway.upstream.schedule import BackOff, Schedule, Waiting

log = structlog.get_logger(__name__)

AT_ONCE = 32
"""Events of one upstream that are out at a time: half of its connections, so that blocking events, which
clients wait for, always get through."""
UPSTREAM_BYTES = 32 * 1024 * 1024
TOTAL_BYTES = 128 * 1024 * 1024
"""What may wait in memory, for one upstream and for all."""
EVENT_BYTES = 1024
"""What an event costs beside its payload, roughly."""
NOT_TRIED = frozenset(("circuit_open", "overloaded", "not_ready"))
ANSWERED = frozenset(("status", "bad_answer", "too_large"))


class Sending:
    """Run `run()` for as long as the gateway lives, and end `tasks` after it. `followed` is told of a record
    that need not wait for other outboxes any more. Counters are plain integers that metrics read.
    """

    def __init__(
        self,
        outbox: Outbox,
        audience: Audience,
        following: Following,
        given_up: GivenUp,
        clock: Clock,
        back_off: BackOff,
        chance: Callable[[], float],
        followed: Callable[[Record], None],
    ) -> None:
        self._outbox = outbox
        self._audience = audience
        self._following = following
        self._given_up = given_up
        self._clock = clock
        self._back_off = back_off
        self._followed = followed
        self._schedule: Schedule[QueuedEvent] = Schedule(self._turns_of, back_off, AT_ONCE, chance)
        self._unstored: dict[str, list[tuple[int, Waiting[QueuedEvent]]]] = {}
        self._held: set[str] = set()  # records whose predecessors are looked for
        self._budget = Budget(UPSTREAM_BYTES, TOTAL_BYTES, EVENT_BYTES)
        self._wake = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        self.delivered = 0
        self.unwanted = 0

    @property
    def waiting(self) -> int:
        """Events that are not delivered yet, of this process."""
        return len(self._schedule)

    def room(self, queued: QueuedEvent) -> bool:
        return self._budget.room(queued.key, len(queued.pending.payload))

    def refuse(self, queued: QueuedEvent) -> None:
        """Give it up at once: there is no room for it."""
        failure = DeliveryFailure(
            "overloaded", None, "Too many events wait for this upstream already.", 0, 0.0, ""
        )
        self._start(self._keep_letter(queued, 0, failure))

    def add(self, queued: QueuedEvent, version: int) -> None:
        """Send it, once its record is stored in this version."""
        self._budget.take(queued.key, len(queued.pending.payload))
        left = queued.pending.queued + self._back_off.give_up_seconds - self._clock.time()
        waiting = Waiting(
            queued.lane,
            queued.pending.number,
            queued,
            self._clock.monotonic() + left,
        )
        self._unstored.setdefault(queued.record.subject, []).append((version, waiting))
        self._schedule.add(waiting)

    def stored(self, record: Record) -> None:
        """The record is stored as its `stored` says."""
        waiting = self._unstored.get(record.subject)
        if waiting is None:
            return
        if record.follows:
            if record.subject not in self._held:
                self._held.add(record.subject)
                self._start(self._follow(record))
            return
        later = []
        for version, one in waiting:
            if version <= record.stored:
                one.stored = True
                self._schedule.look(one.lane)
            else:
                later.append((version, one))
        if later:
            self._unstored[record.subject] = later
        else:
            del self._unstored[record.subject]
        self._wake.set()

    async def _follow(self, record: Record) -> None:
        """Its events count as stored once those of before have been told by whoever tells them."""

        def first() -> int | None:
            if self._outbox.records.get(record.subject) is not record:
                return None
            waiting = self._unstored.get(record.subject, ())
            return min((one.number for _, one in waiting), default=None)

        try:
            follows = not await self._following.first(record, first)
        finally:
            self._held.discard(record.subject)
        if not follows:
            record.follows = False
            self._followed(record)
            self.stored(record)

    def lost(self, record: Record) -> None:
        """Another gateway decides about this record now."""
        self._unstored.pop(record.subject, None)
        listeners = {context_of(each).listener for each in record.pending}
        for lane in {lane_of(record.connection_id, listener) for listener in listeners}:
            for waiting in self._schedule.forget(lane, lambda event: event.record is record):
                self._give_back(waiting.event)

    def _give_back(self, queued: QueuedEvent) -> None:
        self._budget.give_back(queued.key, len(queued.pending.payload))

    def _finish(self, waiting: Waiting[QueuedEvent], answered: bool = False) -> None:
        """Delivered, or given up and kept, or not wanted."""
        queued = waiting.event
        self._schedule.done(waiting, answered)
        self._give_back(queued)
        record = queued.record
        if self._outbox.records.get(record.subject) is record:
            record.pending = [each for each in record.pending if each is not queued.pending]
            self._outbox.change(record)
        self._wake.set()

    # -- sending ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._outbox.open()
            self._wake.clear()
            now = self._clock.monotonic()
            for waiting, reason in self._schedule.take_expired(now):
                failure = DeliveryFailure("circuit_open", None, reason, 0, 0.0, "")
                self._start(self._give_up(waiting, failure))
            for waiting in self._schedule.take(now):
                self._start(self._deliver(waiting))
            at = self._schedule.wake_at(now)
            try:
                async with asyncio.timeout(None if at is None else max(0.0, at - now)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _deliver(self, waiting: Waiting[QueuedEvent]) -> None:
        await self._outbox.open()
        queued = waiting.event
        try:
            context = context_of(queued.pending)
            result = await self._audience.notify(context)
        except Exception as error:  # a lane must not stand still for a fault of ours
            log.exception("notification_failed", hub=queued.hub, connection_id=waiting.lane)
            result = DeliveryFailure("unsendable", None, f"Internal error: {error!r}", 0, 0.0, "")
        now = self._clock.monotonic()
        if self._outbox.records.get(queued.record.subject) is not queued.record:
            self._finish(waiting)  # another gateway has taken it over meanwhile
        elif isinstance(result, NotificationDelivered):
            self.delivered += 1
            if result.set_cookies and queued.source is not None:
                queued.source.store_cookies(result.url, result.set_cookies, self._clock.time())
            self._finish(waiting, answered=True)
        elif isinstance(result, NotificationUnwanted):
            self.unwanted += 1
            self._finish(waiting)
        elif result.category in NOT_TRIED and not result.attempts:
            if not self._schedule.not_tried(waiting, now, result.reason):
                await self._give_up(waiting, result)
        elif not result.may_work_later or not self._schedule.failed(waiting, now):
            await self._give_up(waiting, result)
        self._wake.set()

    async def _give_up(self, waiting: Waiting[QueuedEvent], failure: DeliveryFailure) -> None:
        await self._keep_letter(waiting.event, waiting.attempts, failure)
        self._finish(waiting, answered=failure.category in ANSWERED)

    async def _keep_letter(self, queued: QueuedEvent, attempts: int, failure: DeliveryFailure) -> None:
        await self._given_up.keep(context_of(queued.pending), queued.pending, attempts, failure)

    def _turns_of(self, queued: QueuedEvent) -> Hashable:
        return self._audience.turns_of(queued.hub, queued.handled, queued.listener)

    def _start(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
