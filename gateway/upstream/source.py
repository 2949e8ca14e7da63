"""What event handlers know of one logical connection: who it is, its events counted, state, cookies. Pure.

It belongs to the logical connection, not to the socket: a reliable client that recovers keeps it
(server-events.md 3.5), so it can be taken to another gateway as a `SourceSnapshot`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.upstream.cookies import Cookie, store


class SourceSnapshot(msgspec.Struct, frozen=True, array_like=True):
    """An `EventSource` at one moment; can be packed with msgspec. Fields as there."""

    hub: str
    connection_id: str
    user_id: str | None = None
    subprotocol: str | None = None
    host: str = ""
    events: int = 0
    state: str | None = None
    cookies: tuple[Cookie, ...] = ()


class EventSource:
    """The source of the events of one connection, as in `ce-source`.

    `hub` is in lower case. `host` is the Host header that the client sent, the default for
    `WebHook-Request-Origin` (2.1). `subprotocol` is what the handshake ended with; None before, and for
    clients without one. `state` is the `ce-connectionState`: None until a handler sets it (3.6).
    """

    __slots__ = (
        "connection_id",
        "cookies",
        "events",
        "host",
        "hub",
        "state",
        "subprotocol",
        "user_id",
    )

    def __init__(self, hub: str, connection_id: str, user_id: str | None = None, host: str = "") -> None:
        self.hub = hub
        self.connection_id = connection_id
        self.user_id = user_id
        self.host = host
        self.subprotocol: str | None = None
        self.events = 0
        self.state: str | None = None
        self.cookies: tuple[Cookie, ...] = ()

    def next_id(self) -> int:
        """The `ce-id` of the next event. Ask once for every event, whether anybody wants it or not; the
        `connect` event is 0 and does not ask (3.5)."""
        self.events += 1
        return self.events

    def store_cookies(self, url: str, set_cookie: Iterable[str], now: float) -> None:
        """After a successful answer of a handler (3.8). `now` is Unix time in seconds."""
        self.cookies = store(self.cookies, url, set_cookie, now)

    def snapshot(self) -> SourceSnapshot:
        return SourceSnapshot(
            self.hub,
            self.connection_id,
            self.user_id,
            self.subprotocol,
            self.host,
            self.events,
            self.state,
            self.cookies,
        )

    @classmethod
    def restored(cls, snapshot: SourceSnapshot) -> EventSource:
        source = cls(snapshot.hub, snapshot.connection_id, snapshot.user_id, snapshot.host)
        source.subprotocol = snapshot.subprotocol
        source.events = snapshot.events
        source.state = snapshot.state
        source.cookies = snapshot.cookies
        return source
