"""Who is told of what happens to connections: the event handler, and the listeners, of a hub."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

from gateway.upstream.contexts import NotificationContext, NotificationResult
from gateway.upstream.service import UpstreamService
from hubwire.model.event_handlers import HandlerEvent, choose_handler
from hubwire.model.settings import HubSettings

HANDLER = ""
"""The name of the handler among those who are told. A listener's is that of its endpoint."""


class ListenersTold(Protocol):
    """Event listeners as far as they are told of connections (gateway.upstream.listeners)."""

    def endpoints(self, hub: str, event: HandlerEvent) -> tuple[str, ...]: ...
    async def notify(self, context: NotificationContext) -> NotificationResult: ...


class Audience:
    """The handlers and listeners of all hubs, as the settings are at each call."""

    def __init__(
        self,
        upstream: UpstreamService,
        settings_of: Callable[[str], HubSettings],
        listeners: ListenersTold | None = None,
    ) -> None:
        self._upstream = upstream
        self._settings_of = settings_of
        self._listeners = listeners

    def of(self, hub: str, event: HandlerEvent) -> tuple[str, ...]:
        """Everybody who wants to be told. Each gets a copy of its own, since one who is away must delay
        nobody else."""
        handler = (HANDLER,) if self._upstream.wants(hub, event) else ()
        return handler if self._listeners is None else handler + self._listeners.endpoints(hub, event)

    def turns_of(self, hub: str, event: HandlerEvent, listener: str) -> Hashable:
        """Whose turns a copy uses up: those of one upstream, or of one broker's endpoint."""
        if listener:
            return listener
        handler = choose_handler(self._settings_of(hub), event)
        return (hub, handler.url_template) if handler is not None else None

    async def notify(self, context: NotificationContext) -> NotificationResult:
        """One attempt, which logs its failure."""
        if context.listener and self._listeners is not None:
            return await self._listeners.notify(context)
        return await self._upstream.notify(context)


def lane_of(connection_id: str, listener: str) -> str:
    """Copies for one of them are in order; copies for different ones do not wait for each other."""
    return f"{connection_id} {listener}" if listener else connection_id
