"""What a request for a client endpoint leads to: the checks of client-protocols.md 1.4, in order. Pure."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from gateway.connection import SEND_EVENT, Mode
from gateway.http_head import Head
from gateway.protocol.codec import Codec
from gateway.protocol.negotiate import echo_of_recovery, negotiate
from hubwire.model.errors import InvalidRequest, Unauthenticated
from hubwire.model.names import gateway_of, is_valid_group, normalize_hub
from hubwire.model.reconnection import check_reconnection_token
from hubwire.model.settings import HubSettings
from hubwire.model.tokens import AudiencePolicy, ClientClaims, verify_client_token

MAX_QUERY_FIELDS = 1000


class Refusal(NamedTuple):
    """An answer without an upgrade. Clients never parse the text; people do (1.5). `body`, if given, is sent
    instead of the text, with its content type."""

    status: int
    text: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    content_type: str | None = None


class RefusedRecovery(NamedTuple):
    """101, then close 1008 (4.5): no session here can be recovered, and clients must stop trying."""

    key: str
    subprotocol: str | None


class RecoveryRequest(NamedTuple):
    """A client that shows the token of this very connection wants it back. Whether there still is such a
    session, here or elsewhere, its holder knows; no claims and no event handler are asked (4.5)."""

    hub: str
    connection_id: str
    key: str
    offered: list[str]

    def echo(self, codec: Codec) -> str | None:
        """What the 101 confirms, when the session goes on in its own subprotocol."""
        return echo_of_recovery(self.offered, codec.name)

    def refused(self) -> RefusedRecovery:
        """For a session that is over, or never was."""
        return RefusedRecovery(self.key, echo_of_recovery(self.offered))


class Admission(NamedTuple):
    """All checks that need no bus are passed. `codec`, `subprotocol` and `mode` are so unless an event
    handler says otherwise; `reliable` says whether it may choose a reliable subprotocol."""

    hub: str
    claims: ClientClaims
    codec: Codec
    subprotocol: str | None
    mode: Mode
    key: str
    offered: list[str]
    reliable: bool = False


ANONYMOUS = ClientClaims(None, (), (), {})


def is_client_path(path: str) -> bool:
    """Whether a path belongs to the client endpoints, so that the gateway answers it and nobody else."""
    return path == "/client" or path.startswith(("/client/", "/clients/"))


def check_endpoint(head: Head) -> Refusal | tuple[str, dict[str, str], str]:
    """Steps 1 to 3: the path, the upgrade, the hub. Returns hub, query and WebSocket key."""
    path = head.path
    query = query_of(head)
    if path in ("/client", "/client/", "/client/hubs", "/client/hubs/"):
        raw_hub = query.get("hub", "") if query is not None else ""
    elif path.startswith("/client/hubs/") and "/" not in path[len("/client/hubs/") :].rstrip("/"):
        raw_hub = unquote(path[len("/client/hubs/") :].rstrip("/"))
    else:
        return Refusal(404, f"There is no client endpoint at {path}. Connect to /client/hubs/HUB.")
    key = head.headers.get("sec-websocket-key", "")
    problem = _upgrade_problem(head, key)
    if problem:
        return Refusal(400, problem, (("Sec-WebSocket-Version", "13"),))
    if query is None:
        return Refusal(400, f"The query has more than {MAX_QUERY_FIELDS} parameters.")
    try:
        hub = normalize_hub(raw_hub)
    except InvalidRequest as error:
        return Refusal(400, str(error))
    return hub, query, key


def check(
    head: Head,
    *,
    settings_of: Callable[[str], HubSettings],
    keys: Sequence[str],
    audiences: AudiencePolicy,
    now: float,
    reconnection_keys: Sequence[str] = (),
) -> Refusal | RefusedRecovery | RecoveryRequest | Admission:
    """Steps 1 to 8. `now` is Unix time in seconds; `audiences` are the configured endpoints, to which
    the host of the request itself is added. Without `reconnection_keys` this gateway serves no reliable
    subprotocols: it offers none, and nothing can be recovered."""
    endpoint = check_endpoint(head)
    if isinstance(endpoint, Refusal):
        return endpoint
    hub, query, key = endpoint
    offered = head.tokens("sec-websocket-protocol")
    if query.get("awps_connection_id"):
        return _check_recovery(hub, query, key, offered, reconnection_keys, now)
    reliable = bool(reconnection_keys)
    negotiated = negotiate(offered, reliable=reliable)
    token = query.get("access_token") or _bearer(head)
    if not token:
        if settings_of(hub).anonymous_connect_policy != "allow":
            return Refusal(
                401,
                "No access token. Give one in the query (access_token) or in an Authorization header, or "
                f"allow anonymous clients in the settings of hub '{hub}'.",
            )
        claims = ANONYMOUS
    else:
        try:
            claims = verify_client_token(
                token, keys=keys, hub=hub, audiences=audiences.with_host(head.headers.get("host")), now=now
            )
        except Unauthenticated as error:
            return Refusal(401, str(error))
        except InvalidRequest as error:
            return Refusal(400, str(error))
    mode = mode_of(negotiated.codec, query)
    if isinstance(mode, Refusal):
        return mode
    return Admission(hub, claims, negotiated.codec, negotiated.echo, mode, key, offered, reliable)


def _check_recovery(
    hub: str, query: dict[str, str], key: str, offered: list[str], keys: Sequence[str], now: float
) -> RefusedRecovery | RecoveryRequest:
    """What 4.5 asks of the request alone. The access token, which is usually still there, may have expired
    and is not looked at."""
    request = RecoveryRequest(hub, query["awps_connection_id"], key, offered)
    token = query.get("awps_reconnection_token", "")
    if gateway_of(request.connection_id) is None:
        return request.refused()
    try:
        check_reconnection_token(token, keys=keys, connection_id=request.connection_id, hub=hub, now=now)
    except Unauthenticated:
        return request.refused()
    return request


def _upgrade_problem(head: Head, key: str) -> str:
    if head.method != "GET" or head.version != "HTTP/1.1":
        return "This is a WebSocket endpoint: only GET with an upgrade is served."
    if "upgrade" not in [token.lower() for token in head.tokens("connection")] or "websocket" not in [
        token.lower() for token in head.tokens("upgrade")
    ]:
        return "This is a WebSocket endpoint: the request asks for no upgrade to websocket."
    if head.headers.get("sec-websocket-version") != "13":
        return "Only WebSocket version 13 is served (RFC 6455)."
    if head.headers.get("content-length", "0") != "0" or "transfer-encoding" in head.headers:
        return "A WebSocket handshake has no body."
    try:
        if len(b64decode(key, validate=True)) == 16:
            return ""
    except (binascii.Error, ValueError):
        pass
    return "The header Sec-WebSocket-Key must be 16 bytes in base64."


def query_of(head: Head) -> dict[str, str] | None:
    """By lower-case name (1.1); of a repeated parameter the last one wins (6.3). None for too many."""
    try:
        fields = parse_qsl(head.query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        return None
    return {name.lower(): value for name, value in fields}


def _bearer(head: Head) -> str:
    scheme, _, token = head.headers.get("authorization", "").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def mode_of(codec: Codec, query: dict[str, str]) -> Mode | Refusal:
    """What frames mean by the query (6.3): only for simple clients is it looked at."""
    if codec.name:
        return SEND_EVENT
    mode = query.get("webpubsub_mode", "").lower()
    if mode in ("", "sendevent"):
        return SEND_EVENT
    if mode != "sendtogroup":
        return Refusal(400, "webpubsub_mode must be sendEvent or sendToGroup.")
    group = query.get("group", "")
    if not is_valid_group(group):
        return Refusal(400, "webpubsub_mode=sendToGroup needs a group of 1 to 1024 characters.")
    no_echo = query.get("noecho", "false").lower()
    if no_echo not in ("true", "false"):
        return Refusal(400, "noEcho must be true or false.")
    return Mode(group, no_echo == "true")
