"""Writes entries to the inboxes of gateways: in order, in batches, until they are stored.

Per inbox one write is under way at a time; what becomes ready meanwhile is the next batch. A batch that is
not answered is repeated unchanged, after a pause that grows. It bears the writer's name and a number that
counts up, by which the fold drops what a repeat stored twice, however late (hubwire.bus.inbox_entries).

Guarantee: an entry of which `done` was told a number is stored there or before, in the order of `submit`
per inbox, and counts once. One that was given up may be stored or not, and never comes after anything that
the same writer submitted later to the same inbox.

That nobody answers proves nothing: a leader may be about to be elected. There is no inbox when the server
says so, twice; it is told as MISSING then, to all that was submitted to it before. A full inbox is no end
either: it is tried again.

Full, closed: `submit` raises Unavailable when too much waits for this inbox or for all, or after `close`;
nothing is queued then. An inbox that takes nothing costs the others nothing but its share of the bound.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Final

import structlog

from hubwire.bus.client import LOST, NO_RESPONDERS, TIMEOUT, BusClient
from hubwire.bus.envelopes import pack
from hubwire.bus.inbox import PROOF_SECONDS
from hubwire.bus.inbox_batches import (
    ITEM_BYTES,
    NO_STREAM,
    PATIENCE_SECONDS,
    SIGN_SECONDS,
    Batch,
    Item,
    Lane,
    Passed,
    Stored,
    Wanted,
    join_batch,
    read_answer,
)
from hubwire.bus.settle import settle
from hubwire.bus.subjects import inbox_stream, inbox_subject
from hubwire.model.errors import HubwireError, LimitExceeded, Unavailable

log = structlog.get_logger(__name__)

MISSING: Final = 0
"""There is no such inbox: there is nobody who would have to get the entry."""

BATCH_BYTES: Final = 256 * 1024
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
MAX_INBOX_BYTES: Final = 16 * 1024 * 1024
"""What may wait for all inboxes and for one of them."""

ANSWER_SECONDS: Final = 30.0
"""How long a copy's answer is listened for."""

OVERHEAD_BYTES: Final = 128
"""What is around the entries of a batch: the array, the writer's name, its number."""


class InboxWriter:
    """One process's writer. `writer` is its name for this run."""

    def __init__(
        self,
        bus: BusClient,
        writer: str,
        *,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
        max_inbox_bytes: int = MAX_INBOX_BYTES,
    ) -> None:
        self._bus = bus
        self._writer = pack(writer)
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[str, Lane] = {}
        self._max_waiting_bytes = max_waiting_bytes
        self._max_inbox_bytes = max_inbox_bytes
        self._closed = False
        # One count for all inboxes: in each of them it still counts up, and a lane can be forgotten.
        self._number = 0
        self.waiting_bytes = 0
        self.batches_stored = 0
        self.entries_stored = 0
        self.repeats = 0
        bus.on_reconnect(self._reconnected)

    def has_room(self, gateways: Iterable[str], size: int) -> bool:
        """Whether an entry of that size can be submitted to each of the inboxes in this turn of the loop."""
        if self._closed:
            return False
        total = self.waiting_bytes
        cost = size + ITEM_BYTES
        for gateway in gateways:
            total += cost
            lane = self._lanes.get(gateway)
            if lane is not None and lane.bytes + cost > self._max_inbox_bytes:
                return False
        return total <= self._max_waiting_bytes

    def submit(self, gateway: str, entry: bytes, done: Stored | None, wanted: Wanted | None = None) -> None:
        """Write a packed entry to a gateway's inbox. It goes at the end of this turn of the loop when
        nothing is under way there.

        It is tried for as long as `wanted` says so (always, without it): the deadline is the caller's. A
        batch under way is repeated while any of its entries is wanted. Raises Unavailable when there is no
        room, LimitExceeded for an entry that no message can hold.
        """
        size = len(entry)
        if self._closed:
            raise Unavailable("This process is stopping.")
        largest = self._bus.max_payload - OVERHEAD_BYTES
        if size > largest:
            raise LimitExceeded("An entry of an inbox, in bytes,", largest, size)
        if not self.has_room((gateway,), size):
            raise Unavailable("Too much waits for the inboxes.")
        lane = self._lane(gateway)
        item = Item(entry, done, wanted)
        lane.waiting.append(item)
        lane.bytes += item.cost
        self.waiting_bytes += item.cost
        self._schedule(lane)

    async def write(self, gateway: str, entry: bytes, timeout: float) -> int:
        """`submit` to await: the number, or MISSING. Raises Unavailable when it is not stored in time: it
        is given up then, as it is when the waiting task is cancelled."""
        future: asyncio.Future[int] = self._loop.create_future()
        self.submit(gateway, entry, partial(settle, future), lambda: not future.done())
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError as error:
            raise Unavailable(f"The inbox of {gateway} did not take an entry in time.") from error

    def barrier(self, gateways: Iterable[str], passed: Passed) -> None:
        """Tell when everything that was submitted to these inboxes before is stored; in this very call when
        nothing is under way or waits."""
        lanes = [lane for name in set(gateways) if (lane := self._lanes.get(name)) is not None]
        left = len(lanes)
        if self._closed or not left:
            passed(Unavailable("This process is stopping.") if self._closed else None)
            return

        def one(error: HubwireError | None) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                passed(error)

        for lane in lanes:
            lane.waiting.append(Item(b"", None, None, one))

    def busy(self) -> list[str]:
        """The gateways to whose inboxes something is under way or waits."""
        return [*self._lanes]

    async def drain(self, timeout: float) -> None:
        """Wait until everything that was submitted before is stored. Raises Unavailable when it is not
        within `timeout` seconds; it goes on being tried then."""
        future: asyncio.Future[None] = self._loop.create_future()
        self.barrier(self.busy(), partial(settle, future, None))
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError as error:
            raise Unavailable("The inboxes did not take everything in time.") from error

    def close(self) -> None:
        """Give up what is not stored; every callback is told Unavailable. Idempotent."""
        if self._closed:
            return
        self._closed = True
        lanes, self._lanes = self._lanes, {}
        for lane in lanes.values():
            items = [*(lane.batch.items if lane.batch is not None else ()), *lane.waiting]
            self._forget_batch(lane)
            lane.waiting.clear()
            for item in items:
                self._tell(item, -1, Unavailable("This process is stopping."))

    # -- sending -----------------------------------------------------------------------------------

    def _lane(self, gateway: str) -> Lane:
        lane = self._lanes.get(gateway)
        if lane is None:
            lane = self._lanes[gateway] = Lane(gateway)
        return lane

    def _schedule(self, lane: Lane) -> None:
        """Send at the end of this turn, so that what one turn submits travels together."""
        if lane.batch is None and not lane.scheduled:
            lane.scheduled = True
            self._loop.call_soon(self._send_next, lane)

    def _send_next(self, lane: Lane) -> None:
        """Make a batch of what waits, and send it; without anything to send, the lane is forgotten."""
        lane.scheduled = False
        if self._closed or lane.batch is not None:
            return
        limit = min(BATCH_BYTES, self._bus.max_payload - OVERHEAD_BYTES)
        taken: list[Item] = []
        entries: list[bytes] = []
        ended: list[Item] = []
        size = 0
        while lane.waiting:
            item = lane.waiting[0]
            if item.passed is not None:
                (taken if entries else ended).append(item)
            elif not item.is_wanted:
                ended.append(item)
                lane.bytes -= item.cost
                self.waiting_bytes -= item.cost
            elif entries and size + len(item.entry) > limit:
                break
            else:
                taken.append(item)
                entries.append(item.entry)
                size += len(item.entry)
            lane.waiting.popleft()
        if entries:
            self._number += 1
            lane.batch = Batch(join_batch(self._writer, self._number, entries), taken)
            self._send(lane, lane.batch)
        elif self._lanes.get(lane.gateway) is lane:
            del self._lanes[lane.gateway]
        for item in ended:
            self._tell(item, -1, _GIVEN_UP)

    def _send(self, lane: Lane, batch: Batch) -> None:
        try:
            answered = partial(self._answered, lane, batch)
            self._bus.request(inbox_subject(lane.gateway), batch.payload, answered, ANSWER_SECONDS)
            wait = batch.next_patience()
        except Unavailable:
            wait = batch.next_pause()
        except LimitExceeded as error:  # another server, with a smaller limit, than when it was made
            self._finish(lane, batch, -1, error)
            return
        self._repeat_in(lane, batch, wait)

    def _repeat_in(self, lane: Lane, batch: Batch, seconds: float) -> None:
        if lane.timer is not None:
            lane.timer.cancel()
        lane.timer = self._loop.call_later(seconds, self._repeat, lane, batch)

    def _repeat(self, lane: Lane, batch: Batch) -> None:
        lane.timer = None
        if lane.batch is not batch:
            return
        self._drop_unwanted(lane)
        if lane.batch is not batch:
            return  # closed by a callback
        if not any(item.is_wanted for item in batch.items if item.passed is None):
            self._finish(lane, batch, -1, _GIVEN_UP)
            return
        self.repeats += 1
        self._send(lane, batch)
        if not batch.silent:
            batch.silent = True
            self._ask_for_sign(lane, batch, again=False)

    def _ask_for_sign(self, lane: Lane, batch: Batch, *, again: bool = True) -> None:
        """A batch is not answered: ask whether the stream has a leader, until it has; when it had none, send
        the batch again at that moment, whatever is left of the patience with the copy before."""
        if lane.batch is not batch or self._closed:
            return

        def told(data: bytes | None, reason: str) -> None:
            if lane.batch is not batch:
                return
            if data is None and reason != LOST:
                pause = SIGN_SECONDS if reason == NO_RESPONDERS else 0
                self._loop.call_later(pause, self._ask_for_sign, lane, batch)
                return
            batch.silent = False
            if again and data is not None:
                self._repeat_in(lane, batch, 0)

        try:
            self._bus.request(_info_subject(lane), b"", told, SIGN_SECONDS)
        except HubwireError:
            batch.silent = False  # not connected: it is sent again at the reconnection

    def _drop_unwanted(self, lane: Lane) -> None:
        """What waits behind a batch that is not taken, and that nobody wants any more."""
        ended = [item for item in lane.waiting if item.passed is None and not item.is_wanted]
        if not ended:
            return
        gone = set(map(id, ended))
        lane.waiting = deque(item for item in lane.waiting if id(item) not in gone)
        size = sum(item.cost for item in ended)
        lane.bytes -= size
        self.waiting_bytes -= size
        for item in ended:
            self._tell(item, -1, _GIVEN_UP)

    def _reconnected(self) -> None:
        for lane in [*self._lanes.values()]:
            if lane.batch is not None:
                lane.batch.be_patient_again()
                self._repeat_in(lane, lane.batch, 0)

    # -- answers -----------------------------------------------------------------------------------

    def _answered(self, lane: Lane, batch: Batch, data: bytes | None, reason: str) -> None:
        if lane.batch is not batch:
            return  # of a copy whose batch is through
        if data is None:
            if reason == NO_RESPONDERS:
                self._look(lane, batch)
            elif reason == LOST:
                self._repeat_in(lane, batch, batch.next_pause())
            else:
                assert reason == TIMEOUT  # another copy has been sent long since
            return
        answer = read_answer(data)
        if answer.error is None and answer.seq > 0 and answer.stream == inbox_stream(lane.gateway):
            self.batches_stored += 1
            self.entries_stored += batch.entries
            self._finish(lane, batch, answer.seq, None)
            return
        if not batch.told:
            batch.told = True
            why = answer.error.description if answer.error is not None else f"stored in {answer.stream!r}"
            log.warning("inbox_not_writable", gateway=lane.gateway, reason=why, bytes=lane.bytes)
        self._repeat_in(lane, batch, batch.next_pause())

    def _look(self, lane: Lane, batch: Batch) -> None:
        """Nobody took the batch: ask whether there is such an inbox, and send it again meanwhile or then."""
        self._repeat_in(lane, batch, batch.next_pause())

        def told(data: bytes | None, _reason: str) -> None:
            if lane.batch is not batch or data is None:
                return
            answer = read_answer(data)
            now = self._loop.time()
            if answer.error is None or answer.error.err_code != NO_STREAM:
                batch.missed_at = None
            elif batch.missed_at is None:
                batch.missed_at = now
                self._repeat_in(lane, batch, PROOF_SECONDS)
            elif now - batch.missed_at >= PROOF_SECONDS:
                self._finish_all(lane, batch)

        try:
            self._bus.request(_info_subject(lane), b"", told, PATIENCE_SECONDS)
        except HubwireError:
            pass  # not connected: the timer goes on

    def _finish_all(self, lane: Lane, batch: Batch) -> None:
        """There is no inbox."""
        waiting, lane.waiting = lane.waiting, deque()
        size = sum(item.cost for item in waiting)
        lane.bytes -= size
        self.waiting_bytes -= size
        self._finish(lane, batch, MISSING, None)
        for item in waiting:
            self._tell(item, MISSING, None)

    def _finish(self, lane: Lane, batch: Batch, seq: int, error: HubwireError | None) -> None:
        self._forget_batch(lane)
        lane.bytes -= batch.cost
        self.waiting_bytes -= batch.cost
        # First what waits already: the callbacks take their time, and what they submit is the next batch.
        self._send_next(lane)
        for item in batch.items:
            self._tell(item, seq, error)

    @staticmethod
    def _forget_batch(lane: Lane) -> None:
        lane.batch = None
        if lane.timer is not None:
            lane.timer.cancel()
            lane.timer = None

    @staticmethod
    def _tell(item: Item, seq: int, error: HubwireError | None) -> None:
        try:
            if item.passed is not None:
                item.passed(error if error is not _GIVEN_UP else None)
            elif item.done is not None:
                item.done(seq, error)
        except Exception:
            log.exception("inbox_callback_failed")


def _info_subject(lane: Lane) -> str:
    return f"$JS.API.STREAM.INFO.{inbox_stream(lane.gateway)}"


_GIVEN_UP = Unavailable("Nobody wants the entry written any more.")
