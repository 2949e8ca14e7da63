"""Events as HTTP requests: CloudEvents in HTTP binary mode (server-events.md section 3). Pure.

Everything that an attempt sends is decided here, so that repeats are identical. What can never be sent
(header injection, text that is not ASCII where only ASCII goes) raises UnsendableEvent before anything is.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import parse_qsl

import msgspec

from gateway.upstream.cookies import cookie_header
from gateway.upstream.source import EventSource, SourceSnapshot
from hubwire.model.errors import HubwireError
from hubwire.model.event_handlers import (
    CONNECT,
    CONNECTED,
    DISCONNECTED,
    VALIDATE,
    HandlerEvent,
    SecretOf,
    UnusableUrl,
    resolve_url,
    shown_url,
)
from hubwire.model.message import DataType
from hubwire.model.settings import EventHandler, UpstreamAuth
from hubwire.model.tokens import claims_as_strings

Source: TypeAlias = EventSource | SourceSnapshot

METADATA_PREFIX: Final = "x-webpubsub-metadata-"
JSON: Final = "application/json"
CONTENT_TYPES: Final[dict[DataType, str]] = {  # 3.7
    DataType.TEXT: "text/plain; charset=utf-8",
    DataType.JSON: JSON,
    DataType.BINARY: "application/octet-stream",
    DataType.PROTOBUF: "application/x-protobuf",
}
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
_INTERNAL_HEADERS = "x-asrs-internal-"
_CASING = {
    "dnt": "DNT",
    "etag": "ETag",
    "te": "TE",
    "www-authenticate": "WWW-Authenticate",
    "sec-websocket-accept": "Sec-WebSocket-Accept",
    "sec-websocket-extensions": "Sec-WebSocket-Extensions",
    "sec-websocket-key": "Sec-WebSocket-Key",
    "sec-websocket-protocol": "Sec-WebSocket-Protocol",
    "sec-websocket-version": "Sec-WebSocket-Version",
    "sec-ch-ua": "Sec-CH-UA",
}


class UnsendableEvent(HubwireError):
    """The event can never be sent as it is: a failed delivery, without any attempt (3.2)."""

    code = "unsendable_event"


class Origin(NamedTuple):
    """Who the service says it is, `WebHook-Request-Origin` (2.1): a host without a port. `authority` is the
    same with the port if there is one, which some upstreams answer with."""

    host: str
    authority: str


class Stamp(NamedTuple):
    """What the moment and the service add to an event.

    `keys` are the access keys that sign, primary first. `now` is Unix time in seconds. `request_id` is a
    GUID, one for all attempts of an event.
    """

    origin: Origin
    keys: tuple[str, ...]
    now: float
    request_id: str
    secret_of: SecretOf | None = None


class EventRequest(NamedTuple):
    """One event, ready to be sent. `headers` are in the documented casing; `Host`, `Content-Length` and
    `Authorization` are added by the client. `url` holds secrets, `shown` does not; `validation_url` is the
    address of abuse protection. `blocking`: the answer matters."""

    hub: str
    connection_id: str
    event: HandlerEvent
    event_id: int
    url: str
    validation_url: str
    origin: Origin
    headers: tuple[tuple[str, str], ...]
    body: bytes
    auth: UpstreamAuth | None
    blocking: bool

    @property
    def shown(self) -> str:
        return shown_url(self.url)


@lru_cache(maxsize=1000)
def origin_of(host: str) -> Origin:
    """From a Host header or a configured public host, with or without port."""
    authority = host.strip().lower()
    if authority.startswith("["):
        return Origin(authority.partition("]")[0] + "]", authority)
    return Origin(authority.partition(":")[0], authority)


@lru_cache(maxsize=4096)
def signature(keys: tuple[str, ...], connection_id: str) -> str:
    """`ce-signature`: the connection id under each key, with one comma and no space between (3.4).

    Remembered: it is the same for all events of a connection while the keys stay.
    """
    message = connection_id.encode()
    return ",".join("sha256=" + hmac.digest(key.encode(), message, "sha256").hex() for key in keys if key)


def event_time(now: float) -> str:
    """`ce-time`: UTC in whole seconds (3.2)."""
    return _time_text(int(now))


@lru_cache(maxsize=16)
def _time_text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# -- the five kinds of events ---------------------------------------------------------------------------


def connect_request(
    source: Source,
    handler: EventHandler,
    stamp: Stamp,
    *,
    claims: Mapping[str, Any],
    query: str,
    headers: Iterable[tuple[str, str]],
    offered: Sequence[str],
    certificates: Sequence[Mapping[str, str]] = (),
) -> EventRequest:
    """The `connect` event (3.10). `query` is the raw query of the client's request, `headers` its headers
    in any casing, `claims` those of its token as parsed ({} without a token), `certificates` objects with
    `thumbprint` and `content`."""
    body = {
        "claims": claims_as_strings(claims),
        "query": _query_lists(query),
        "headers": _header_lists(headers),
        "subprotocols": list(offered),
        "clientCertificates": list(certificates),
    }
    return _build(source, handler, stamp, CONNECT, 0, JSON, _json(body), blocking=True)


def connected_request(source: Source, handler: EventHandler, stamp: Stamp, event_id: int) -> EventRequest:
    """Its body is `{}`: without one the express middleware loses the event (3.11)."""
    return _build(source, handler, stamp, CONNECTED, event_id, JSON, b"{}")


def disconnected_request(
    source: Source, handler: EventHandler, stamp: Stamp, event_id: int, reason: str | None
) -> EventRequest:
    return _build(source, handler, stamp, DISCONNECTED, event_id, JSON, _json({"reason": reason}))


def presence_request(
    source: Source,
    handler: EventHandler,
    stamp: Stamp,
    event_id: int,
    name: Literal["joined", "left"],
    group: str,
) -> EventRequest:
    """A connection joined or left a group (3.16, preview)."""
    event = HandlerEvent("gp", name, group)
    return _build(source, handler, stamp, event, event_id, JSON, _json({"group": group}))


def user_event_request(
    source: Source,
    handler: EventHandler,
    stamp: Stamp,
    event_id: int,
    name: str,
    data_type: DataType,
    data: bytes,
    metadata: Mapping[str, str] | None = None,
) -> EventRequest:
    """A client's message (3.13, 3.14). `data` is the body as it is: `DataType` has the encodings."""
    return _build(
        source,
        handler,
        stamp,
        HandlerEvent("user", name),
        event_id,
        CONTENT_TYPES[data_type],
        data,
        metadata or {},
        blocking=True,
    )


# -- what they have in common ----------------------------------------------------------------------------


def _build(
    source: Source,
    handler: EventHandler,
    stamp: Stamp,
    event: HandlerEvent,
    event_id: int,
    content_type: str,
    body: bytes,
    metadata: Mapping[str, str] | None = None,
    *,
    blocking: bool = False,
) -> EventRequest:
    try:
        url = resolve_url(handler.url_template, source.hub, event.name, stamp.secret_of)
        validation_url = resolve_url(handler.url_template, source.hub, VALIDATE, stamp.secret_of)
    except UnusableUrl as error:
        raise UnsendableEvent(str(error)) from error
    headers = [
        ("Content-Type", content_type),
        ("WebHook-Request-Origin", stamp.origin.host),
        ("ce-specversion", "1.0"),
        ("ce-awpsversion", "1.0"),
        ("ce-type", f"azure.webpubsub.{event.kind}.{event.name}"),
        ("ce-source", f"/hubs/{source.hub}/client/{source.connection_id}"),
        ("ce-id", str(event_id)),
        ("ce-time", event_time(stamp.now)),
    ]
    if any(stamp.keys):
        headers.append(("ce-signature", signature(stamp.keys, source.connection_id)))
    headers += [
        ("ce-connectionId", source.connection_id),
        ("ce-hub", source.hub),
        ("ce-eventName", event.name),
    ]
    if source.user_id:
        headers.append(("ce-userId", source.user_id))
    if event is not CONNECT:
        if source.subprotocol:
            headers.append(("ce-subprotocol", source.subprotocol))
        if source.state is not None:
            headers.append(("ce-connectionState", source.state))
    headers.append(("x-ms-client-request-id", stamp.request_id))
    if source.cookies:
        cookie = cookie_header(source.cookies, url, stamp.now)
        if cookie is not None:
            headers.append(("Cookie", cookie))
    if metadata:
        headers += _metadata_headers(metadata)
    _check_headers(headers)
    return EventRequest(
        source.hub,
        source.connection_id,
        event,
        event_id,
        url,
        validation_url,
        stamp.origin,
        tuple(headers),
        body,
        handler.auth,
        blocking,
    )


def _metadata_headers(metadata: Mapping[str, str]) -> list[tuple[str, str]]:
    """Keys in lower case; of those that differ only in case the last one counts (3.9)."""
    merged = {key.lower(): value for key, value in metadata.items()}
    for key in merged:
        if not key or not _TOKEN.issuperset(key):
            raise UnsendableEvent(f"The metadata key {key[:40]!r} cannot stand in an HTTP header.")
    return [(METADATA_PREFIX + key, value) for key, value in merged.items()]


def _check_headers(headers: Sequence[tuple[str, str]]) -> None:
    """No line breaks and other control characters anywhere; ASCII, but for the user id, which travels as
    UTF-8 (3.2). Repeating such a request would not help."""
    together = "".join([value for _, value in headers])
    if together.isascii() and together.isprintable():
        return
    for name, value in headers:
        if value.isascii():
            if value.isprintable() or value.replace("\t", " ").isprintable():
                continue
            raise UnsendableEvent(f"The value of {name} has control characters, which no header can have.")
        if name != "ce-userId":
            raise UnsendableEvent(f"The value of {name} is not ASCII, which only a user id may be.")
        if any(ord(c) < 0x20 or ord(c) == 0x7F for c in value):
            raise UnsendableEvent(f"The value of {name} has control characters, which no header can have.")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UnsendableEvent(f"The value of {name} is no text that UTF-8 can encode.") from None


def _query_lists(query: str) -> dict[str, list[str]]:
    """Without the token, under whatever casing (3.10)."""
    lists: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name.lower() != "access_token":
            lists.setdefault(name, []).append(value)
    return lists


def _header_lists(headers: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Canonical casing, without credentials and internal names (3.10)."""
    lists: dict[str, list[str]] = {}
    for name, value in headers:
        lower = name.lower()
        if lower != "authorization" and not lower.startswith(_INTERNAL_HEADERS):
            lists.setdefault(canonical_name(name), []).append(value)
    return lists


def canonical_name(name: str) -> str:
    """`sec-websocket-key` as `Sec-WebSocket-Key`, as documents and libraries spell it."""
    lower = name.lower()
    return _CASING.get(lower) or "-".join(part.capitalize() for part in lower.split("-"))


def _json(value: object) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        raise UnsendableEvent("The event has text that UTF-8 cannot encode.") from None
