"""This gateway's own inbox: writing to it, following it, and who waits until something is folded.

The inbox is made with the first reliable session. When it is lost (a memory-mode server restarted, somebody
deleted it), everything that was in it is, too: `on_lost` is told, and the next session begins another one.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count

import structlog

from gateway.reliable.fold import InboxFold
from gateway.reliable.heard import Heard
from hubwire.bus.client import BusClient
from hubwire.bus.inbox import Inbox
from hubwire.bus.inbox_tail import InboxTail
from hubwire.bus.inbox_writer import MISSING, InboxWriter
from hubwire.bus.jetstream import StreamMissing
from hubwire.bus.settle import settle
from hubwire.model.errors import HubwireError, LimitExceeded, Unavailable

log = structlog.get_logger(__name__)

Folded = Callable[[HubwireError | None], None]
"""Called once: with None when what was written is folded, or with the error when it was given up."""

WRITE_SECONDS = 10.0
OPEN_SECONDS = 10.0
SLICE_BYTES = 2 * 1024 * 1024
"""What is written at a time of many entries: all of them may be more than may wait for an inbox."""
INSIST_SECONDS = 0.5
LOST = Unavailable("The inbox was lost.")


class OwnLog:
    """One gateway's own inbox. `fold` is None until the first `ready`."""

    def __init__(
        self, bus: BusClient, name: str, heard: Heard, inbox: Inbox, on_lost: Callable[[], None]
    ) -> None:
        self.name = name
        self.inbox = inbox
        self.writer = InboxWriter(bus, name)
        self.fold: InboxFold | None = None
        self.bytes = 0
        """What was folded since the last trimming began."""
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._heard = heard
        self._on_lost = on_lost
        self._tail: InboxTail | None = None
        self._opening = asyncio.Lock()
        self._waiting: list[tuple[int, int, Folded]] = []
        self._order = count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._was_lost = False
        self._life = 0  # inboxes that were lost
        self._closed = False
        self._insisted: deque[tuple[bytes, Folded]] = deque()
        self._unsettled: Counter[str] = Counter()
        self._settling: dict[str, list[asyncio.Future[None]]] = {}

    async def ready(self) -> InboxFold:
        """The fold, with the inbox made and followed. Raises Unavailable."""
        fold = self.fold
        if fold is not None:
            return fold
        try:
            async with asyncio.timeout(OPEN_SECONDS), self._opening:
                if self.fold is None:
                    if self._was_lost:
                        # What may be left of it is of sessions that were told to be lost.
                        await self.inbox.delete()
                        self._was_lost = False
                    info = await self.inbox.open()
                    self.fold = InboxFold(self._heard)
                    self._tail = InboxTail(self._bus, self.name, self._arrived, self._lost)
                    self._tail.start(info.created, info.first)
                return self.fold
        except TimeoutError as error:
            raise Unavailable("The gateway's inbox cannot be opened.") from error

    def write(self, entry: bytes, folded: Folded, *, seconds: float | None = WRITE_SECONDS) -> None:
        """Write an entry and call back when it is folded. With `seconds` it is given up after that time,
        though it may still be found in the log; without, it is tried for ever. Raises Unavailable, and
        LimitExceeded for what no message can hold."""
        wanted = None
        if seconds is not None:
            end = self._loop.time() + seconds
            wanted = lambda: self._loop.time() < end  # noqa: E731
        self.writer.submit(self.name, entry, partial(self._stored, self._life, folded), wanted)

    def write_all(self, entries: list[bytes], folded: Folded) -> None:
        """Several behind one another; called back for the last one. Raises like `write`; then some of them
        may be written."""
        for entry in entries[:-1]:
            self.writer.submit(self.name, entry, None)
        self.writer.submit(self.name, entries[-1], partial(self._stored, self._life, folded))

    async def written(self, entries: Iterable[bytes], seconds: float = WRITE_SECONDS) -> None:
        """Write entries behind one another, however many bytes they are, and wait until the last one is
        folded. Raises Unavailable; then they may be found in the log all the same."""
        try:
            async with asyncio.timeout(seconds):
                for some in _slices(entries):
                    future: asyncio.Future[None] = self._loop.create_future()
                    self.write_all(some, partial(settle, future, None))
                    await future
        except TimeoutError as error:
            raise Unavailable("The gateway's inbox does not take entries.") from error

    async def stored(self) -> int:
        """The last message in the inbox, which may be far ahead of the fold: what stands there already is
        older than whatever is asked of owners from now on. Raises Unavailable."""
        try:
            return (await self.inbox.info()).last
        except StreamMissing as error:
            raise LOST from error

    def insist(self, session_id: str, entry: bytes, folded: Folded) -> None:
        """Write an entry of a session that must come into the log, whatever waits for it now; called back
        when it is folded, or with an error when the log is lost or closed. Until then the session is not
        `settled`. There are few of a session, so they are bounded by the sessions."""
        self.begin(session_id)

        def settled(error: HubwireError | None) -> None:
            self.end(session_id)
            folded(error)

        self._insisted.append((entry, settled))
        if len(self._insisted) == 1:
            self._try_insisted()

    def begin(self, session_id: str) -> None:
        """Something of a session is on its way into the log: it is not `settled` until `end`."""
        self._unsettled[session_id] += 1

    def end(self, session_id: str) -> None:
        """What was begun is folded, or will not be. Once for each `begin`."""
        self._unsettled[session_id] -= 1
        if not self._unsettled[session_id]:
            del self._unsettled[session_id]
            for future in self._settling.pop(session_id, ()):
                settle(future, None, None)

    def settled(self, session_id: str) -> bool:
        """Whether nothing of before is still on its way into the log for this session: it could meet the
        session's next coming there."""
        return session_id not in self._unsettled

    async def until_settled(self, session_id: str) -> None:
        """Wait until it is `settled`, and what follows from that has happened."""
        while not self.settled(session_id):
            future: asyncio.Future[None] = self._loop.create_future()
            self._settling.setdefault(session_id, []).append(future)
            await future

    def _try_insisted(self) -> None:
        while self._insisted:
            entry, folded = self._insisted[0]
            try:
                self.write(entry, folded, seconds=None)
            except HubwireError as error:
                if not self._closed and not isinstance(error, LimitExceeded):
                    self._loop.call_later(INSIST_SECONDS, self._try_insisted)
                    return
                self._call(folded, error)
            self._insisted.popleft()

    def _stored(self, life: int, folded: Folded, seq: int, error: HubwireError | None) -> None:
        if error is not None:
            folded(error)
        elif seq == MISSING or self.fold is None or life != self._life:
            # The number may be of the inbox before this one, and would never come here.
            folded(LOST)
        elif seq <= self.fold.position:
            folded(None)
        else:
            heapq.heappush(self._waiting, (seq, next(self._order), folded))

    def _arrived(self, seq: int, time: float, data: bytes) -> None:
        fold = self.fold
        if fold is None:
            return
        fold.apply(seq, time, data)
        self.bytes += len(data)
        while self._waiting and self._waiting[0][0] <= seq:
            self._call(heapq.heappop(self._waiting)[2], None)

    @staticmethod
    def _call(folded: Folded, error: HubwireError | None) -> None:
        try:
            folded(error)
        except Exception:  # it must not end the tail, which all sessions live on
            log.exception("log_callback_failed")

    def _lost(self, why: str) -> None:
        log.error("inbox_lost", gateway=self.name, reason=why)
        self._was_lost = True
        self._life += 1
        tail, self._tail, self.fold = self._tail, None, None
        if tail is not None:
            task = self._loop.create_task(tail.stop())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        waiting, self._waiting = self._waiting, []
        self._on_lost()
        for _, _, folded in waiting:
            self._call(folded, LOST)

    async def close(self) -> None:
        """Write no more and follow no more. What is in the inbox stays for others."""
        self._closed = True
        self.writer.close()
        if self._tail is not None:
            await self._tail.stop()


def _slices(entries: Iterable[bytes]) -> Iterator[list[bytes]]:
    some: list[bytes] = []
    size = 0
    for entry in entries:
        if some and size + len(entry) > SLICE_BYTES:
            yield some
            some, size = [], 0
        some.append(entry)
        size += len(entry)
    if some:
        yield some
