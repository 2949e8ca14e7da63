"""Between connections and application servers: may this client connect, and what becomes of its events.

What is asked of an application server has an owner here: the tasks of clients that want in belong to their
sockets (gateway.front) and are cancelled with them; an event is a task of its own, at most one for each
connection, cancelled when its connection ends (server-events.md 3.17). Hubs without handlers and listeners
cost no task. How much may wait for one application server is bounded by `UpstreamConfig`; what is over it
fails at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

import structlog

from gateway.connection import Connection, Executed, Mode
from gateway.handshake import Admission, Refusal, mode_of, query_of
from gateway.http_head import Head
from gateway.protocol.codec import Codec
from gateway.protocol.requests import ClientEvent
from gateway.upstream.answers import ConnectRefused, Identity
from gateway.upstream.contexts import ConnectContext, EventAnswered, EventContext, EventFailed
from gateway.upstream.outcome import DeliveryFailure
from gateway.upstream.service import UpstreamService
from gateway.upstream.source import EventSource
from hubwire.model.errors import HubwireError, InternalError, NotFound
from hubwire.model.event_handlers import CONNECT, HandlerEvent
from hubwire.model.message import Message
from hubwire.model.settings import DEFAULT_HUB_SETTINGS, HubSettings
from hubwire.runtime.service import end_tasks

log = structlog.get_logger(__name__)


class Heard(Protocol):
    """`wanted`: some listener is for the event. `failure`: one that is required did not get it."""

    @property
    def wanted(self) -> bool: ...
    @property
    def failure(self) -> DeliveryFailure | None: ...


class Listeners(Protocol):
    """Event listeners, which get an event before its handler does (server-events.md 5.2)."""

    def wants(self, hub: str, event: HandlerEvent) -> bool: ...
    async def user_event(self, context: EventContext) -> Heard: ...


class Welcome(NamedTuple):
    """What a connection begins with: as its token says, but for what an event handler has changed."""

    user_id: str | None
    roles: tuple[str, ...]
    groups: tuple[str, ...]
    codec: Codec
    subprotocol: str | None
    mode: Mode
    source: EventSource | None


class ClientEvents:
    """Asks on behalf of the connections of one gateway. Without an `upstream` there are no handlers.
    `settings_of` has the settings of a hub as they are now.

    Counters are plain integers that metrics read: `connects` of clients and `events` that were asked about,
    `connects_refused`, `events_failed` and `events_unhandled` of them.
    """

    def __init__(
        self,
        upstream: UpstreamService | None,
        listeners: Listeners | None = None,
        *,
        settings_of: Callable[[str], HubSettings] = lambda _: DEFAULT_HUB_SETTINGS,
    ) -> None:
        self._upstream = upstream
        self._listeners = listeners
        self._settings_of = settings_of
        self._running: dict[Connection, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.connecting: set[asyncio.Task[object]] = set()
        """The tasks of clients that wait for the decision of an application server."""
        self.connects = 0
        self.connects_refused = 0
        self.events = 0
        self.events_failed = 0
        self.events_unhandled = 0

    async def close(self) -> None:
        """Cancel everything that is asked, and wait until it has ended."""
        await end_tasks([*self._tasks, *self.connecting])

    # -- connect (1.7 of client-protocols.md, 4.2 of server-events.md) -----------------------------------

    async def welcome(self, connection_id: str, admission: Admission, head: Head) -> Welcome | Refusal:
        """Ask the `connect` handler of the hub, if there is one. Called by the task of a socket, which is
        cancelled when the client leaves."""
        claims, upstream = admission.claims, self._upstream
        if upstream is None or not upstream.wants(admission.hub, CONNECT):
            return Welcome(
                claims.user_id,
                claims.roles,
                claims.groups,
                admission.codec,
                admission.subprotocol,
                admission.mode,
                None,
            )
        source = EventSource(admission.hub, connection_id, claims.user_id, head.headers.get("host", ""))
        task = asyncio.current_task()
        assert task is not None
        self.connecting.add(task)
        self.connects += 1
        try:
            result = await upstream.connect(
                ConnectContext(
                    source,
                    Identity(claims.user_id, claims.roles, claims.groups),
                    claims.claims,
                    head.query,
                    head.headers.items(),
                    tuple(admission.offered),
                    reliable=admission.reliable,
                )
            )
        finally:
            self.connecting.discard(task)
        if isinstance(result, ConnectRefused):
            self.connects_refused += 1
            return Refusal(result.status, "", body=result.body, content_type=result.content_type)
        codec = result.negotiated.codec
        mode = admission.mode
        if codec is not admission.codec:
            checked = mode_of(codec, query_of(head) or {})
            if isinstance(checked, Refusal):
                return checked
            mode = checked
        return Welcome(
            result.user_id, result.roles, result.groups, codec, result.negotiated.echo, mode, source
        )

    # -- user events (3.13, 3.14, 4.5, 4.6) ---------------------------------------------------------------

    def begin(self, connection: Connection, request: ClientEvent, done: Executed) -> None:
        """Have an event handled. The connection begins no other request before `done` is called, which
        keeps the order."""
        event = HandlerEvent("user", request.event)
        event_id = connection.source.next_id()  # counts also what nobody wants (3.5)
        hub = connection.hub
        wants_ack = request.ack_id is not None
        closes = connection.simple or self._settings_of(hub).close_on_event_failure
        if not (self._listeners is not None and self._listeners.wants(hub, event)) and not (
            self._upstream is not None and self._upstream.wants(hub, event)
        ):
            self._unhandled(connection, request.event, closes, wants_ack, done)
            return
        self.events += 1
        context = EventContext(
            connection.source,
            event_id,
            request.event,
            request.data_type,
            request.data,
            request.metadata,
            connection.simple,
            wants_ack,
            closes,
        )
        task = asyncio.create_task(self._run(connection, context, done))
        self._running[connection] = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def ended(self, connection: Connection) -> None:
        """The connection is over: nobody waits for the answer any more."""
        task = self._running.pop(connection, None)
        if task is not None:
            task.cancel()

    async def _run(self, connection: Connection, context: EventContext, done: Executed) -> None:
        message: Message | None = None
        failure: HubwireError | None = None
        try:
            result = await self._ask(context)
            if isinstance(result, EventAnswered):
                message = result.message
            elif isinstance(result, EventFailed):
                failure = InternalError(result.failure.reason)
        except asyncio.CancelledError:
            done(NotFound("The connection is closed."))
            raise
        except Exception:
            log.exception("event_not_handled", hub=connection.hub, connection_id=connection.id)
            result, failure = None, InternalError("Internal error.")
        # From here on nothing is awaited, and closing the connection must not cancel this task.
        self._running.pop(connection, None)
        if failure is not None:
            self.events_failed += 1
            if context.closes:
                _close(connection, "The message could not be handled.", "SendEventFailed")
        elif result is None:
            self._unhandled(connection, context.name, context.closes, context.wants_ack, done)
            return
        elif message is not None:
            connection.deliver(message, done)  # before the ack (4.5)
            return
        done(failure)

    async def _ask(self, context: EventContext) -> EventAnswered | EventFailed | None:
        """The listeners, then the handler. None when nobody wants the event."""
        heard = False
        if self._listeners is not None:
            told = await self._listeners.user_event(context)
            if told.failure is not None:
                # Nobody has handled it yet, so the client may try again with the same ack id.
                return EventFailed(told.failure)
            heard = told.wanted
        if self._upstream is not None:
            result = await self._upstream.user_event(context)
            if isinstance(result, (EventAnswered, EventFailed)):
                return result
        return EventAnswered(None) if heard else None

    def _unhandled(
        self, connection: Connection, name: str, closes: bool, wants_ack: bool, done: Executed
    ) -> None:
        """A failed ack (client-protocols.md 3.5), unless the hub has its clients closed; a simple one always
        is: it can learn of it in no other way (6.4)."""
        self.events_unhandled += 1
        if self._upstream is not None:
            self._upstream.unhandled(connection.source, name, closes=closes, wants_ack=wants_ack)
        if closes:
            _close(connection, "No event handler is there for this message.", "EventHandlerNotFound")
        done(NotFound(f"No event handler matches the event '{name}'."))


def _close(connection: Connection, why: str, category: str) -> None:
    """For a failed event (server-events.md 4.6). A PubSub client reads the reason in a `disconnected`
    message, a simple one in the close frame. A reliable session ends with it."""
    if connection.simple:
        connection.close(1011, why, category)
    else:
        connection.close_administratively(why, 1011, category, why)
