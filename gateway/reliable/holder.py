"""The reliable sessions that this gateway holds: opened, attached to sockets, changed, detached, ended.

Everything that decides what a session receives goes through the gateway's own inbox and comes back by the
fold, whose state is the only one (DESIGN.md section 5); a client is told of a change when it is folded. A
session outlives its sockets for RETENTION_SECONDS. It ends by a compare-and-set of its record, so that of
this gateway and one that takes it over exactly one decides.

Bounds: what is not acknowledged, per session, past which it is closed with 1008 (client-protocols.md 4.2);
what waits for the inbox (hubwire.bus.inbox_writer). Each wait ends in seconds; an ending is tried for as
long as NATS is away.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import structlog

from gateway.frames import BINARY, TEXT, frame
from gateway.hub import keys_of
from gateway.notifications import Notifications
from gateway.protocol.codec import ReliableCodec
from gateway.reliable.changes import Changes
from gateway.reliable.connection import ReliableConnection
from gateway.reliable.messages import Logged
from gateway.reliable.needs import Needs
from gateway.reliable.own_log import OwnLog
from gateway.reliable.session import Session
from gateway.reliable.state import SessionState, pack_state
from hubwire.bus.envelopes import Body, pack_body
from hubwire.bus.inbox_entries import acked_entry, closed_entry, direct_entry, opened_entry, source_entry
from hubwire.bus.session_records import SessionRecords
from hubwire.bus.settle import settle
from hubwire.model.errors import HubwireError, NotFound, Unavailable
from hubwire.model.limits import RETENTION_SECONDS, UNACKED_BYTES, UNACKED_MESSAGES
from hubwire.model.message import Message

log = structlog.get_logger(__name__)

Done = Callable[[HubwireError | None], None]

TICK_SECONDS = 1.0
MOVE_SECONDS = 10.0
"""How long another gateway has to take a session that it marked; then it goes on here."""
RECORD_PAUSE_SECONDS = 0.5
UNJUDGED_TIMES = 4


class Holder:
    """One gateway's reliable sessions. `run()` in the gateway's task group; `close` at a stop."""

    def __init__(
        self,
        name: str,
        log_of: Callable[[Holder, Callable[[], None]], OwnLog],
        needs: Needs,
        records: SessionRecords,
        notifications: Notifications,
        *,
        retention_seconds: float = RETENTION_SECONDS,
        unacked_messages: int = UNACKED_MESSAGES,
        unacked_bytes: int = UNACKED_BYTES,
    ) -> None:
        self.name = name
        self.log = log_of(self, self._log_lost)
        self.needs = needs
        self.records = records
        self.notifications = notifications
        self.sessions: dict[str, Session] = {}
        self.coming: dict[str, list[str]] = {}
        """Keys that are needed for sessions on their way into the log; `ended` releases those of a session
        that got there."""
        self.changes = Changes(self)
        self._loop = asyncio.get_running_loop()
        self._retention = retention_seconds
        self._unacked_messages = unacked_messages
        self._unacked_bytes = unacked_bytes
        self._detached: dict[str, Session] = {}  # in the order of their deadlines
        self._dirty: dict[str, Session] = {}  # acks and windows that are to be logged
        self._tasks: set[asyncio.Task[None]] = set()
        self.opened = 0
        self.recovered = 0
        self.ended_by: Counter[str] = Counter()

    # -- what others ask ---------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.sessions)

    def get(self, hub: str, session_id: str) -> Session | None:
        """A session that is here and not over, attached or detached."""
        session = self.sessions.get(session_id)
        return session if session is not None and session.hub == hub and not session.over else None

    def members(self, key: str) -> list[Session]:
        """The sessions that are members of a plain key."""
        fold = self.log.fold
        if fold is None:
            return []
        found = (self.sessions.get(state.id) for state in fold.sessions.members(key))
        return [session for session in found if session is not None and not session.over]

    def count(self, key: str) -> int:
        fold = self.log.fold
        return fold.sessions.count(key) if fold is not None else 0

    # -- opening -----------------------------------------------------------------------------------

    async def open(self, state: SessionState, seconds: float) -> Session:
        """A new session: its keys are confirmed by their owners, and it is in the log. Raises Unavailable;
        then nothing is left of it."""
        await self.log.ready()
        keys = list(keys_of(state))
        self.needs.need_all(keys)
        self.coming[state.id] = keys
        try:
            async with asyncio.timeout(seconds):
                await self.confirmed(keys)
                await self.log.written([opened_entry(state.id, pack_state(state))], seconds)
                found = self.log.fold.get(state.id) if self.log.fold is not None else None
                if found is None:
                    raise Unavailable("The session was lost while it was opened.")
        except BaseException as error:
            self.take_out(state.id, 0)
            if isinstance(error, TimeoutError):
                raise Unavailable("The cluster does not answer.") from error
            raise
        session = Session(found, generation=0, revision=0, recovered=False)
        self.adopt(session)
        return session

    def adopt(self, session: Session) -> None:
        """Hold a session whose state is in the fold and whose keys are needed. It is detached until a socket
        comes."""
        self.coming.pop(session.id, None)
        self.sessions[session.id] = session
        session.deadline = self._loop.time() + self._retention
        self._detached[session.id] = session

    async def confirmed(self, keys: list[str]) -> None:
        """Wait until the owners of these keys have confirmed them. Raises their error."""
        future: asyncio.Future[None] = self._loop.create_future()
        self.needs.when_confirmed(keys, partial(settle, future, None))
        await future

    def take_out(self, session_id: str, generation: int) -> None:
        """It could not be opened or adopted, and may be found in the log all the same: take it out again."""

        def gone(_error: HubwireError | None) -> None:
            self.needs.release_all(self.coming.pop(session_id, ()))

        try:
            self.log.write(closed_entry(session_id, generation), gone, seconds=None)
        except HubwireError:
            gone(None)

    # -- sockets (gateway.reliable.connection.ReliableExecutor, in part) ------------------------------

    def attach(self, connection: ReliableConnection, token: str) -> bool:
        """The 101 is written: tell `connected`, then everything that is not acknowledged (4.6). False when
        the session is over. Whether it is new is `session.announced` before."""
        session = connection.session
        if session.over or session.moving:
            connection.close(1011, "The session is on its way elsewhere.", "ServiceTransientError")
            return False
        old, session.connection = session.connection, connection
        if old is not None:
            old.cut("Moved")  # half open; the newest wins
        self._detached.pop(session.id, None)
        codec = session.codec
        kind = BINARY if codec.binary else TEXT
        connection.send(frame(kind, codec.connected(session.id, session.user_id, token)))
        for number, message in session.state.replay(time.time()):
            shared = codec.numbered(message.content().message)
            connection.send(frame(kind, codec.frame_with_id(shared, number)))
        return True

    def detach(self, connection: ReliableConnection, category: str, reason: str | None) -> None:
        """A socket has ended; the session with it, if it was meant to (4.4)."""
        session = connection.session
        if session.connection is not connection:
            return  # an older socket, or one that was never attached
        session.connection = None
        if connection.final:
            self.end(session, category, reason)
        elif not session.over:
            session.deadline = self._loop.time() + self._retention
            self._detached[session.id] = session

    def acked(self, connection: ReliableConnection, sequence_id: int) -> None:
        session = connection.session
        if session.connection is connection:
            session.state.ack(sequence_id)
            session.judged = True
            self._dirty[session.id] = session

    def executed(self, session: Session) -> None:
        """A request with an ack id was executed: the window is to be logged."""
        self._dirty[session.id] = session

    def direct(self, session: Session, message: Message, done: Done) -> None:
        """One message to this client, in its place in the log."""
        self.direct_body(session, pack_body(message), done)

    def direct_body(self, session: Session, body: bytes, done: Done) -> None:
        if session.over or session.moving:
            done(_gone(session))
            return
        try:
            self.log.write(direct_entry(session.id, body), done)
        except HubwireError as error:
            done(error)

    def log_source(self, session: Session, done: Done) -> None:
        """What an event handler has said of the connection outlives this gateway once `done` is called."""
        try:
            self.log.write(source_entry(session.id, session.packed_source()), done)
        except HubwireError as error:
            done(error)

    # -- what the fold comes to (gateway.reliable.heard.Heard) ----------------------------------------

    def delivered(self, message: Logged, content: Body, sessions: list[SessionState]) -> None:
        frames: dict[ReliableCodec, tuple[int, bytes]] = {}
        deadline = self._loop.time() + content.ttl_seconds if content.ttl_seconds else 0.0
        messages, size = self._unacked_messages, self._unacked_bytes
        for state in sessions:
            session = self.sessions.get(state.id)
            if session is None:
                continue
            connection = session.connection
            if connection is not None:
                codec = session.codec
                shared = frames.get(codec)
                if shared is None:
                    kind = BINARY if codec.binary else TEXT
                    shared = frames[codec] = (kind, codec.numbered(content.message))
                data = frame(shared[0], codec.frame_with_id(shared[1], state.last_id))
                if deadline:
                    connection.send_until(data, deadline)
                else:
                    connection.send(data)
            if len(state.unacked) > messages or state.unacked_bytes > size:
                self._loop.call_soon(self._overflow, session)

    def _overflow(self, session: Session) -> None:
        """Too much is not acknowledged. A client that has just come back and has not said yet what it has may
        have more; but not without end, if it never says."""
        state = session.state
        times = 1 if session.judged else UNJUDGED_TIMES
        if session.over or (
            len(state.unacked) <= times * self._unacked_messages
            and state.unacked_bytes <= times * self._unacked_bytes
        ):
            return
        text = "Too much is not acknowledged."
        connection = session.connection
        if connection is not None:
            connection.close(1008, text, "SlowClient", seconds=1.0)  # ends the session by `detach`
        else:
            self.end(session, "SlowClient", text)

    def marked(self, session_id: str, generation: int, by: str) -> None:
        session = self.sessions.get(session_id)
        if session is None or session.over or generation != session.generation or by == self.name:
            return
        log.debug("session_wanted", connection_id=session_id, by=by)
        session.moving = True
        if session.connection is not None:
            session.connection.cut("Moved")
        self._start(self._watch_move(session, generation))

    def ended(self, state: SessionState) -> None:
        """It is out of the log, so its keys are not needed any more."""
        self.coming.pop(state.id, None)
        self.needs.release_all(keys_of(state))
        session = self.sessions.get(state.id)
        if session is not None and session.state is state:
            del self.sessions[state.id]
            self._detached.pop(state.id, None)
            self._dirty.pop(state.id, None)

    def _log_lost(self) -> None:
        """All that was in the log is lost with it; nobody can resume it (DESIGN: never in silence)."""
        sessions, self.sessions = self.sessions, {}
        self._detached.clear()
        self._dirty.clear()
        for session in sessions.values():
            self.needs.release_all(keys_of(session))
            if not session.over:
                session.over = True
                self.ended_by["ServiceTransientError"] += 1
                self.notifications.over(session, "The log of the session was lost.")
            if session.connection is not None:
                session.connection.close(1008, "The session was lost.", "ServiceTransientError")

    # -- ends --------------------------------------------------------------------------------------

    def end(self, session: Session, category: str, reason: str | None) -> asyncio.Task[None] | None:
        """End a session for good; the task is done when it is decided. None when it is over already."""
        if session.over:
            return None
        session.over = True
        self._detached.pop(session.id, None)
        return self._start(self._end(session, category, reason))

    async def _end(self, session: Session, category: str, reason: str | None) -> None:
        generation, revision = session.generation, session.revision
        while True:
            try:
                if await self.records.end(session.id, generation + 1, revision) is not None:
                    break
                record = await self.records.read(session.id)
                if record.ended and record.generation == generation + 1:
                    break  # by us, unheard
                if record.holder != self.name:
                    self.forget(session, record.generation)
                    return
                generation, revision = record.generation, record.revision
            except Unavailable:
                await asyncio.sleep(RECORD_PAUSE_SECONDS)
        self.ended_by[category] += 1
        if session.announced:
            self.notifications.over(session, reason)
        self._close_in_log(session, generation + 1)

    def forget(self, session: Session, generation: int) -> None:
        """It is another gateway's by now."""
        session.over = True
        if session.connection is not None:
            session.connection.cut("Moved")
        self.notifications.moved(session)
        self._close_in_log(session, max(session.generation, generation - 1))

    def _close_in_log(self, session: Session, generation: int) -> None:
        if self.sessions.get(session.id) is session:
            try:
                self.log.write(closed_entry(session.id, generation), _ignore, seconds=None)
            except HubwireError as error:
                log.debug("session_not_closed_in_log", connection_id=session.id, error=str(error))

    async def _watch_move(self, session: Session, generation: int) -> None:
        end = self._loop.time() + MOVE_SECONDS
        pause = 0.05
        while self._loop.time() < end and not session.over:
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)
            if session.generation != generation:
                return  # it was attached here again
            try:
                record = await self.records.read(session.id)
            except Unavailable:
                end = max(end, self._loop.time() + 1.0)
                continue
            if record.holder != self.name and not session.over:
                self.forget(session, record.generation)
                return
        session.moving = False

    # -- upkeep ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Log acks, end those whose client has not come back, until cancelled."""
        try:
            while True:
                await asyncio.sleep(TICK_SECONDS)
                self.tick()
        finally:
            for task in [*self._tasks]:
                task.cancel()

    def tick(self) -> None:
        self.log_acks()
        now = self._loop.time()
        for session in [*self._detached.values()]:
            if session.deadline > now:
                break
            if not session.moving:
                self.end(session, "Normal", "The client did not come back in time.")

    def log_acks(self) -> None:
        """Write down what clients have acknowledged and executed, in one entry or a few."""
        dirty, self._dirty = [*self._dirty.values()], {}
        for at in range(0, len(dirty), 500):
            acks = [(one.id, one.state.acked, one.window.snapshot()) for one in dirty[at : at + 500]]
            try:
                self.log.write(acked_entry(acks), _ignore)
            except HubwireError:
                self._dirty |= {one.id: one for one in dirty[at:]}
                return

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _ignore(_error: HubwireError | None) -> None:
    """Nobody waits for it."""


def _gone(session: Session) -> HubwireError:
    return NotFound("The connection is closed.") if session.over else Unavailable("The session moves.")
