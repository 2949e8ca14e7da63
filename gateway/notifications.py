"""The port through which a connection's life is told to application servers (server-events.md 3.11 to 3.16).

Nothing here waits and nothing here fails for the client: what is told is queued by whoever implements it.
Calls for one connection come in their order: `announced` first, `over` last and exactly once for each
connection that was announced.
"""

from __future__ import annotations

from typing import Protocol

from gateway.upstream.source import EventSource


class Told(Protocol):
    """What is told of: a connection, or a reliable session, which is one connection to everybody else."""

    @property
    def id(self) -> str: ...
    @property
    def hub(self) -> str: ...
    @property
    def source(self) -> EventSource: ...


class Notifications(Protocol):
    def announced(self, connection: Told) -> None:
        """The client has got its 101 and is registered: `connected`. Its event id is the first, 1, whether
        or not `connection.source` is asked for it here."""

    def over(self, connection: Told, reason: str | None) -> None:
        """The connection has ended: `disconnected`. `reason` is what was said by who ended it: the text of a
        REST call, the client's own in its close frame, or ours; None when nothing was."""

    def joined(self, connection: Told, group: str) -> None:
        """A real change of membership after the start: `joined`, if a handler is set up for it."""

    def left(self, connection: Told, group: str) -> None:
        """`left`; not called for the groups that a connection is in when it ends."""

    async def resumed(self, connection: Told) -> None:
        """A connection that another gateway has announced is about to be this gateway's: it owes `over`, or
        `moved` if it does not get it. Returns when that is stored, so that somebody tells of its end whatever
        becomes of this gateway. Raises Unavailable; then `moved` is still to be called."""

    def moved(self, connection: Told) -> None:
        """It is another gateway's: this one owes nothing for it any more."""


class Silent:
    """Nobody is told: the gateway's default."""

    def announced(self, connection: Told) -> None: ...

    def over(self, connection: Told, reason: str | None) -> None: ...

    def joined(self, connection: Told, group: str) -> None: ...

    def left(self, connection: Told, group: str) -> None: ...

    async def resumed(self, connection: Told) -> None: ...

    def moved(self, connection: Told) -> None: ...
