"""Sends entries to the owners of their partitions, in order, in batches, until they are answered.

DESIGN.md section 4, "Flow". Per partition: first in, first out; an entry waits while an earlier one of
the partition is unanswered, and what was sent together is repeated together, unchanged. Per router: a
batch goes at once when none is on its way there, or when its first entry has waited a millisecond, or
when 64 KiB are ready; what becomes ready meanwhile travels together. That is all the batching there is,
and it adapts by itself to the load.

Full, closed, late: more than `max_waiting_bytes` unanswered makes `submit` raise Unavailable. An entry
that is not answered within its deadline is reported to its callback as Unavailable. One that was never
sent is dropped then; one that may have been received is repeated no more, but membership entries
(`keep=True`) are never given up: they go on until an owner has them, or the dispatcher is closed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog

from hubwire.bus.client import BusClient
from hubwire.bus.envelopes import NOT_MINE, Entry, batch_to_router, unpack
from hubwire.bus.keys import PARTITIONS
from hubwire.bus.owners import OwnersTable, OwnersView
from hubwire.bus.subjects import router_subject
from hubwire.model.errors import HubwireError, InvalidRequest, Unavailable

log = structlog.get_logger(__name__)

Answered = Callable[[Any, HubwireError | None], None]
"""Called once: with the owner's answer and None, or with None and the error."""

BATCH_BYTES = 64 * 1024
GATHER_SECONDS = 0.001
ANSWER_SECONDS = 1.0
RETRY_SECONDS = 0.02
SWEEP_SECONDS = 0.25


class _Item:
    __slots__ = ("answered", "deadline", "entry", "keep", "make", "size")

    def __init__(
        self,
        entry: Entry | None,
        size: int,
        deadline: float,
        answered: Answered | None,
        keep: bool,
        make: Callable[[], Entry] | None,
    ) -> None:
        self.entry = entry
        self.size = size
        self.deadline = deadline
        self.answered = answered
        self.keep = keep
        self.make = make


class _Partition:
    __slots__ = ("blocked", "in_flight", "number", "ready", "waiting")

    def __init__(self, number: int) -> None:
        self.number = number
        self.waiting: deque[_Item] = deque()
        self.in_flight: list[_Item] | None = None  # sent and unanswered; repeated as they are
        self.blocked = False  # waits for the retry pause
        self.ready = False  # stands in its lane's list


class _Lane:
    """What is ready for one router."""

    __slots__ = ("bytes", "on_their_way", "ready", "timer")

    def __init__(self) -> None:
        self.ready: list[_Partition] = []
        self.bytes = 0
        self.on_their_way = 0
        self.timer: asyncio.TimerHandle | None = None


class Dispatcher:
    """One process's sender. `sender` is the process's name for this run; numbers count per sender."""

    def __init__(
        self, bus: BusClient, owners: OwnersView, sender: str, *, max_waiting_bytes: int = 64 * 1024 * 1024
    ) -> None:
        self._bus = bus
        self._owners = owners
        self._sender = sender
        self._loop = asyncio.get_running_loop()
        self._partitions = [_Partition(p) for p in range(PARTITIONS)]
        self._lanes: dict[str, _Lane] = {}
        self._max_waiting_bytes = max_waiting_bytes
        self._closed = False
        self._number = 0
        self.waiting_bytes = 0
        self.batches_sent = 0
        self.entries_sent = 0
        self.repeats = 0
        owners.on_change(self._owners_changed)
        bus.on_reconnect(self._kick_all)
        self._sweep_timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def next_number(self) -> int:
        """The number for the next publish of this sender (see hubwire.bus.envelopes)."""
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
        make: Callable[[], Entry] | None = None,
    ) -> None:
        """Queue an entry. `make` builds the entry when it is first sent, for those whose content must
        be of that moment (snapshots). Raises Unavailable when full or closed; nothing is queued then.
        `size` is the entry's rough number of bytes."""
        if self._closed:
            raise Unavailable("This process is stopping.")
        if not keep and self.waiting_bytes + size > self._max_waiting_bytes:
            raise Unavailable("Too much waits for the routers.")
        self.waiting_bytes += size
        one = self._partitions[partition]
        one.waiting.append(_Item(entry, size, self._loop.time() + timeout, answered, keep, make))
        self._make_ready(one)

    async def ask(self, partition: int, entry: Entry, *, size: int = 64, timeout: float = 10.0) -> Any:
        """`submit` to await: the owner's answer, or Unavailable."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def answered(answer: Any, error: HubwireError | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(answer)
            else:
                future.set_exception(error)

        self.submit(partition, entry, answered, size=size, timeout=timeout)
        return await future

    # -- readiness ---------------------------------------------------------------------------------

    def _make_ready(self, one: _Partition) -> None:
        if one.ready or one.blocked or one.in_flight is not None or not one.waiting:
            return
        owner = self._owners.table.owners[one.number]
        if owner is None:
            self._owners.refresh()
            return  # _owners_changed, or the sweep, comes back to it
        lane = self._lanes.get(owner.router)
        if lane is None:
            lane = self._lanes[owner.router] = _Lane()
        one.ready = True
        lane.ready.append(one)
        lane.bytes += sum(item.size for item in one.waiting) if len(one.waiting) > 1 else one.waiting[0].size
        if lane.on_their_way == 0:
            # At the end of this turn, so that what one turn submits travels together.
            if lane.timer is None:
                lane.timer = self._loop.call_later(0, self._send, owner.router, lane)
        elif lane.bytes >= BATCH_BYTES:
            self._send(owner.router, lane)
        elif lane.timer is None:
            lane.timer = self._loop.call_later(GATHER_SECONDS, self._send, owner.router, lane)

    def _send(self, router: str, lane: _Lane) -> None:
        if lane.timer is not None:
            lane.timer.cancel()
            lane.timer = None
        ready, lane.ready, lane.bytes = lane.ready, [], 0
        batch: list[_Partition] = []
        entries: list[Entry] = []
        size = 0
        for position, one in enumerate(ready):
            if batch and size >= BATCH_BYTES:
                lane.ready = ready[position:]
                lane.timer = self._loop.call_later(0, self._send, router, lane)
                break
            one.ready = False
            items: list[_Item] = []
            while one.waiting and (not items or size < BATCH_BYTES):
                item = one.waiting.popleft()
                if item.entry is None and item.make is not None:
                    item.entry = item.make()
                    grown = len(item.entry[-1]) * 32 if isinstance(item.entry[-1], list) else 0
                    item.size += grown
                    self.waiting_bytes += grown
                items.append(item)
                size += item.size
            if items:
                one.in_flight = items
                batch.append(one)
                entries.extend(item.entry for item in items if item.entry is not None)
        if not batch:
            return
        payload = batch_to_router(self._sender, entries)

        def answered(data: bytes | None, _reason: str) -> None:
            lane.on_their_way -= 1
            self._batch_answered(batch, data)
            if lane.ready and lane.on_their_way == 0:
                self._send(router, lane)

        try:
            self._bus.request(router_subject(router), payload, answered, ANSWER_SECONDS)
        except Unavailable:
            self._retry_later(batch)
            return
        lane.on_their_way += 1
        self.batches_sent += 1
        self.entries_sent += len(entries)

    def _batch_answered(self, batch: list[_Partition], data: bytes | None) -> None:
        answers: list[Any] | None = None
        if data is not None:
            try:
                answers = unpack(data)[1]
            except (InvalidRequest, IndexError) as error:
                log.error("bus_answer_refused", error=str(error))
        if answers is None or len(answers) != sum(len(one.in_flight or ()) for one in batch):
            self._retry_later(batch)
            return
        position = 0
        refused: list[_Partition] = []
        for one in batch:
            items = one.in_flight or []
            mine = answers[position : position + len(items)]
            position += len(items)
            if mine and mine[0] == NOT_MINE:
                refused.append(one)
                continue
            one.in_flight = None
            for item, answer in zip(items, mine, strict=True):
                self._finish(item, answer, None)
            self._make_ready(one)
        if refused:
            self._retry_later(refused)

    def _finish(self, item: _Item, answer: Any, error: HubwireError | None) -> None:
        self.waiting_bytes -= item.size
        if item.answered is not None:
            callback, item.answered = item.answered, None
            try:
                callback(answer, error)
            except Exception:
                log.exception("dispatch_callback_failed")

    # -- repeats -----------------------------------------------------------------------------------

    def _retry_later(self, batch: list[_Partition]) -> None:
        """Nothing was answered: it stays as it was sent, to be repeated unchanged after a pause."""
        self.repeats += 1
        self._owners.refresh()
        for one in batch:
            one.blocked = True
        self._loop.call_later(RETRY_SECONDS, self._retry, batch)

    def _retry(self, batch: list[_Partition]) -> None:
        now = self._loop.time()
        by_router: dict[str, list[_Partition]] = {}
        for one in batch:
            one.blocked = False
            items = one.in_flight or []
            late = [item for item in items if item.deadline < now and not item.keep]
            if late:
                for item in late:
                    self._finish(item, None, Unavailable("No router answered in time."))
                items = [item for item in items if item.deadline >= now or item.keep]
                one.in_flight = items or None
            if not items:
                self._make_ready(one)
                continue
            owner = self._owners.table.owners[one.number]
            if self._closed:
                continue
            router = owner.router if owner is not None and self._bus.connected else ""
            by_router.setdefault(router, []).append(one)
        for router, partitions in by_router.items():
            if not router:
                self._retry_later(partitions)
                continue
            self._repeat(router, partitions)

    def _repeat(self, router: str, batch: list[_Partition]) -> None:
        entries = [item.entry for one in batch for item in one.in_flight or () if item.entry is not None]
        lane = self._lanes.setdefault(router, _Lane())

        def answered(data: bytes | None, _reason: str) -> None:
            lane.on_their_way -= 1
            self._batch_answered(batch, data)
            if lane.ready and lane.on_their_way == 0:
                self._send(router, lane)

        try:
            self._bus.request(
                router_subject(router), batch_to_router(self._sender, entries), answered, ANSWER_SECONDS
            )
        except Unavailable:
            self._retry_later(batch)
            return
        lane.on_their_way += 1

    # -- changes -----------------------------------------------------------------------------------

    def _owners_changed(self, table: OwnersTable) -> None:
        # Re-sort what waits: a partition may be ready for a router that is not its owner any more.
        lanes, self._lanes = self._lanes, {}
        for router, lane in lanes.items():
            if lane.timer is not None:
                lane.timer.cancel()
                lane.timer = None
            for one in lane.ready:
                one.ready = False
            lane.ready, lane.bytes = [], 0
            if lane.on_their_way:
                self._lanes[router] = lane
        self._kick_all()

    def _kick_all(self) -> None:
        for one in self._partitions:
            if one.waiting:
                self._make_ready(one)

    def _sweep(self) -> None:
        """Report entries that are late while they wait for an owner or for the bus."""
        now = self._loop.time()
        for one in self._partitions:
            if one.waiting and any(i.deadline < now and i.answered is not None for i in one.waiting):
                kept: deque[_Item] = deque()
                for item in one.waiting:
                    if item.deadline >= now:
                        kept.append(item)
                    elif item.keep:
                        if item.answered is not None:
                            callback, item.answered = item.answered, None
                            callback(None, Unavailable("No router answered in time."))
                        kept.append(item)
                    else:
                        self._finish(item, None, Unavailable("No router answered in time."))
                one.waiting = kept
            if one.waiting:
                self._make_ready(one)
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
            if lane.timer is not None:
                lane.timer.cancel()
        for one in self._partitions:
            for item in [*(one.in_flight or ()), *one.waiting]:
                self._finish(item, None, Unavailable("This process is stopping."))
            one.in_flight = None
            one.waiting.clear()
