"""Keeps inboxes short: trims the own one, and takes those of lost gateways away when nothing in them can
come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from gateway.reliable.cycle import Cycle
from gateway.reliable.fold import InboxFold
from gateway.reliable.logs import OtherLogs
from gateway.reliable.own_log import OwnLog
from hubwire.bus.inbox import Inbox
from hubwire.bus.jetstream import StreamFull, StreamMissing
from hubwire.bus.session_records import SessionRecords
from hubwire.model.errors import HubwireError, Unavailable

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
TRIM_BYTES = 8 * 1024 * 1024
TRIM_SECONDS = 30.0
"""The log is trimmed when it has grown by so much, or when it has grown at all in that time."""
TURN_BYTES = 1024 * 1024
TURN_ENTRIES = 200
WRITE_SECONDS = 30.0
CYCLE_SECONDS = 60.0
AT_ONCE = 32
PAUSE_SECONDS = 1.0


class Trimming:
    """Writes checkpoints into the own inbox and trims it before them. `run()` until cancelled."""

    def __init__(self, own: OwnLog) -> None:
        self._own = own
        self._number = 0
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._bytes = 0  # how big the inbox is when it is as big as it should be
        self.cycles = 0

    @property
    def age(self) -> float:
        """Seconds since the last trimming; 0 when nothing is to be trimmed."""
        return self._loop.time() - self._last if self._own.bytes else 0.0

    async def run(self) -> None:
        loop = self._loop
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            grown = self._own.bytes
            if grown < TRIM_BYTES and (not grown or loop.time() - self._last < TRIM_SECONDS):
                continue
            fold = self._own.fold
            if fold is None:
                continue
            try:
                async with asyncio.timeout(CYCLE_SECONDS):
                    await self.trim(fold)
            except (HubwireError, TimeoutError) as error:
                log.warning("inbox_not_trimmed", error=str(error) or repr(error))
            self._last = loop.time()

    async def trim(self, fold: InboxFold) -> None:
        """One whole cycle. What it writes itself does not count as growth. Raises Unavailable."""
        await self._make_room()
        self._number += 1
        cycle = Cycle(fold, self._number)
        batch: list[bytes] = []
        size = 0
        for entry in cycle.entries():
            if entry is not None:
                batch.append(entry)
                size += len(entry)
            if entry is None or len(batch) >= TURN_ENTRIES or size >= TURN_BYTES:
                await self._write(batch)
                batch, size = [], 0
            if entry is None:
                await asyncio.sleep(0.02)  # until the adoptions are through that it waits for
        await self._write(batch)
        if self._own.fold is not fold:
            raise Unavailable("The inbox was lost.")
        self._own.bytes = 0
        await self._own.inbox.purge(cycle.as_of + 1)
        self.cycles += 1
        if (await self._own.inbox.info()).max_bytes > self._bytes:
            await self._own.inbox.resize(self._bytes)

    async def _make_room(self) -> None:
        """A log that is full, or nearly, could not take the checkpoint that lets it be trimmed."""
        info = await self._own.inbox.info()
        self._bytes = self._bytes or info.max_bytes
        if info.bytes > self._bytes // 2 and info.max_bytes <= self._bytes:
            log.warning("inbox_made_bigger", gateway=self._own.name, bytes=info.bytes)
            try:
                await self._own.inbox.resize(2 * self._bytes)
            except StreamFull as error:  # the checkpoint may fit all the same
                log.debug("inbox_not_made_bigger", gateway=self._own.name, error=str(error))

    async def _write(self, entries: list[bytes]) -> None:
        if entries:
            await self._own.written(entries, WRITE_SECONDS)


class LostInboxes:
    """Ends the sessions of gateways that are lost, once their clients have had their time to come back.
    Routers ask for it (router/sweep.py); to ask twice, or two gateways, does no harm: each session is ended
    by one compare-and-set, and `disconnected` is then sent by who works off the lost gateway's outbox."""

    def __init__(
        self,
        logs: OtherLogs,
        records: SessionRecords,
        inbox_of: Callable[[str], Inbox],
        retention_seconds: float,
    ) -> None:
        self._logs = logs
        self._records = records
        self._inbox_of = inbox_of
        self._retention = retention_seconds
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def sweep(self, gateway: str) -> bool:
        """Begin with a lost gateway's inbox, unless that is under way. The command of routers."""
        if gateway not in self._under_way:
            task = asyncio.create_task(self._sweep(gateway))
            self._under_way[gateway] = task
            task.add_done_callback(lambda _task: self._under_way.pop(gateway, None))
        return True

    async def close(self) -> None:
        tasks = [*self._under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _sweep(self, gateway: str) -> None:
        await self._wait_for_clients(gateway)
        log.info("inbox_swept", gateway=gateway)
        while True:
            log_of_it = self._logs.of(gateway)
            try:
                fold = await log_of_it.read()
                await self._end_all(gateway, [state.id for state in fold.sessions])
                break
            except StreamMissing:
                await self._logs.drop(gateway, log_of_it)
                return  # asked again if it is there all the same
            except Unavailable as error:
                log.debug("inbox_not_swept", gateway=gateway, error=str(error))
                await asyncio.sleep(PAUSE_SECONDS)
        await self._logs.drop(gateway, log_of_it)
        while True:
            try:
                await self._inbox_of(gateway).delete()
                return
            except Unavailable:
                await asyncio.sleep(PAUSE_SECONDS)

    async def _wait_for_clients(self, gateway: str) -> None:
        """Until nobody can come back. Nobody trims the inbox meanwhile: one that is filling up gets as much
        room once more, so that it takes the marks of who comes for a session, and publishers need not wait
        for the end of it."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._retention
        inbox = self._inbox_of(gateway)
        roomy = False
        while (left := end - loop.time()) > 0:
            if not roomy:
                try:
                    info = await inbox.info()
                    if info.bytes > info.max_bytes // 2:
                        log.warning("inbox_made_bigger", gateway=gateway, bytes=info.bytes)
                        await inbox.resize(2 * info.max_bytes)
                        roomy = True
                except StreamMissing:
                    return
                except Unavailable as error:
                    log.debug("inbox_not_made_bigger", gateway=gateway, error=str(error))
            await asyncio.sleep(min(left, PAUSE_SECONDS))

    async def _end_all(self, gateway: str, sessions: list[str]) -> None:
        """End those that nobody has taken over. Raises Unavailable when one of them may be left."""
        todo = iter(sessions)
        ended = 0

        async def worker() -> None:
            nonlocal ended
            for session_id in todo:
                while True:
                    record = await self._records.read(session_id)
                    if record.ended or record.holder != gateway:
                        break
                    generation = record.generation + 1
                    if await self._records.end(session_id, generation, gateway, record.revision):
                        ended += 1
                        break

        results = await asyncio.gather(*(worker() for _ in range(AT_ONCE)), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result if isinstance(result, HubwireError) else Unavailable(repr(result))
        if ended:
            log.info("sessions_ended", gateway=gateway, count=ended)
