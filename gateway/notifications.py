"""The port through which a connection's life is told to application servers (server-events.md 3.11 to 3.16).

Nothing here waits and nothing here fails for the client: what is told is queued by whoever implements it.
Calls for one connection come in their order: `announced` first, `over` last and exactly once for each
connection that was announced.
"""

from __future__ import annotations

from typing import Protocol

from gateway.connection import Connection


class Notifications(Protocol):
    def announced(self, connection: Connection) -> None:
        """The client has got its 101 and is registered: `connected`. Its event id is the first, 1, whether
        or not `connection.source` is asked for it here."""

    def over(self, connection: Connection, reason: str | None) -> None:
        """The connection has ended: `disconnected`. `reason` is what was said by who ended it: the text of a
        REST call, the client's own in its close frame, or ours; None when nothing was."""

    def joined(self, connection: Connection, group: str) -> None:
        """A real change of membership after the start: `joined`, if a handler is set up for it."""

    def left(self, connection: Connection, group: str) -> None:
        """`left`; not called for the groups that a connection is in when it ends."""


class Silent:
    """Nobody is told: the gateway's default."""

    def announced(self, connection: Connection) -> None: ...

    def over(self, connection: Connection, reason: str | None) -> None: ...

    def joined(self, connection: Connection, group: str) -> None: ...

    def left(self, connection: Connection, group: str) -> None: ...
