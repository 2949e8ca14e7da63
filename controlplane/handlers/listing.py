"""The members of a group, page by page (rest-api.md section 8).

The listing is live: pages follow the order of connection ids, so a connection that is a member all the
time is listed exactly once, whoever comes and goes meanwhile.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from urllib.parse import quote

import msgspec
from aiohttp import web

from controlplane.call import Call, Handler
from controlplane.endpoints import endpoint_of
from controlplane.operations import PAGE_QUERY
from controlplane.problems import JSON, invalid_value
from controlplane.query import MAX_TOKEN_CHARACTERS
from hubwire.model.settings import AccessKeys

DEFAULT_PAGE = 200
_MAXPAGESIZE, _TOP, _ = PAGE_QUERY
_MAC_BYTES = 12


async def list_members(call: Call) -> web.Response:
    hub, group = call.hub(), call.group()
    asked_page = call.query.integer(_MAXPAGESIZE)
    top = call.query.integer(_TOP)
    keys = call.services.settings.keys
    after = _read_token(call, keys, hub, group)
    size = min(asked_page or DEFAULT_PAGE, top if top is not None else DEFAULT_PAGE)
    members = await call.cluster.list_group(hub, group, after=after, limit=size + 1)
    page = members[:size]
    rest = None if top is None else top - len(page)
    body: dict[str, object] = {
        "value": [{"connectionId": m.connection_id, "userId": m.user_id} for m in page]
    }
    if len(members) > size and rest != 0:
        token = _make_token(keys, hub, group, page[-1].connection_id)
        body["nextLink"] = _next_link(call, rest, asked_page, token)
    return web.Response(body=msgspec.json.encode(body), headers={"Content-Type": JSON})


def _next_link(call: Call, top: int | None, page: int | None, token: str) -> str:
    """Absolute, on the same path, parameters in the service's order, absent ones left out."""
    parameters = (
        ("top", top),
        ("maxpagesize", page),
        ("continuationToken", token),
        ("api-version", call.query.one("api-version")),
    )
    query = "&".join(f"{name}={quote(str(value))}" for name, value in parameters if value is not None)
    return f"{endpoint_of(call.request, call.services.config.public_endpoints)}{call.target.path}?{query}"


def _make_token(keys: AccessKeys, hub: str, group: str, after: str) -> str:
    """The last connection id of the page, sealed: letters, digits, `-` and `_` only, whatever clients do to
    it on the way back (Python leaves slashes bare)."""
    return _encode(_mac(keys, hub, group, after) + after.encode())


def _read_token(call: Call, keys: AccessKeys, hub: str, group: str) -> str:
    """The id to go on after; empty for the first page. Raises Problem (400) for what we did not make."""
    text = call.query.one("continuationToken")
    if text is None:
        return ""
    if 0 < len(text) <= MAX_TOKEN_CHARACTERS and text.isascii():
        try:
            sealed = urlsafe_b64decode(text + "=" * (-len(text) % 4))
            after = sealed[_MAC_BYTES:].decode()
        except ValueError:
            after = ""
        if after and _encode(sealed) == text:
            for known in {keys.primary, keys.secondary}:
                mac = _mac(AccessKeys(known, ""), hub, group, after)
                if hmac.compare_digest(mac, sealed[:_MAC_BYTES]):
                    return after
    raise invalid_value("continuationToken", text[:200])


def _mac(keys: AccessKeys, hub: str, group: str, after: str) -> bytes:
    message = msgspec.json.encode(["hubwire-continuation", hub, group, after])
    return hmac.digest(keys.primary.encode(), message, "sha256")[:_MAC_BYTES]


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


HANDLERS: dict[str, Handler] = {"ListConnectionsInGroup": list_members}
