"""Reliable sessions, put together for one gateway: what its sockets, REST callers and routers ask for."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import structlog

from gateway.bounds import Bounds
from gateway.connection import Connection, Executed
from gateway.flusher import Flusher
from gateway.keepalive import KeepAlive
from gateway.notifications import Notifications
from gateway.protocol.requests import ClientEvent, SendToGroup
from gateway.registrar import Registrar
from gateway.reliable.connection import ReliableConnection
from gateway.reliable.holder import Holder
from gateway.reliable.leftovers import LET_GO, Leftovers
from gateway.reliable.logs import OtherLogs
from gateway.reliable.moves import Moves
from gateway.reliable.needs import Needs
from gateway.reliable.own_log import OwnLog
from gateway.reliable.session import Session
from gateway.reliable.state import SessionState
from gateway.reliable.upkeep import LostInboxes, Trimming
from gateway.tally import HubTally
from hubwire.bus.client import BusClient
from hubwire.bus.inbox import Inbox
from hubwire.bus.owners import OwnersView
from hubwire.bus.session_records import SessionRecords
from hubwire.bus.settle import settle
from hubwire.model.errors import HubwireError, NotFound, PermissionDenied, Unavailable
from hubwire.model.limits import RETENTION_SECONDS
from hubwire.model.message import Message
from hubwire.model.permissions import Permission
from hubwire.model.reconnection import issue_reconnection_token
from hubwire.runtime.meters import PerHub
from hubwire.runtime.traces import OFF, Traces

log = structlog.get_logger(__name__)

Done = Callable[[HubwireError | None], None]

TICK_SECONDS = 10.0
RECOVERY_OUTCOMES = ("recovered", "not_found", "refused", "unavailable")


class Durability(NamedTuple):
    """Where the logs of reliable sessions are kept."""

    memory: bool
    replicas: int


class Plain(Protocol):
    """What the gateway does for every connection, reliable or not."""

    def publish_as(
        self, connection: Connection, request: SendToGroup, publisher: str | None, done: Executed
    ) -> None: ...
    def event(self, connection: Connection, request: ClientEvent, done: Executed) -> None: ...
    def max_groups(self, hub: str) -> int: ...
    def events_ended(self, connection: Connection) -> None: ...


class ReliableSessions:
    """One gateway's. `run()` in its task group; `close` after it, when the sockets are gone.

    `sign_with` gives the key that signs reconnection tokens; it raises Unavailable before there is one.
    """

    def __init__(
        self,
        name: str,
        bus: BusClient,
        owners: OwnersView,
        registrar: Registrar,
        notifications: Notifications,
        keepalive: KeepAlive,
        flusher: Flusher,
        plain: Plain,
        sign_with: Callable[[], str],
        *,
        memory: bool,
        replicas: int,
        retention_seconds: float = RETENTION_SECONDS,
        tallies: PerHub[HubTally] | None = None,
        traces: Traces = OFF,
    ) -> None:
        def inbox_of(gateway: str) -> Inbox:
            return Inbox(bus, gateway, memory=memory, replicas=replicas)

        records = SessionRecords(bus, memory=memory, replicas=replicas)
        self.holder = Holder(
            name,
            lambda heard, lost: OwnLog(bus, name, heard, inbox_of(name), lost),
            Needs(registrar),
            records,
            notifications,
            retention_seconds=retention_seconds,
            tallies=tallies,
            traces=traces,
        )
        self.recoveries: Counter[str] = Counter(dict.fromkeys(RECOVERY_OUTCOMES, 0))
        """Clients that wanted to come back, by what became of it."""
        self.inbox_bytes = 0
        """How big the own inbox was when it was last looked at."""
        self._trimming = Trimming(self.holder.log)
        self._logs = OtherLogs(bus)
        self.moves = Moves(self.holder, self._logs, owners)
        self._leftovers = Leftovers(self.holder, self.moves, bus, registrar)
        self.holder.changes.elsewhere = self._leftovers.gone
        self._lost = LostInboxes(self._logs, records, inbox_of, retention_seconds)
        self._notifications = notifications
        self._keepalive = keepalive
        self._flusher = flusher
        self._plain = plain
        self._sign_with = sign_with
        self.table: Mapping[str, Callable[..., Awaitable[Any]]] = {
            "adopt": self._bring,
            "sweep_inbox": self._lost.sweep,
            LET_GO: self._leftovers.let_go,
        }

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.holder.run())
            tasks.create_task(self._trimming.run())
            while True:
                await asyncio.sleep(TICK_SECONDS)
                await self._logs.tick()
                await self._look_at_inbox()

    @property
    def inbox_age(self) -> float:
        """Seconds since the own inbox was trimmed last; 0 when nothing has come since."""
        return self._trimming.age

    async def _look_at_inbox(self) -> None:
        if self.holder.log.fold is None:
            return
        try:
            self.inbox_bytes = (await self.holder.log.inbox.info()).bytes
        except HubwireError as error:
            log.debug("inbox_not_looked_at", error=str(error))

    async def close(self, seconds: float) -> None:
        """The sockets are gone: write down what clients have acknowledged. The sessions stay in the log, for
        whoever their clients come to."""
        await self.moves.close()
        await self._lost.close()
        self.holder.log_acks()
        try:
            await self.holder.log.writer.drain(seconds)
        except HubwireError as error:
            log.debug("inbox_not_drained", error=str(error))
        await self._logs.close()
        await self.holder.log.close()

    # -- sockets -----------------------------------------------------------------------------------

    @property
    def flusher(self) -> Flusher:
        return self._flusher

    def connection(self, session: Session, bounds: Bounds, host: str) -> ReliableConnection:
        """A socket-to-be of a session."""
        return ReliableConnection(session, executor=self, flusher=self._flusher, bounds=bounds, host=host)

    async def open(self, state: SessionState, seconds: float) -> Session:
        return await self.holder.open(state, seconds)

    async def recover(self, hub: str, session_id: str) -> Session:
        """Raises NotFound as the verdict that there is no such session, Unavailable when it is not known."""
        return await self.moves.bring(hub, session_id)

    def sockets(self) -> list[ReliableConnection]:
        found = (session.connection for session in self.holder.sessions.values())
        return [connection for connection in found if connection is not None]

    # -- what connections ask (gateway.reliable.connection.ReliableExecutor) --------------------------

    def attached(self, connection: ReliableConnection) -> None:
        session = connection.session
        connection.bounds.tally.begins(connection.codec.name)
        token = issue_reconnection_token(
            self._sign_with(), connection_id=session.id, hub=session.hub, now=time.time()
        )
        if not self.holder.attach(connection, token):
            return
        self._keepalive.add(connection)
        if not session.announced:
            self.holder.opened += 1
            self._notifications.announced(session)
            session.announced = True
            if not session.source.events:
                session.source.next_id()  # `connected` has the first number, whoever is told

    def registered(self, connection: Connection) -> None:
        """Done by `attached`."""

    def acked(self, connection: ReliableConnection, sequence_id: int) -> None:
        self.holder.acked(connection, sequence_id)

    def executed(self, connection: ReliableConnection) -> None:
        self.holder.executed(connection.session)

    def direct(self, connection: ReliableConnection, message: Message, done: Executed) -> None:
        self.holder.direct(connection.session, message, done)

    def publish(self, connection: Connection, request: SendToGroup, done: Executed) -> None:
        publisher = connection.id if request.ack_id is not None else None
        self._plain.publish_as(connection, request, publisher, done)

    def join(self, connection: Connection, group: str, done: Executed) -> None:
        assert isinstance(connection, ReliableConnection)
        self.change_group(True, connection.session, group, done)

    def leave(self, connection: Connection, group: str, done: Executed) -> None:
        assert isinstance(connection, ReliableConnection)
        self.holder.changes.leave(connection.session, group, done)

    def event(self, connection: Connection, request: ClientEvent, done: Executed) -> None:
        assert isinstance(connection, ReliableConnection)
        self._plain.event(connection, request, partial(self._handled, connection.session, done))

    def _handled(self, session: Session, done: Executed, error: HubwireError | None) -> None:
        """What the handler has set must be in the log before the client hears that the event is handled."""
        if session.source_changed and not session.over:
            self.holder.log_source(session, lambda _fault: done(error))
        else:
            done(error)

    def ended(self, connection: Connection, category: str, reason: str | None) -> None:
        assert isinstance(connection, ReliableConnection)
        if connection.open:
            connection.bounds.tally.ends(connection.codec.name, category)
        self._plain.events_ended(connection)
        self._keepalive.discard(connection)
        self.holder.detach(connection, category, reason)

    # -- what REST callers ask (gateway.commands) --------------------------------------------------

    def get(self, hub: str, session_id: str) -> Session | None:
        return self.holder.get(hub, session_id)

    def members(self, key: str) -> list[Session]:
        return self.holder.members(key)

    async def close_session(self, session: Session, message: str, reason: str | None) -> None:
        """With `disconnected` to the client, if it is there; returns when it is decided. Raises Unavailable
        when another gateway has it by then."""
        connection = session.connection
        ending = self.holder.end(session, "ClosedByAppServer", reason)
        if connection is not None:
            connection.close_administratively(message, reason=reason)
        if ending is not None and not await asyncio.shield(ending):
            raise Unavailable("The session is on its way to another gateway.")

    async def send(self, session: Session, body: bytes) -> None:
        """A packed body to one session; returns when it is in the log. Raises NotFound and Unavailable."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: HubwireError | None) -> None:
            if not future.done():
                future.set_exception(error) if error is not None else future.set_result(None)

        self.holder.direct_body(session, body, done)
        await future

    def count(self, key: str) -> int:
        """How many sessions are members of a plain key."""
        return self.holder.count(key)

    def change_group(self, joins: bool, session: Session, group: str, done: Done) -> None:
        if not joins:
            self.holder.changes.leave(session, group, done)
            return
        most = self._plain.max_groups(session.hub)
        if len(session.groups) >= most and group not in session.groups:
            done(PermissionDenied(f"A connection of this hub may be in {most} groups at most."))
        else:
            self.holder.changes.join(session, group, done)

    async def still_here(self, session: Session) -> None:
        """Returns when it is known that nothing of the session was changed elsewhere; raises NotFound when it
        is over, and Unavailable when another gateway has it or it is not known."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.holder.changes.still_here(session, partial(settle, future, None))
        await future

    async def permit(self, session: Session, granted: bool, permission: Permission, group: str) -> bool:
        return await self.holder.changes.permission(session, granted, permission, group)

    async def _bring(self, hub: str, session_id: str) -> bool:
        """Take a session over whose holder is lost, so that a REST call finds it. False: there is none."""
        try:
            await self.moves.bring(hub, session_id)
        except NotFound:
            return False
        return True
