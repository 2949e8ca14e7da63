"""The inboxes of other gateways, read for those who take sessions over: each once, however many sessions.

A log is read from its beginning when the first session of it is wanted, on to each mark after that, and let
go when nobody has asked for a while.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing

import structlog

from gateway.reliable.fold import InboxFold
from gateway.reliable.log import LogReader
from hubwire.bus.client import BusClient
from hubwire.bus.inbox import inbox_is_gone
from hubwire.bus.inbox_reader import InboxReader, LogMessage, LogTrimmed
from hubwire.model.errors import Unavailable

log = structlog.get_logger(__name__)

KEEP_SECONDS = 60.0
MOVES_AT_ONCE = 200
"""Of the sessions of one log. The others wait: were thousands under way at the same pace, the time of all
would be over before the first one had arrived."""
TURN_MESSAGES = 200
"""Folded at a time; then all others have their turn."""


class OtherLog:
    """One gateway's inbox, folded as far as it was read. Who takes a session out of it holds `moves`."""

    def __init__(self, bus: BusClient, gateway: str) -> None:
        self._bus = bus
        self._gateway = gateway
        self._reader = InboxReader(bus, gateway)
        self._fold: LogReader | None = None
        self.moves = asyncio.Semaphore(MOVES_AT_ONCE)
        self._unfed: deque[LogMessage] = deque()  # a page at most
        self._lock = asyncio.Lock()
        self._begun = 0  # readings to the end, counted
        self._to_end = 0  # the last of them that came there
        self.used = asyncio.get_running_loop().time()

    @property
    def busy(self) -> bool:
        return self._lock.locked()

    async def read(self, to_seq: int | None = None) -> InboxFold:
        """Read on to a number, or to what is the end now. Raises StreamMissing when there is no such log, and
        Unavailable when it cannot be read now."""
        self.used = asyncio.get_running_loop().time()
        asked = self._begun
        async with self._lock:
            reading = 0
            if to_seq is None:
                if self._to_end > asked:  # somebody else has read to the end since we asked
                    return self._read
                reading = self._begun = self._begun + 1
            found = await self._read_to(to_seq)
            self._to_end = max(self._to_end, reading)
            return found

    @property
    def _read_fold(self) -> InboxFold | None:
        """None before the first complete cycle of a log whose beginning was trimmed."""
        return self._fold.fold if self._fold is not None else None

    @property
    def _read(self) -> InboxFold:
        fold = self._read_fold
        return InboxFold() if fold is None else fold  # nothing was ever written

    async def _read_to(self, to_seq: int | None) -> InboxFold:
        for _ in range(3):
            fold = self._read_fold
            if to_seq is not None and fold is not None and fold.position >= to_seq:
                return fold
            try:
                await self._read_on(to_seq)
            except LogTrimmed:
                to_seq = None  # perhaps over the mark, up to a cycle that is complete behind it
                await self._again()
                continue
            self.used = asyncio.get_running_loop().time()
            if (self._fold is None and to_seq is None) or self._read_fold is not None:
                return self._read
            to_seq = None
            await self._again()
        raise Unavailable(f"The inbox of {self._gateway} is being trimmed.")

    async def _read_on(self, to_seq: int | None) -> None:
        """What was read by somebody who was cancelled is folded first: it is not given out again."""
        await self._feed()
        async with aclosing(self._reader.read(to_seq)) as pages:
            async for page in pages:
                self._unfed.extend(page)
                await self._feed()

    async def _feed(self) -> None:
        count = 0
        while self._unfed:
            seq, time, data = self._unfed.popleft()
            if self._fold is None:
                self._fold = LogReader(seq)
            self._fold.feed(seq, time, data)
            count += 1
            if count % TURN_MESSAGES == 0:
                await asyncio.sleep(0)

    async def _again(self) -> None:
        before = self._reader
        self._reader, self._fold = InboxReader(self._bus, self._gateway), None
        self._unfed.clear()
        await before.close()

    async def close(self) -> None:
        await self._reader.close()


class OtherLogs:
    """What was read of other gateways' inboxes. `tick` it now and then."""

    def __init__(self, bus: BusClient) -> None:
        self._bus = bus
        self._logs: dict[str, OtherLog] = {}

    def of(self, gateway: str) -> OtherLog:
        found = self._logs.get(gateway)
        if found is None:
            found = self._logs[gateway] = OtherLog(self._bus, gateway)
        return found

    async def drop(self, gateway: str, log: OtherLog) -> None:
        """It is another log by now, or none. Who reads it still is told Unavailable."""
        if self._logs.get(gateway) is log:
            del self._logs[gateway]
        await log.close()

    async def is_gone(self, gateway: str) -> bool:
        """Whether it is proved that the gateway has no inbox. Raises Unavailable when it is not known."""
        return await inbox_is_gone(self._bus, gateway)

    async def tick(self) -> None:
        """Let go of what nobody has asked for lately."""
        before = asyncio.get_running_loop().time() - KEEP_SECONDS
        for gateway, one in [*self._logs.items()]:
            if one.used < before and not one.busy:
                del self._logs[gateway]
                await one.close()

    async def close(self) -> None:
        logs, self._logs = self._logs, {}
        for one in logs.values():
            await one.close()
