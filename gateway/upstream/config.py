"""How event handlers are called: limits and times, with their defaults. One for the whole process."""

from __future__ import annotations

from typing import NamedTuple

from hubwire.model.limits import HANDLER_ANSWER_BYTES, HANDLER_RETRY_SECONDS, HANDLER_TIMEOUT_SECONDS


class ClientCredentials(NamedTuple):
    """OAuth2 client credentials against any OIDC server (server-events.md 1.5).

    The scope is the handler's `resource` and `scope_suffix`; "/.default" there is what Entra ID wants.
    `in_body` sends the client's id and secret as form fields instead of in an Authorization header.
    """

    token_url: str
    client_id: str
    client_secret: str
    scope_suffix: str = ""
    in_body: bool = False

    def __repr__(self) -> str:
        return f"ClientCredentials(token_url={self.token_url!r}, client_id={self.client_id!r}, ...)"


class TokenFile(NamedTuple):
    """A token that somebody else renews: a projected service account token of Kubernetes (1.5). `{resource}`
    in the path stands for the handler's resource, percent-encoded."""

    path: str


class UpstreamConfig(NamedTuple):
    """Times are in seconds, sizes in bytes.

    `public_host`: what `WebHook-Request-Origin` says, the host of the endpoint in the connection strings
    that applications use; empty: the host that the client connected to (2.1).

    `allow_private`: whether handlers may be at private and loopback addresses; `allow` and `deny` are
    networks (CIDR) that are always, or never, called; deny wins (4.10). A cluster leaves private addresses
    out unless told otherwise, `hubwire up` allows them.

    Per hub and upstream (scheme, host, port): `connections` requests at a time, and at most `pending`
    events or `pending_bytes` of them that are not answered yet; more are refused at once. The same again for
    `connect`, with `connect_connections`, so that slow events let clients in. `large_answers`
    of them may hold an answer of more than a mebibyte at a time, the others are not read on.

    The circuit of an upstream opens after `breaker_failures` deliveries in a row got no answer, for
    `breaker_seconds`, doubling up to `breaker_max_seconds`; then one event at a time tries it.

    `idle_seconds` is less than the five seconds after which Node closes idle connections.
    """

    public_host: str = ""
    event_seconds: float = HANDLER_TIMEOUT_SECONDS
    connect_seconds: float = 10.0
    retry_seconds: tuple[float, ...] = HANDLER_RETRY_SECONDS
    validation_seconds: float = 10.0
    answer_bytes: int = HANDLER_ANSWER_BYTES
    allow_private: bool = False
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    connections: int = 64
    connect_connections: int = 32
    pending: int = 2000
    pending_bytes: int = 32 * 1024 * 1024
    large_answers: int = 2
    breaker_failures: int = 5
    breaker_seconds: float = 5.0
    breaker_max_seconds: float = 30.0
    idle_seconds: float = 4.0
    ca_file: str = ""
    identity: ClientCredentials | TokenFile | None = None
    failures_kept: int = 200
