"""The gateway: admits clients, executes what they ask, delivers what routers send.

Between the pure parts (session, hub, membership, codecs) and the bus. It calls nothing back up the path
of a message (style 3.3): a publish goes to the owner of its partition, also for members that are here.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import structlog

from gateway.bounds import HubBounds
from gateway.commands import Commands
from gateway.connection import Connection, Executed
from gateway.delivery import Delivery
from gateway.events import ClientEvents, Listeners
from gateway.flusher import Flusher
from gateway.front import Front, Undecided
from gateway.handshake import RecoveryRequest, Refusal, RefusedRecovery, check
from gateway.http_head import Head
from gateway.hub import LocalHubs
from gateway.keepalive import KeepAlive
from gateway.notifications import Notifications, Silent
from gateway.protocol.negotiate import RELIABLE
from gateway.protocol.requests import ClientEvent, SendToGroup
from gateway.registrar import Registrar
from gateway.reliable.admission import open_session, recover, refuse_recovery
from gateway.reliable.service import Durability, ReliableSessions
from gateway.settings import GatewayLimits
from gateway.tally import STAMP_EVERY, HubTally
from gateway.upgrade import hand_over
from gateway.upstream.commands import UpstreamCommands
from gateway.upstream.service import UpstreamService
from hubwire.bus.client import BusClient
from hubwire.bus.dispatcher import Dispatcher
from hubwire.bus.envelopes import (
    ASK,
    COMMAND,
    DELIVER,
    DUPLICATE,
    PUBLISH,
    VERSION,
    pack,
    pack_body,
    unpack,
)
from hubwire.bus.keys import group_key, hub_key, partition_of
from hubwire.bus.owners import OwnersTable, OwnersView
from hubwire.bus.settings import SettingsStore
from hubwire.bus.settle import settle
from hubwire.bus.subjects import gateway_subject
from hubwire.model.errors import (
    Conflict,
    HubwireError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from hubwire.model.message import Message
from hubwire.model.names import new_connection_id
from hubwire.model.permissions import PermissionSet, is_known_role
from hubwire.model.tokens import AudiencePolicy
from hubwire.runtime.meters import PerHub
from hubwire.runtime.traces import OFF, Traced, Traces

log = structlog.get_logger(__name__)

MAX_COMMANDS = 1000
MAX_ROLES_TOLD = 100
LEAVES_PER_TURN = 200
RETRY_SOON = (("Retry-After", "1"),)


class GatewayService:
    """One gateway worker, under a name that is its own for this run."""

    def __init__(
        self,
        name: str,
        bus: BusClient,
        owners: OwnersView,
        dispatcher: Dispatcher,
        settings: SettingsStore,
        *,
        public_endpoints: tuple[str, ...] = (),
        limits: GatewayLimits = GatewayLimits(),  # noqa: B008 (an immutable tuple)
        upstream: UpstreamService | None = None,
        listeners: Listeners | None = None,
        notifications: Notifications | None = None,
        durability: Durability | None = None,
        traces: Traces = OFF,
    ) -> None:
        """`upstream` and `listeners` belong to the caller, who closes them after `events`. Without
        `durability` no reliable subprotocols are served."""
        loop = asyncio.get_running_loop()
        self.name = name
        self._traces = traces if traces.on else None
        self._loop = loop
        self._bus = bus
        self._owners = owners
        self._dispatcher = dispatcher
        self._settings = settings
        self._limits = limits
        self.tallies: PerHub[HubTally] = PerHub(HubTally, limits.metrics_hubs)
        self._bounds = HubBounds(settings.limits, limits.outbox_bytes, self.tallies)
        settings.add_listener(self._bounds.settings_changed)
        self._audiences = AudiencePolicy.of(public_endpoints)
        self._flusher = Flusher(loop)
        self.events = ClientEvents(upstream, listeners, settings_of=settings.hub)
        self._notifications = notifications or Silent()
        self._joining: set[tuple[Connection, str]] = set()  # joins that are not confirmed, so not told yet
        self.fronts = Undecided()
        self.hubs: LocalHubs[Connection] = LocalHubs()
        self.registrar = Registrar(dispatcher, owners)
        self.delivery = Delivery(self.hubs, loop.time, self.tallies, loop.call_soon, traces)
        self.keepalive = KeepAlive(lambda hub: settings.hub(hub).web_socket_keep_alive_interval_in_seconds)
        settings.add_listener(self.keepalive.settings_changed)
        self.reliable: ReliableSessions | None = None
        if durability is not None:
            self.reliable = ReliableSessions(
                name,
                bus,
                owners,
                self.registrar,
                self._notifications,
                self.keepalive,
                self._flusher,
                self,
                lambda: settings.reconnection_keys.current,
                tallies=self.tallies,
                traces=traces,
                memory=durability.memory,
                replicas=durability.replicas,
            )
        self.commands = Commands(self.hubs, self.delivery, self.join, self.leave, self.reliable)
        if self.reliable is not None:
            self.commands.add(self.reliable.table)
        if upstream is not None:
            self.commands.add(UpstreamCommands(upstream).table)
        self._command_tasks: set[asyncio.Task[None]] = set()
        self.listening = asyncio.Event()
        self._roles_told: set[str] = set()
        self.draining = False
        self.opened = 0
        self.closed: Counter[str] = Counter()
        self.refused: Counter[int] = Counter()
        self.received = 0
        owners.on_change(self._table_changed)

    # -- admission ---------------------------------------------------------------------------------

    async def admit(self, front: Front, head: Head) -> Refusal | None:
        """Decide on a client endpoint: hand its socket over, or say why not."""
        refusal = await self._admit(front, head)
        if refusal is not None:
            self.refused[refusal.status] += 1
        return refusal

    async def _admit(self, front: Front, head: Head) -> Refusal | None:
        try:
            keys = self._settings.keys
            again = self._settings.reconnection_keys.both if self.reliable is not None else ()
        except Unavailable as error:
            return Refusal(503, str(error), RETRY_SOON)
        verdict = check(
            head,
            settings_of=self._settings.hub,
            keys=[key for key in (keys.primary, keys.secondary, keys.salt) if key],
            audiences=self._audiences,
            now=time.time(),
            reconnection_keys=again,
        )
        if isinstance(verdict, Refusal):
            return verdict
        if self.draining:
            return Refusal(503, "This gateway is being stopped.", RETRY_SOON)
        if isinstance(verdict, RecoveryRequest):
            assert self.reliable is not None
            return await recover(self.reliable, front, head, verdict, self._bounds.of(verdict.hub))
        if isinstance(verdict, RefusedRecovery):
            if self.reliable is not None:
                self.reliable.recoveries["refused"] += 1
            refuse_recovery(front, verdict, self._flusher)
            return None
        bounds = self._bounds.of(verdict.hub)
        # Who waits for an event handler counts too.
        if (
            self._clients() + len(self.events.connecting) >= self._limits.max_connections
            or self._clients(verdict.hub) + bounds.deciding >= bounds.max_connections
        ):
            return Refusal(429, "Too many connections.", (("Retry-After", "5"),))
        connection_id = new_connection_id(os.urandom(16), self.name)
        bounds.deciding += 1
        try:
            welcome = await self.events.welcome(connection_id, verdict, head)
        finally:
            bounds.deciding -= 1
        if isinstance(welcome, Refusal):
            return welcome
        if len(set(welcome.groups)) > bounds.max_groups:
            return Refusal(400, f"A connection of this hub may be in {bounds.max_groups} groups at most.")
        if self.draining:  # since that handler was asked
            return Refusal(503, "This gateway is being stopped.", RETRY_SOON)
        self._tell_unknown_roles(verdict.hub, welcome.roles)
        if welcome.codec.name in RELIABLE:
            assert self.reliable is not None
            return await open_session(
                self.reliable,
                front,
                head,
                connection_id,
                verdict,
                welcome,
                bounds,
                self._limits.register_seconds,
            )
        connection = Connection(
            connection_id,
            verdict.hub,
            welcome.user_id,
            welcome.codec,
            PermissionSet.from_roles(welcome.roles),
            set(welcome.groups),
            welcome.mode,
            executor=self,
            flusher=self._flusher,
            bounds=bounds,
            host=head.headers.get("host", ""),
            source=welcome.source,
        )
        return await self._register(front, connection, verdict.key, welcome.subprotocol)

    async def _register(
        self, front: Front, connection: Connection, key: str, subprotocol: str | None
    ) -> Refusal | None:
        """Steps 11 and 12 of 1.4: membership is confirmed by the owners before the 101, so what is
        published after the upgrade reaches the client."""
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        handed_over = False
        try:
            for new_key in self.hubs.add(connection):
                self.registrar.join(new_key)
            self.registrar.when_all_confirmed(self.hubs.keys_of(connection), partial(settle, confirmed, None))
            async with asyncio.timeout(self._limits.register_seconds):
                await confirmed
            if connection.over:  # closed meanwhile, by REST or because we stop
                return Refusal(503, "The connection was closed before it was opened.", RETRY_SOON)
            transport, rest = front.take_socket()
            if not transport.is_closing():
                hand_over(transport, connection, key, subprotocol, rest)
                handed_over = True
        except (HubwireError, TimeoutError) as error:
            log.warning("connection_not_registered", hub=connection.hub, error=repr(error))
            return Refusal(503, "The cluster does not answer; try again.", RETRY_SOON)
        finally:
            # Whatever went wrong, and when the client has gone or this task is cancelled: no ghost stays.
            if not handed_over:
                connection.abort()
        return None

    # -- reliable sessions (client-protocols.md section 4) ---------------------------------------------

    def _clients(self, hub: str | None = None) -> int:
        """How many connections are here: all, or those of a hub."""
        if hub is None:
            return len(self.hubs) + (len(self.reliable.holder) if self.reliable is not None else 0)
        key = hub_key(hub)
        return self.hubs.count(key) + (self.reliable.count(key) if self.reliable is not None else 0)

    @property
    def utilization(self) -> float:
        """The part of its connections that this gateway has, 0 to 1."""
        return self._clients() / self._limits.max_connections

    def _tell_unknown_roles(self, hub: str, roles: tuple[str, ...]) -> None:
        """Roles that mean nothing are ignored (client-protocols.md 2.2), but each is told once."""
        told = self._roles_told
        for role in roles:
            if role not in told and len(told) < MAX_ROLES_TOLD and not is_known_role(role):
                told.add(role)
                log.warning("role_ignored", hub=hub, role=role[:200])

    # -- what connections ask (gateway.connection.Executor) -----------------------------------------

    def registered(self, connection: Connection) -> None:
        self.opened += 1
        connection.bounds.tally.begins(connection.codec.name)
        self.keepalive.add(connection)
        self._notifications.announced(connection)

    def publish(self, connection: Connection, request: SendToGroup, done: Executed) -> None:
        self.publish_as(connection, request, None, done)

    def publish_as(
        self, connection: Connection, request: SendToGroup, publisher: str | None, done: Executed
    ) -> None:
        """Publish. With `publisher` the client may send it again with its ack id, also over another gateway:
        `done` then gets a Conflict when it was published before."""
        self.received += 1
        tally = connection.bounds.tally
        tally.published += 1
        tally.published_bytes += len(request.data)
        accepted = 0.0 if tally.published % STAMP_EVERY else time.time()
        key = group_key(connection.hub, request.group)
        message = Message(
            request.data_type, request.data, request.group, connection.user_id, request.metadata
        )
        excluded = (connection.id,) if request.no_echo else ()
        trace = ""
        if self._traces is not None and (span := self._traces.begin("publish")) is not None:
            trace, done = span.traceparent, traced(span, connection.hub, done)
        body = pack_body(message, excluded, None, request.ttl_seconds, accepted, trace)
        partition = partition_of(key)
        entry: list[Any] = [PUBLISH, partition, key, self._dispatcher.next_number(), body]
        answered: Callable[[Any, HubwireError | None], None] = lambda _answer, error: done(error)  # noqa: E731
        wanted: Callable[[], bool] | None = None
        if publisher is not None:
            entry += (publisher, request.ack_id)
            answered = partial(_published, request.ack_id, done)
            # Its client sends it again where it comes back. Sent from here too, later, it might be done
            # behind what came after that, by an owner that does not know it any more.
            wanted = lambda: not connection.over  # noqa: E731
        if trace:
            entry += (trace,) if publisher is not None else (None, None, trace)
        try:
            size = len(body) + len(key) + 16
            self._dispatcher.submit(partition, entry, answered, size=size, wanted=wanted)
        except Unavailable as error:
            done(error)

    def join(self, connection: Connection, group: str, done: Callable[[HubwireError | None], None]) -> None:
        """Also for members already: their ack waits for a confirmation that is still under way."""
        if connection.over:
            done(NotFound("The connection is closed."))
            return
        if len(connection.groups) >= connection.bounds.max_groups and group not in connection.groups:
            text = f"A connection of this hub may be in {connection.bounds.max_groups} groups at most."
            done(PermissionDenied(text))
            return
        key = group_key(connection.hub, group)
        joining = (connection, group)

        def confirmed(error: HubwireError | None) -> None:
            if error is not None:
                self._leave(connection, group)
                if connection.over:
                    error = NotFound("The connection is closed.")
            elif joining in self._joining and connection.announced and not connection.over:
                self._notifications.joined(connection, group)
            self._joining.discard(joining)
            done(error)

        if group not in connection.groups:
            self._joining.add(joining)
        try:
            for new_key in self.hubs.join(connection, group):
                self.registrar.join(new_key)
        except Unavailable as error:
            self._joining.discard(joining)
            self.hubs.leave(connection, group)  # the registrar numbered nothing
            done(error)
            return
        self.registrar.when_confirmed(key, confirmed)

    def leave(self, connection: Connection, group: str, done: Callable[[HubwireError | None], None]) -> None:
        """Effective here at once. Done when the owner knows that nobody is left here, so that whoever then
        asks whether the group exists is told the truth; while others are left, or the owner has long known,
        at once. An owner that does not answer in time changes nothing about the leaving: it is done then, and
        the owner is told when it can be."""
        self._leave(connection, group)
        self.registrar.when_left(group_key(connection.hub, group), lambda _late: done(None))

    def _leave(self, connection: Connection, group: str) -> None:
        was_told = group in connection.groups and (connection, group) not in self._joining
        self._joining.discard((connection, group))
        for key in self.hubs.leave(connection, group):
            self.registrar.leave(key)
        if was_told and connection.announced and not connection.over:
            self._notifications.left(connection, group)

    def event(self, connection: Connection, request: ClientEvent, done: Executed) -> None:
        tally = connection.bounds.tally
        tally.events += 1
        tally.events_bytes += len(request.data)
        self.events.begin(connection, request, done)

    def max_groups(self, hub: str) -> int:
        return self._bounds.of(hub).max_groups

    def events_ended(self, connection: Connection) -> None:
        self.events.ended(connection)

    def ended(self, connection: Connection, category: str, reason: str | None) -> None:
        if connection.open:
            self.closed[category] += 1
            connection.bounds.tally.ends(connection.codec.name, category)
            self._notifications.over(connection, reason)
        self.events.ended(connection)
        self.keepalive.discard(connection)
        self._forget(self.hubs.removing(connection))

    def _forget(self, keys: Iterator[str | None]) -> None:
        """A client can be in so many groups that leaving them all at once would hold up all others."""
        for number, key in enumerate(keys, 1):
            if key is not None:
                self.registrar.leave(key)
            if number == LEAVES_PER_TURN:
                self._loop.call_soon(self._forget, keys)
                return

    # -- what the bus brings -------------------------------------------------------------------------

    def _table_changed(self, table: OwnersTable) -> None:
        for partition, owner in enumerate(table.owners):
            if owner is not None:
                self.delivery.epoch_seen(partition, owner.epoch)

    def _arrived(self, _subject: str, reply: str, data: bytes) -> None:
        try:
            kind, *rest = unpack(data)[1:]
            if kind == DELIVER:
                self.delivery.envelopes(rest[1])
            elif kind == ASK:
                self.registrar.asked(rest[1])
            elif kind == COMMAND:
                self._command(reply, rest[0], rest[1])
        except (InvalidRequest, ValueError, TypeError, IndexError, KeyError) as error:
            log.warning("bus_message_refused", error=type(error).__name__)  # its text may quote a payload

    def _command(self, reply: str, operation: str, arguments: list[Any]) -> None:
        if len(self._command_tasks) >= MAX_COMMANDS:
            self._answer(reply, ["error", "unavailable", "This gateway has too much to do."])
            return
        task = asyncio.create_task(self._run_command(reply, operation, arguments))
        self._command_tasks.add(task)
        task.add_done_callback(self._command_tasks.discard)

    async def _run_command(self, reply: str, operation: str, arguments: list[Any]) -> None:
        try:
            answer = ["ok", await self.commands.run(operation, arguments)]
        except HubwireError as error:
            answer = ["error", error.code, str(error)]
        except Exception:
            log.exception("command_failed", operation=operation)
            answer = ["error", "internal", "Internal error."]
        self._answer(reply, answer)

    def _answer(self, reply: str, answer: list[Any]) -> None:
        """Answer a command, also when its result cannot be sent: who asked must not wait for nothing."""
        if not reply:
            return
        try:
            self._bus.publish(reply, pack([VERSION, *answer]))
        except Unavailable as error:
            log.warning("bus_answer_not_sent", error=str(error))
        except Exception as error:  # LimitExceeded, or nothing that msgpack knows
            log.error("bus_answer_refused", error=repr(error)[:200])
            if answer[0] == "ok":
                self._answer(reply, ["error", "internal", "The result cannot be sent."])

    async def run(self) -> None:
        """Listen on the bus until cancelled."""
        unsubscribe = await self._bus.subscribe(gateway_subject(self.name), self._arrived)
        self.registrar.announce_all()
        self.listening.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            for task in [*self._command_tasks]:
                task.cancel()
            await unsubscribe()


def traced(span: Traced, hub: str, done: Executed) -> Executed:
    """`done`, which also ends the span."""

    def ended(error: HubwireError | None) -> None:
        span.end({"hub": hub}, failed=error is not None)
        done(error)

    return ended


def _published(ack_id: int | None, done: Executed, answer: Any, error: HubwireError | None) -> None:
    if error is None and answer == DUPLICATE:
        error = Conflict(f"Message with ack-id: {ack_id} has been processed")
    done(error)
