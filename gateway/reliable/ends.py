"""How a session leaves its holder: it ends, or another gateway takes it. Either is decided by one
compare-and-set of its record, tried for as long as NATS is away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from gateway.reliable.session import Session
from hubwire.bus.inbox_entries import closed_entry
from hubwire.bus.session_records import SessionRecord
from hubwire.model.errors import HubwireError, Unavailable

if TYPE_CHECKING:
    from gateway.reliable.holder import Holder

log = structlog.get_logger(__name__)

MOVE_SECONDS = 10.0
"""How long another gateway has to take a session that it marked; then it goes on here."""
RECORD_PAUSE_SECONDS = 0.5
AT_ONCE = 64
"""Records that are changed at a time: a thousand windows may be over in the same second."""


class Ends:
    """Those of one holder's sessions. Each coroutine runs until it is decided."""

    def __init__(self, holder: Holder) -> None:
        self._holder = holder
        self._loop = asyncio.get_running_loop()
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def end(self, session: Session, category: str, reason: str | None) -> bool:
        """End one that is `over` already for everybody here. False when another gateway had it by then."""
        holder = self._holder
        generation, revision = session.generation, session.revision
        while True:
            try:
                async with self._at_once:
                    if await holder.records.end(session.id, generation + 1, holder.name, revision):
                        break
                    record = await holder.records.read(session.id)
                if record.ended and record.generation == generation + 1:
                    break  # by us, unheard
                if self._elsewhere(session, record):
                    self.forget(session, record.generation)
                    return False
                # Without a record of one that came from elsewhere the records were lost; it is here still.
                generation, revision = max(generation, record.generation), record.revision
            except Unavailable:
                await asyncio.sleep(RECORD_PAUSE_SECONDS)
        holder.ended_by[category] += 1
        if session.announced:
            holder.notifications.over(session, reason)
        self._close_in_log(session, generation + 1)
        return True

    def _elsewhere(self, session: Session, record: SessionRecord) -> bool:
        return record.holder != self._holder.name and (record.revision > 0 or not session.revision)

    async def has_gone(self, session: Session) -> bool:
        """Whether it is another gateway's by now, or over; then it is forgotten here. Raises Unavailable."""
        record = await self._holder.records.read(session.id)
        if not session.over and self._elsewhere(session, record):
            self.forget(session, record.generation)
        return session.over

    def forget(self, session: Session, generation: int) -> None:
        """It is another gateway's by now, whose record is of that generation."""
        session.over = session.moved = True
        if session.connection is not None:
            session.connection.cut("Moved")
        self._holder.notifications.moved(session)
        self._close_in_log(session, max(session.generation, generation - 1))

    def _close_in_log(self, session: Session, generation: int) -> None:
        if self._holder.sessions.get(session.id) is session:
            self._holder.log.insist(session.id, closed_entry(session.id, generation), _ignore)

    async def watch(self, session: Session) -> None:
        """Another gateway wants it: find out whether it gets it. If not, it goes on here, in a generation of
        its own: the other's attempt, however late, then comes too late."""
        holder = self._holder
        end = self._loop.time() + MOVE_SECONDS
        pause = 0.05
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)
            if session.over or not session.moving:
                return  # it has ended, or was attached here again
            try:
                record = await holder.records.read(session.id)
                if session.over or not session.moving:
                    return
                if self._elsewhere(session, record):
                    self.forget(session, record.generation)
                    return
                if self._loop.time() < end:
                    continue
                generation = record.generation + 1
                revision = await holder.records.change(session.id, generation, holder.name, record.revision)
            except Unavailable:
                continue
            if revision is None:
                continue
            log.debug("session_not_taken", connection_id=session.id)
            session.held(generation, revision)
            session.came = self._loop.time()
            if not session.moving:
                return
            end = self._loop.time() + MOVE_SECONDS  # that generation was marked meanwhile


def _ignore(_error: HubwireError | None) -> None:
    """Nobody waits for it."""
