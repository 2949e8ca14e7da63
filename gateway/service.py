"""The gateway: admits clients, executes what they ask, delivers what routers send.

Between the pure parts (session, hub, membership, codecs) and the bus. It calls nothing back up the path
of a message (style 3.3): a publish goes to the owner of its partition, also for members that are here.
"""

from __future__ import annotations

import asyncio
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
from gateway.door import Door
from gateway.events import ClientEvents, Listeners
from gateway.flusher import Flusher
from gateway.hub import LocalHubs
from gateway.keepalive import KeepAlive
from gateway.notifications import Notifications, Silent
from gateway.protocol.requests import ClientEvent, SendToGroup
from gateway.registrar import Registrar
from gateway.reliable.leftovers import LET_GO
from gateway.reliable.service import Durability, ReliableSessions
from gateway.settings import GatewayLimits
from gateway.tally import STAMP_EVERY, HubTally
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
from hubwire.bus.keys import group_key, partition_of
from hubwire.bus.owners import OwnersTable, OwnersView
from hubwire.bus.settings import SettingsStore
from hubwire.bus.subjects import gateway_subject, peer_subject
from hubwire.model.errors import (
    Conflict,
    HubwireError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from hubwire.model.message import Message
from hubwire.model.tokens import AudiencePolicy
from hubwire.runtime.meters import PerHub
from hubwire.runtime.traces import OFF, Traced, Traces

log = structlog.get_logger(__name__)

MAX_COMMANDS = 1000
LEAVES_PER_TURN = 200


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
        self._flusher = Flusher(loop)
        self.events = ClientEvents(upstream, listeners, settings_of=settings.hub)
        self._notifications = notifications or Silent()
        self._joining: set[tuple[Connection, str]] = set()  # joins that are not confirmed, so not told yet
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
        self.door = Door(
            name,
            settings,
            self._bounds,
            self.events,
            self.hubs,
            self.registrar,
            self.reliable,
            self,
            self._flusher,
            limits,
            AudiencePolicy.of(public_endpoints),
        )
        self.commands = Commands(self.hubs, self.delivery, self.join, self.leave, self.reliable)
        if self.reliable is not None:
            self.commands.add(self.reliable.table)
        if upstream is not None:
            self.commands.add(UpstreamCommands(upstream).table)
        self._command_tasks: set[asyncio.Task[None]] = set()
        self.listening = asyncio.Event()
        self.opened = 0
        self.closed: Counter[str] = Counter()
        self.received = 0
        owners.on_change(self._table_changed)

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

    def _asked_by_peer(self, _subject: str, reply: str, data: bytes) -> None:
        """From another gateway, which may ask for this alone."""
        try:
            kind, operation, arguments = unpack(data)[1:]
        except (InvalidRequest, ValueError, TypeError, KeyError):
            kind = operation = arguments = None
        if kind == COMMAND and operation == LET_GO:
            self._command(reply, operation, arguments)
        else:
            log.warning("bus_message_refused", error="NotForPeers")

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
        heard = (gateway_subject(self.name), self._arrived), (peer_subject(self.name), self._asked_by_peer)
        unsubscribes = [await self._bus.subscribe(subject, call) for subject, call in heard]
        self.registrar.announce_all()
        self.listening.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            for task in [*self._command_tasks]:
                task.cancel()
            for unsubscribe in unsubscribes:
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
