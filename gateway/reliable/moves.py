"""Recovery: a session comes to this gateway, whoever held it before (DESIGN.md section 5, "Recovery is one
path").

    read the record -> held here: raise the generation
                    -> held elsewhere, or by a gateway that is lost: read its log; register the keys; put a
                       mark into its log and read on to that; write the state into the own log;
                       compare-and-set the record

Of several attempts, also by different gateways, the compare-and-set of the record lets one win. A loser
leaves nothing behind, and its client tries again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog

from gateway.hub import keys_of
from gateway.reliable.attempts import Attempt
from gateway.reliable.fold import InboxFold
from gateway.reliable.holder import Holder
from gateway.reliable.logs import OtherLog, OtherLogs
from gateway.reliable.session import Session
from gateway.reliable.state import SessionState
from hubwire.bus.inbox_entries import adopted_entries, mark_entry
from hubwire.bus.inbox_writer import MISSING
from hubwire.bus.jetstream import StreamMissing
from hubwire.bus.keys import partition_of
from hubwire.bus.owners import OwnersView
from hubwire.bus.session_records import SessionRecord
from hubwire.bus.settle import settle
from hubwire.model.errors import NotFound, Unavailable

log = structlog.get_logger(__name__)

MOVE_SECONDS = 15.0
TURN_SECONDS = 30.0
"""How long a session's move may take once it is its turn, and how long it waits for that. Were the waiting
part of the time of the move, sessions that come back by the thousand would run out of it one after another,
each with its work half done, and be begun again."""
MAX_MOVES = 2000
"""How many sessions may be on their way here; more are told to try again."""
MARK_SECONDS = 5.0
CHANGE_PAUSE_SECONDS = 0.2
TRIES = 5


class Moves:
    """Brings sessions to `holder`."""

    def __init__(self, holder: Holder, logs: OtherLogs, owners: OwnersView) -> None:
        self._holder = holder
        self._logs = logs
        self._owners = owners
        self._under_way: dict[tuple[str, str], asyncio.Task[Session]] = {}
        self._claims: dict[str, asyncio.Task[Session | None]] = {}
        self.moved = 0
        self.lost = 0

    async def bring(self, hub: str, session_id: str) -> Session:
        """The session, held here now. Several that ask for it at the same time get it together.

        Raises NotFound when there is no such session any more (a verdict: 1008), Unavailable when it is not
        known: try again. It goes on when the caller is cancelled, since then others may depend on it.
        """
        key = hub, session_id
        task = self._under_way.get(key)
        if task is None:
            if len(self._under_way) >= MAX_MOVES:
                raise Unavailable("Too many sessions are being recovered.")
            task = self._under_way[key] = asyncio.create_task(self._bring(hub, session_id))

            def ended(task: asyncio.Task[Session]) -> None:
                del self._under_way[key]
                _hear(task)

            task.add_done_callback(ended)
        return await asyncio.shield(task)

    async def over(self, hub: str, session_id: str) -> None:
        """Wait until no attempt to bring this session here is under way."""
        while tasks := {
            task
            for task in (self._under_way.get((hub, session_id)), self._claims.get(session_id))
            if task is not None
        }:
            await asyncio.wait(tasks)

    async def close(self) -> None:
        """Give up what is under way. Whose record may say by then that it is held here is lost with this
        gateway, and found in its log."""
        tasks = [*self._under_way.values(), *self._claims.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _bring(self, hub: str, session_id: str) -> Session:
        try:
            async with asyncio.timeout(MOVE_SECONDS) as limit:
                for _ in range(TRIES):
                    session = await self._attempt(hub, session_id, limit)
                    if session is not None:
                        return session
                raise Unavailable("The session is wanted by others at the same time.")
        except TimeoutError as error:
            raise Unavailable("The cluster does not answer.") from error

    async def _attempt(self, hub: str, session_id: str, limit: asyncio.Timeout) -> Session | None:
        """None when somebody else was faster: look again."""
        holder = self._holder
        claim = self._claims.get(session_id)
        if claim is not None:
            session = await asyncio.shield(claim)
            if session is not None and session.hub != hub:
                raise NotFound("The session is one of another hub.")
            return session
        record = await holder.records.read(session_id)
        if record.ended:
            raise NotFound("The session has ended.")
        if session_id in self._claims:
            return None
        if record.holder == holder.name:
            return await self._again_here(hub, session_id, record)
        if not holder.log.settled(session_id):
            raise Unavailable("The session has not left this gateway yet.")
        return await self._from_elsewhere(hub, session_id, record, limit)

    async def _again_here(self, hub: str, session_id: str, record: SessionRecord) -> Session | None:
        """The holder raises the generation: marks of before, and the attempts behind them, count no more."""
        holder = self._holder
        session = holder.get(hub, session_id)
        if session is None:
            if await holder.records.read(session_id) != record:
                return None
            ending = holder.sessions.get(session_id)
            if ending is not None and ending.hub == hub:
                raise Unavailable("The end of the session is not decided yet.")
            raise NotFound("The session is not here any more.")
        generation = record.generation + 1
        revision = await holder.records.change(session_id, generation, holder.name, record.revision)
        if revision is None:
            return None
        if session.over:
            raise NotFound("The session has ended.")
        if session.wanted >= record.generation:
            session.came = asyncio.get_running_loop().time()
        session.held(generation, revision)
        if session.moving:
            raise Unavailable("The session is wanted by another gateway.")
        session.judged = False
        if session.connection is None:
            holder.keep(session)
        return session

    async def _from_elsewhere(
        self, hub: str, session_id: str, record: SessionRecord, limit: asyncio.Timeout
    ) -> Session | None:
        holder = self._holder
        other = self._logs.of(record.holder)
        try:
            state = (await other.read()).get(session_id)
            if state is None:
                again = await holder.records.read(session_id)
                if again == record:
                    raise NotFound("The session has ended.")
                return None
            if state.hub != hub:
                raise NotFound("The session is one of another hub.")
            async with self._turn(other, limit):
                fold = await holder.log.ready()
                attempt = holder.coming.begin(session_id, record.generation + 1)
                try:
                    with fold.pin() as pin:
                        since = max(pin.since, await holder.log.stored())
                        here = await self._write_down(attempt, record, other, state, fold, since)
                except BaseException as error:
                    self.lost += 1
                    holder.coming.give_up(attempt)
                    if isinstance(error, NotFound) and await holder.records.read(session_id) != record:
                        return None  # it has gone from that log to another
                    raise
        except StreamMissing as error:
            await self._logs.drop(record.holder, other)
            if await self._logs.is_gone(record.holder):
                raise NotFound("The log of the session is not there any more.") from error
            return None  # another one, or one server did not know it yet
        claim = self._claims[session_id] = asyncio.create_task(self._claim(attempt, record, fold, here))

        def ended(task: asyncio.Task[Session | None]) -> None:
            del self._claims[session_id]
            _hear(task)

        claim.add_done_callback(ended)
        return await asyncio.shield(claim)

    @asynccontextmanager
    async def _turn(self, other: OtherLog, limit: asyncio.Timeout) -> AsyncIterator[None]:
        """One of those that are moved out of that log at a time; the time for the move begins with it."""
        loop = asyncio.get_running_loop()
        limit.reschedule(loop.time() + TURN_SECONDS)
        async with other.moves:
            limit.reschedule(loop.time() + MOVE_SECONDS)
            yield

    async def _write_down(
        self,
        attempt: Attempt,
        record: SessionRecord,
        other: OtherLog,
        state: SessionState,
        fold: InboxFold,
        since: int,
    ) -> SessionState:
        """Write the session into the own log as it is at a mark in the other. Returns its state here."""
        holder, session_id, keys = self._holder, attempt.session_id, attempt.keys
        while True:
            new = [key for key in keys_of(state) if key not in keys]
            holder.coming.need(attempt, new)
            if new:
                await self._confirmed_again(new)
            floors = self._floors(keys)
            entry = mark_entry(session_id, record.generation, holder.name)
            marked = await holder.log.writer.write(record.holder, entry, MARK_SECONDS)
            if marked == MISSING:
                raise NotFound("The log of the session is not there any more.")
            its = await other.read(marked)
            found = its.get(session_id)
            if found is None:
                raise NotFound("The session has ended.")
            state = found
            if all(key in keys for key in keys_of(state)):
                break
        for key in [key for key in keys if key not in set(keys_of(state))]:
            keys.remove(key)
            holder.needs.release(key)
        # No one else changes what is read here: it goes on only when somebody reads further.
        blob = its.adoption(state, attempt.generation, floors)
        await holder.log.written(adopted_entries(session_id, attempt.generation, since, blob))
        here = fold.get(session_id)
        if here is None or here.generation != attempt.generation or holder.log.fold is not fold:
            raise Unavailable("The session could not be written down here.")
        return here

    async def _confirmed_again(self, keys: list[str]) -> None:
        """Wait until what was stamped for the keys so far is stored: what stands in the own log already is
        in that of before too, then. Also for keys that others here have: they were confirmed earlier."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._holder.needs.confirm_again(keys, partial(settle, future, None))
        await future

    async def _claim(
        self, attempt: Attempt, record: SessionRecord, fold: InboxFold, here: SessionState
    ) -> Session | None:
        """Change the record, for as long as it is not known whether it was: the session would be nowhere if
        it was taken out of this log and the record named this gateway all the same. None when somebody else
        was first."""
        holder = self._holder
        session = Session(here, generation=attempt.generation, revision=0, recovered=True)
        try:
            await holder.notifications.resumed(session)
        except Unavailable:
            holder.notifications.moved(session)
            holder.coming.give_up(attempt)
            raise
        revision = await self._change(session, record)
        if revision is None:
            self.lost += 1
            holder.notifications.moved(session)
            holder.coming.give_up(attempt)
            return None
        session.revision = revision
        if holder.log.fold is not fold or fold.get(session.id) is not here:
            holder.coming.give_up(attempt)
            holder.end(session, "ServiceTransientError", "The log of the session was lost.")
            raise NotFound("The log of the session was lost.")
        holder.adopt(session, attempt)
        holder.recovered += 1
        self.moved += 1
        log.debug("session_moved", connection_id=session.id, before=record.holder)
        return session

    async def _change(self, session: Session, record: SessionRecord) -> int | None:
        """The record's new revision, or None. What is not answered is settled by another change from the
        same revision."""
        records, name = self._holder.records, self._holder.name
        unsure = False
        while True:
            try:
                revision = await records.change(session.id, session.generation, name, record.revision)
                if revision is not None or not unsure:
                    return revision
                now = await records.read(session.id)
                return now.revision if (now.holder, now.generation) == (name, session.generation) else None
            except Unavailable:
                unsure = True
                await asyncio.sleep(CHANGE_PAUSE_SECONDS)

    def _floors(self, keys: list[str]) -> dict[int, int]:
        """The epochs under which the keys were confirmed: what owners of before stamped for the old inbox
        stands there."""
        floors = {}
        for partition in map(partition_of, keys):
            owner = self._owners.owner(partition)
            if owner is not None:
                floors[partition] = owner.epoch
        return floors


def _hear(task: asyncio.Task[Any]) -> None:
    """Whoever waited for it may have gone."""
    if not task.cancelled():
        task.exception()
