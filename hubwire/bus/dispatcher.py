"""Sends entries to the owners of their partitions, in order, in batches, until they are answered.

DESIGN.md section 4, "Flow". Per partition: first in, first out; an entry waits while an earlier one of
the partition is unanswered, and what was sent together is repeated together, unchanged. Per router: a
batch goes at once when none is on its way there, or when its first entry has waited a millisecond, or
when 64 KiB are ready; what becomes ready meanwhile travels together. That is all the batching there is,
and it adapts by itself to the load.

An owner answers WAIT for what must first be stored in inboxes, and tells the rest later. Such an entry is
*held*: the owner keeps its place, so what comes behind it goes on, and an inbox that takes nothing stops
only what goes to it. It is sent again, before all else, when another owner or epoch is named, when the
connection was lost, or after WAIT_SECONDS of silence; the owner that has it does not do it twice.

An answer counts only while the ownership table still names the owner and epoch that the batch was sent
to. When it names another, the batch is repeated there at once: the old owner may be hung, or be an owner
no more, and what it forwards then is dropped by the gateways. Repeats are dropped by owner and gateway by
the sender's number (docs/decisions/0004), so a batch that both have handled arrives once.

Full, closed, late: more than `max_waiting_bytes` unanswered makes `submit` raise Unavailable. An entry
that is not answered within its deadline is reported to its callback as Unavailable. One that was never
sent is dropped then; one that may have been received is repeated no more, but membership entries
(`keep=True`) are never given up: they go on until an owner has them, or the dispatcher is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Any

import structlog

from hubwire.bus.client import BusClient
from hubwire.bus.dispatch_queues import (
    RETRY_SECONDS,
    Answered,
    Held,
    Item,
    Lane,
    Make,
    Partition,
    Sent,
    Wanted,
)
from hubwire.bus.envelopes import (
    DELIVER_OVERHEAD,
    NOT_MINE,
    WAIT,
    Entry,
    Part,
    answers_to_batch,
    batch_to_router,
)
from hubwire.bus.keys import PARTITIONS
from hubwire.bus.owners import OwnersTable, OwnersView
from hubwire.bus.settle import settle
from hubwire.bus.subjects import router_subject
from hubwire.bus.unanswered import Unanswered
from hubwire.model.buckets import SHORT_SECONDS, Buckets
from hubwire.model.errors import HubwireError, InvalidRequest, LimitExceeded, Unavailable

log = structlog.get_logger(__name__)

BATCH_BYTES = 64 * 1024
GATHER_SECONDS = 0.001
ANSWER_SECONDS = 1.0
WAIT_SECONDS = 2.0
"""How long the rest of a batch's answers is waited for, after the last that came of them. A publish that was
stored and whose answer got lost, with the NATS server on its way, is late by that much."""

SWEEP_SECONDS = 0.25


class Dispatcher:
    """One process's sender. `sender` is the process's name for this run; numbers count per sender."""

    def __init__(
        self, bus: BusClient, owners: OwnersView, sender: str, *, max_waiting_bytes: int = 64 * 1024 * 1024
    ) -> None:
        self._bus = bus
        self._owners = owners
        self._sender = sender
        self._loop = asyncio.get_running_loop()
        self._unanswered = Unanswered()
        self._partitions = [Partition(p) for p in range(PARTITIONS)]
        self._lanes: dict[str, Lane] = {}
        self._max_waiting_bytes = max_waiting_bytes
        self._closed = False
        self._number = 0
        self.batches_sent = 0
        self.entries_sent = 0
        self.repeats = 0
        self.round_trip = Buckets(SHORT_SECONDS)
        """From sending a batch to its answer, in seconds, of those that were answered."""
        owners.on_change(self._owners_changed)
        bus.on_reconnect(self._reconnected)
        self._sweep_timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    @property
    def waiting_bytes(self) -> int:
        """The rough size of all that is not answered."""
        return self._unanswered.bytes

    def next_number(self) -> int:
        """The number for the next publish of this sender (see hubwire.bus.envelopes). Taken in the same
        turn of the loop as the `submit` that follows, so numbers grow in the order of each partition."""
        self._number += 1
        return self._number

    def submit(
        self,
        partition: int,
        entry: Entry | None,
        answered: Answered | None,
        *,
        size: int = 64,
        timeout: float = 10.0,
        keep: bool = False,
        make: Make | None = None,
        wanted: Wanted | None = None,
    ) -> None:
        """Queue an entry. Raises Unavailable when full or closed; nothing is queued then.

        `make` builds it when it is first sent, for those whose content must be of that moment
        (snapshots), perhaps as several, whose last one's answer is the answer. `size` is the entry's
        rough number of bytes. An entry that no bus message can hold is reported as LimitExceeded. What is not
        `wanted` any more when it would be sent, or sent again, is dropped and reported as Unavailable.
        """
        if self._closed:
            raise Unavailable("This process is stopping.")
        if not keep and self.waiting_bytes + size > self._max_waiting_bytes:
            raise Unavailable("Too much waits for the routers.")
        self._unanswered.bytes += size
        one = self._partitions[partition]
        one.waiting.append(Item(entry, size, self._loop.time() + timeout, answered, keep, make, wanted))
        self._make_ready(one)

    async def ask(self, partition: int, entry: Entry, *, size: int = 64, timeout: float = 10.0) -> Any:
        """`submit` to await: the owner's answer. Raises what `submit` reports."""
        future: asyncio.Future[Any] = self._loop.create_future()

        self.submit(partition, entry, partial(settle, future), size=size, timeout=timeout)
        return await future

    # -- sending -----------------------------------------------------------------------------------

    def _make_ready(self, one: Partition) -> None:
        if one.ready or one.blocked or one.outstanding or not (one.in_flight or one.waiting):
            return
        if self._closed or not self._bus.connected:
            return  # _reconnected comes back to it
        owner = self._owners.table.owners[one.number]
        if owner is None:
            self._owners.refresh()
            return  # _owners_changed, or the sweep, comes back to it
        lane = self._lanes.get(owner.router)
        if lane is None:
            lane = self._lanes[owner.router] = Lane()
        one.ready = True
        lane.ready.append(one)
        lane.bytes += one.next_size
        if lane.on_their_way == 0:
            # At the end of this turn, so that what one turn submits travels together.
            if lane.timer is None:
                lane.timer = self._loop.call_soon(self._send, owner.router, lane)
        elif lane.bytes >= BATCH_BYTES:
            self._send(owner.router, lane)
        elif lane.timer is None:
            lane.timer = self._loop.call_later(GATHER_SECONDS, self._send, owner.router, lane)

    def _send(self, router: str, lane: Lane) -> None:
        """Send what is ready in this lane, as one batch, or as several where one would be too big."""
        ready = lane.take()
        # Sizes are rough, and an envelope to a gateway is a little bigger than the entry that it comes from.
        limit = min(BATCH_BYTES, self._bus.max_payload // 4)
        batch: list[Partition] = []
        size = 0
        for one in ready:
            one.ready = False
            if one.outstanding or one.blocked:
                continue  # sent from within a callback below
            if one.in_flight:
                self._unanswered.drop_late(one, self._loop.time())
            if not one.in_flight:
                if batch and one.waiting and size + one.waiting[0].size > limit:
                    self._send_batch(router, lane, batch)
                    batch, size = [], 0
                self._unanswered.take(one, limit - size)
            if not one.in_flight:
                self._make_ready(one)
                continue
            mine = one.next_size
            if batch and size + mine > limit:
                self._send_batch(router, lane, batch)
                batch, size = [], 0
            batch.append(one)
            size += mine
        if batch:
            self._send_batch(router, lane, batch)

    def _send_batch(self, router: str, lane: Lane, batch: list[Partition]) -> None:
        parts: list[Part] = []
        for one in batch:
            owner = self._owners.table.owners[one.number]
            one.epoch = owner.epoch if owner is not None else 0
            parts.append((one.number, one.epoch, [i.entry for i in one.in_flight if i.entry is not None]))
        payload = batch_to_router(self._sender, parts)
        largest = self._bus.max_payload - DELIVER_OVERHEAD
        if len(payload) > largest:
            # Never so for a batch of several: those are far below. One entry that no message can hold.
            for one in batch:
                items, one.in_flight = one.in_flight, []
                for item in items:
                    self._unanswered.finish(
                        item, None, LimitExceeded("The message, in bytes,", largest, len(payload))
                    )
                self._make_ready(one)
            return
        sent: list[Sent] = []
        for one in batch:
            one.turn += 1
            one.outstanding = True
            sent.append(Sent(one, one.turn, len(one.in_flight)))

        held: list[Held] | None = None  # None until the first answer
        begun = self._loop.time()

        def answered(data: bytes | None, _reason: str) -> float | None:
            nonlocal held
            if held is None:
                if data is not None:
                    self.round_trip.record(self._loop.time() - begun)
                lane.on_their_way -= 1
                held = self._batch_answered(sent, data)
                if lane.ready and lane.on_their_way == 0:
                    self._send(router, lane)
            else:
                held = self._rest_answered(held, data)
            return WAIT_SECONDS if held else None

        try:
            self._bus.request(router_subject(router), payload, answered, ANSWER_SECONDS)
        except HubwireError:
            self._retry_later(sent)
            return
        lane.on_their_way += 1
        self.batches_sent += 1
        self.entries_sent += sum(part.entries for part in sent)

    # -- answers -----------------------------------------------------------------------------------

    def _batch_answered(self, sent: list[Sent], data: bytes | None) -> list[Held]:
        """Take the answers to a batch; what is to be answered later."""
        answers = _answers_in(data, sum(part.entries for part in sent))
        if answers is None:
            self._retry_later(sent)
            return []
        position = 0
        refused: list[Sent] = []
        held: list[Held] = []
        for part in sent:
            start, position = position, position + part.entries
            one, mine = part.partition, answers[start:position]
            if one.turn != part.turn or not one.outstanding:
                continue  # repeated to another owner meanwhile, or closed
            # Per partition the owner decides all in one turn, so from a refusal on all are refused; what
            # stands before it is repeated with them, and known there.
            if NOT_MINE in mine:
                refused.append(part)
                continue
            one.outstanding = False
            one.pause = RETRY_SECONDS
            items, one.in_flight = one.in_flight, []
            if WAIT in mine:
                for at, (item, answer) in enumerate(zip(items, mine, strict=True), start):
                    if answer == WAIT:
                        one.hold(item)
                        held.append(Held(one, part.turn, item, at))
            for item, answer in zip(items, mine, strict=True):
                if answer != WAIT:
                    self._unanswered.answer(item, answer)
            self._make_ready(one)
        if refused:
            self._retry_later(refused)
        return held

    def _rest_answered(self, held: list[Held], data: bytes | None) -> list[Held]:
        """Take more of a batch's answers; what is still to be answered."""
        held = [one for one in held if one.counts]
        answers = _answers_in(data, None)
        if answers is None or (held and held[-1].position >= len(answers)):
            self._hold_no_more({one.partition for one in held})
            return []
        left: list[Held] = []
        lost: set[Partition] = set()
        for one in held:
            answer = answers[one.position]
            if answer == WAIT:
                left.append(one)
            elif answer == NOT_MINE:
                lost.add(one.partition)
            elif one.counts:  # else a callback has closed us
                one.partition.release(one.item)
                self._unanswered.answer(one.item, answer)
        self._hold_no_more(lost)
        return left

    def _hold_no_more(self, partitions: Iterable[Partition]) -> None:
        """It is not known whether the owner still has what it took: send it again after a pause."""
        for one in partitions:
            if one.held:
                one.take_back()
                one.turn += 1
                one.outstanding = True
                self._retry_later([Sent(one, one.turn, 0)])

    # -- repeats -----------------------------------------------------------------------------------

    def _retry_later(self, parts: Iterable[Sent]) -> None:
        """Nothing was answered: it stays as it was sent, to be repeated unchanged after a pause that
        grows, or as soon as the table names another owner."""
        mine = [part for part in parts if part.partition.turn == part.turn and part.partition.outstanding]
        if not mine:
            return
        self.repeats += 1
        self._owners.refresh()
        pause = max(part.partition.pause for part in mine)
        for one, _, _ in mine:
            one.put_off()
        self._loop.call_later(pause, self._retry, mine)

    def _retry(self, parts: list[Sent]) -> None:
        for one, turn, _ in parts:
            if one.blocked and one.turn == turn:
                one.blocked = False
                self._make_ready(one)

    def _owners_changed(self, table: OwnersTable) -> None:
        """Re-sort what is ready, and repeat what is on its way to an owner that is none any more."""
        for router, lane in [*self._lanes.items()]:
            for one in lane.take():
                one.ready = False
            if not lane.on_their_way:
                del self._lanes[router]
        for one in self._partitions:
            owner = table.owners[one.number]
            if owner is not None:
                self.repeats += one.owned_under(owner.epoch)
            self._make_ready(one)

    def _reconnected(self) -> None:
        for one in self._partitions:
            one.put_forward()
            self._make_ready(one)

    def _sweep(self) -> None:
        """Report entries that are late while they wait for an owner, for the bus or for an answer."""
        now = self._loop.time()
        late: list[Item] = []
        for one in self._partitions:
            late += self._unanswered.late(one, now)
            self._make_ready(one)
        for item in late:  # a callback may submit, so after the queues are whole again
            self._unanswered.give_up(item)
        if not self._closed:
            self._sweep_timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    async def drain(self, timeout: float) -> None:
        """Wait until everything is answered, at most `timeout` seconds."""
        end = self._loop.time() + timeout
        while self.waiting_bytes > 0 and self._loop.time() < end:  # noqa: ASYNC110 (once, at the stop)
            await asyncio.sleep(0.005)

    def close(self) -> None:
        """Give up what is unanswered; every callback is told Unavailable. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._sweep_timer.cancel()
        for lane in self._lanes.values():
            lane.cancel()
        for one in self._partitions:
            one.take_back()
            items = [*one.waiting]
            one.waiting.clear()
            one.outstanding = one.blocked = False
            for item in items:
                self._unanswered.finish(item, None, Unavailable("This process is stopping."))


def _answers_in(data: bytes | None, count: int | None) -> list[Any] | None:
    """The answers, as many as there must be; None when there is nothing that can be read."""
    if data is None:
        return None
    try:
        return answers_to_batch(data, count)
    except InvalidRequest as error:
        log.error("bus_answer_refused", error=str(error))
        return None
