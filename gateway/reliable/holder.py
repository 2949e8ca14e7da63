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
from typing import Any, TypeVar

import structlog

from gateway.frames import BINARY, TEXT, frame
from gateway.hub import keys_of
from gateway.notifications import Notifications
from gateway.protocol.codec import ReliableCodec
from gateway.reliable.attempts import Attempt, Attempts
from gateway.reliable.changes import Changes
from gateway.reliable.connection import ReliableConnection
from gateway.reliable.crowding import Crowding
from gateway.reliable.ends import Ends
from gateway.reliable.messages import Logged
from gateway.reliable.needs import Needs
from gateway.reliable.own_log import OwnLog
from gateway.reliable.session import Session
from gateway.reliable.state import SessionState, pack_state
from gateway.tally import CONNECTION, KIND_OF_KEY, HubTally
from hubwire.bus.envelopes import Body, pack_body
from hubwire.bus.inbox_entries import acked_entry, direct_entry, opened_entry, source_entry
from hubwire.bus.session_records import SessionRecords
from hubwire.bus.settle import settle
from hubwire.model.errors import HubwireError, Unavailable
from hubwire.model.limits import RETENTION_SECONDS, UNACKED_BYTES, UNACKED_MESSAGES
from hubwire.model.message import Message
from hubwire.runtime.meters import PerHub
from hubwire.runtime.service import end_tasks
from hubwire.runtime.traces import OFF, Traces

log = structlog.get_logger(__name__)

Done = Callable[[HubwireError | None], None]
T = TypeVar("T")

TICK_SECONDS = 1.0
ACKS_AT_ONCE = 500
RUNS_AT_ONCE = 20_000
"""How many sessions' acks, and ends of runs of ack ids in them, one entry holds: some 200 KiB."""


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
        tallies: PerHub[HubTally] | None = None,
        traces: Traces = OFF,
    ) -> None:
        self._traces = traces
        self._tallies: PerHub[HubTally] = tallies if tallies is not None else PerHub(HubTally, 0)
        self.name = name
        self.log = log_of(self, self._log_lost)
        self.needs = needs
        self.records = records
        self.notifications = notifications
        self.sessions: dict[str, Session] = {}
        self.coming = Attempts(self.log, needs)
        self.changes = Changes(self)
        self.ends = Ends(self)
        self._loop = asyncio.get_running_loop()
        self._retention = retention_seconds
        self.crowding = Crowding(unacked_messages, unacked_bytes, lambda: self.sessions, self._close_slow)
        self._detached: dict[str, Session] = {}  # in the order of their deadlines
        self._dirty: dict[str, Session] = {}  # acks and windows that are to be logged
        self._tasks: set[asyncio.Task[Any]] = set()
        self.opened = 0
        self.recovered = 0
        self.ended_by: Counter[str] = Counter()

    # -- what others ask ---------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many there are, with those on their way."""
        return len(self.sessions) + len(self.coming)

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
        attempt = self.coming.begin(state.id, 0)
        try:
            self.coming.need(attempt, [*keys_of(state)])
            async with asyncio.timeout(seconds):
                await self.confirmed(attempt.keys)
                await self.log.written([opened_entry(state.id, pack_state(state))], seconds)
                found = self.log.fold.get(state.id) if self.log.fold is not None else None
                if found is None:
                    raise Unavailable("The session was lost while it was opened.")
        except BaseException as error:
            self.coming.give_up(attempt)
            if isinstance(error, TimeoutError):
                raise Unavailable("The cluster does not answer.") from error
            raise
        session = Session(found, generation=0, revision=0, recovered=False)
        self.adopt(session, attempt)
        return session

    def adopt(self, session: Session, attempt: Attempt) -> None:
        """Hold a session whose state is in the fold and whose keys are needed. It is detached until a socket
        comes."""
        self.coming.arrived(attempt)
        self.sessions[session.id] = session
        if attempt.generation:
            session.came = self._loop.time()
        self.keep(session)
        self.marked(session.id, attempt.wanted, "")

    def keep(self, session: Session) -> None:
        """Without a socket, for as long as its client has to come back."""
        session.deadline = self._loop.time() + self._retention
        self._detached.pop(session.id, None)
        self._detached[session.id] = session

    async def confirmed(self, keys: list[str]) -> None:
        """Wait until the owners of these keys have confirmed them. Raises their error."""
        future: asyncio.Future[None] = self._loop.create_future()
        self.needs.when_confirmed(keys, partial(settle, future, None))
        await future

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
            self.keep(session)
            if session.id in self._dirty:
                self.log_acks()  # its client may come to another gateway before the next tick

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
        if (fault := session.fault()) is not None:
            done(fault)
            return

        def folded(error: HubwireError | None) -> None:
            done(error or session.fault())  # behind another gateway's mark it is not part of what that takes

        try:
            self.log.write(direct_entry(session.id, body), folded)
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
        messages, size = self.crowding.messages, self.crowding.size
        hub, sent, sent_bytes = "", 0, 0
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
                hub = state.hub
                sent += 1
                sent_bytes += len(data)
            if len(state.unacked) > messages or state.unacked_bytes > size:
                self._loop.call_soon(self.crowding.look, session)
        if sent:
            tally = self._tallies.of(hub)
            to = tally.sent_to(KIND_OF_KEY.get(message.key[:1], CONNECTION))
            to.messages += sent
            to.bytes += sent_bytes
            if content.accepted:
                self._loop.call_soon(tally.delivered, content.accepted)
            if content.trace:
                self._traces.moment("deliver", content.trace, {"hub": hub, "connections": sent})

    def _close_slow(self, session: Session) -> None:
        text = "Too much is not acknowledged."
        connection = session.connection
        if connection is not None:
            connection.close(1008, text, "SlowClient", seconds=1.0)  # ends the session by `detach`
        else:
            self.end(session, "SlowClient", text)

    def marked(self, session_id: str, generation: int, by: str) -> None:
        session = self.sessions.get(session_id)
        if session is None:
            self.coming.marked(session_id, generation)
            return
        if session.over or generation < session.generation or by == self.name:
            return
        log.debug("session_wanted", connection_id=session_id, by=by)
        session.wanted = max(session.wanted, generation)
        if session.moving:
            return
        session.moving = True
        if session.connection is not None:
            session.connection.cut("Moved")
        self.start(self.ends.watch(session))

    def ended(self, state: SessionState) -> None:
        """It is out of the log, so its keys are not needed any more."""
        self.coming.ended(state)
        self.needs.release_all(keys_of(state))
        session = self.sessions.get(state.id)
        if session is not None and session.state is state:
            if not session.over:
                session.over = session.moved = True  # it is back here already, as another
            del self.sessions[state.id]
            self._detached.pop(state.id, None)
            self._dirty.pop(state.id, None)
            if session.connection is not None:
                session.connection.cut("Moved")

    def _log_lost(self) -> None:
        """All that was in the log is lost with it; nobody can resume it (DESIGN: never in silence).
        Those that another gateway has taken before are not lost: the records tell."""
        sessions, self.sessions = self.sessions, {}
        self._detached.clear()
        self._dirty.clear()
        for session in sessions.values():
            self.needs.release_all(keys_of(session))
            self.end(session, "ServiceTransientError", "The log of the session was lost.")
            if session.connection is not None:
                session.connection.close(1008, "The session was lost.", "ServiceTransientError")

    # -- ends --------------------------------------------------------------------------------------

    def end(self, session: Session, category: str, reason: str | None) -> asyncio.Task[bool] | None:
        """End a session for good; the task is done when it is decided, False when it was another gateway's
        by then. None when it is over already."""
        if session.over:
            return None
        session.over = True
        self._detached.pop(session.id, None)
        return self.start(self.ends.end(session, category, reason))

    # -- upkeep ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Log acks, end those whose client has not come back, until cancelled."""
        try:
            while True:
                await asyncio.sleep(TICK_SECONDS)
                self.tick()
        finally:
            await end_tasks([*self._tasks])

    def tick(self) -> None:
        self.log_acks()
        now = self._loop.time()
        self.crowding.judge(now)
        for session in [*self._detached.values()]:
            if session.deadline > now:
                break
            if not session.moving:
                self.end(session, "Normal", "The client did not come back in time.")

    def log_acks(self) -> None:
        """Write down what clients have acknowledged and executed, in one entry or a few."""
        dirty, self._dirty = [*self._dirty.values()], {}
        at = 0
        while at < len(dirty):
            acks: list[tuple[str, int, list[int]]] = []
            runs = 0
            for one in dirty[at : at + ACKS_AT_ONCE]:
                window = one.window.snapshot()
                runs += len(window)
                if acks and runs > RUNS_AT_ONCE:
                    break
                acks.append((one.id, one.state.acked, window))
            try:
                self.log.write(acked_entry(acks), _ignore)
            except HubwireError:
                self._dirty |= {one.id: one for one in dirty[at:]}
                return
            at += len(acks)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _ignore(_error: HubwireError | None) -> None:
    """Nobody waits for it."""
