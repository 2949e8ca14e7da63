"""The access keys over the management API (management-api.md 2.3)."""

from __future__ import annotations

import msgspec
from aiohttp import web

from controlplane.call import Services
from controlplane.content import read_body
from controlplane.management.errors import bad_content, json_response
from hubwire.model.errors import InvalidRequest
from hubwire.model.settings import AccessKeys


def keys_body(keys: AccessKeys, endpoint: str) -> dict[str, str]:
    """A port stands inside Endpoint: some clients ignore the Port of a connection string (7.3)."""
    return {
        "primaryKey": keys.primary,
        "secondaryKey": keys.secondary,
        "primaryConnectionString": f"Endpoint={endpoint};AccessKey={keys.primary};Version=1.0;",
        "secondaryConnectionString": f"Endpoint={endpoint};AccessKey={keys.secondary};Version=1.0;",
    }


async def list_keys(services: Services, endpoint: str) -> web.Response:
    return json_response(keys_body(services.settings.keys, endpoint))


async def regenerate_key(services: Services, endpoint: str, request: web.Request) -> web.Response:
    """Answered with 200 and the keys, in force at once: with Azure's 202 the Python client would fetch the
    keys a second time from elsewhere (2.3)."""
    body = await read_body(request, services.config.max_body_bytes)
    try:
        content = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise bad_content("The request content is not valid JSON.") from None
    key_type = content.get("keyType") if isinstance(content, dict) else None
    if not isinstance(key_type, str):
        raise bad_content("The property 'keyType' is needed: Primary, Secondary or Salt.", "keyType")
    try:
        keys = await services.settings.regenerate(key_type)
    except InvalidRequest as error:
        raise bad_content(str(error), error.target) from None
    return json_response(keys_body(keys, endpoint))
