"""Tells event listeners of connections, beside who tells their event handlers (server-events.md 5.2)."""

from __future__ import annotations

from gateway.notifications import Notifications, Told
from gateway.upstream.listeners import Listeners
from gateway.upstream.service import UpstreamService
from hubwire.model.event_handlers import CONNECTED, DISCONNECTED


class HeardByListeners:
    """Passes everything on to `handlers`, then gives listeners their copy with the same event id.

    Best effort, as in Azure: when a gateway is killed, nobody tells the listeners of the end of its
    connections. `joined` and `left` are not for listeners.
    """

    def __init__(self, listeners: Listeners, upstream: UpstreamService, handlers: Notifications) -> None:
        self._listeners = listeners
        self._upstream = upstream
        self._handlers = handlers

    def announced(self, connection: Told) -> None:
        self._handlers.announced(connection)
        if self._listeners.wants(connection.hub, CONNECTED):
            # The id of `connected` is 1 whether or not the source was asked for it.
            self._listeners.notification(self._upstream.notification(connection.source, CONNECTED, 1))

    def over(self, connection: Told, reason: str | None) -> None:
        handled = self._upstream.wants(connection.hub, DISCONNECTED)
        self._handlers.over(connection, reason)
        if self._listeners.wants(connection.hub, DISCONNECTED):
            source = connection.source
            number = source.events if handled else source.next_id()
            self._listeners.notification(self._upstream.notification(source, DISCONNECTED, number, reason))

    def joined(self, connection: Told, group: str) -> None:
        self._handlers.joined(connection, group)

    def left(self, connection: Told, group: str) -> None:
        self._handlers.left(connection, group)

    async def resumed(self, connection: Told) -> None:
        await self._handlers.resumed(connection)

    def moved(self, connection: Told) -> None:
        self._handlers.moved(connection)
