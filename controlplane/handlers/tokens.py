"""An access token for a client (rest-api.md section 9). Answered to key-signed callers as well."""

from __future__ import annotations

import msgspec
from aiohttp import web

from controlplane.call import Call, Handler
from controlplane.endpoints import endpoint_of
from controlplane.operations import TOKEN_QUERY
from controlplane.paths import decode_segment
from controlplane.problems import INVALID_GROUP, JSON, invalid, invalid_value
from hubwire.model.audiences import ClientType
from hubwire.model.limits import MAX_USER_ID_CHARACTERS
from hubwire.model.names import is_valid_group
from hubwire.model.tokens import sign_client_token

DEFAULT_MINUTES = 60
_MINUTES = next(parameter for parameter in TOKEN_QUERY if parameter.name == "minutesToExpire")
_CLIENT_TYPES: dict[str, ClientType] = {"default": "default", "mqtt": "mqtt"}


async def generate(call: Call) -> web.Response:
    """The audience names the hub as the caller wrote it, and the endpoint as the caller sees it."""
    call.hub()
    config = call.services.config
    minutes = call.query.integer(_MINUTES)
    longest = config.max_minutes_to_expire
    if minutes is not None and longest is not None and minutes > longest:
        raise invalid_value("minutesToExpire", str(minutes))
    groups = call.query.all("group")
    if not all(map(is_valid_group, groups)):
        raise invalid("group", INVALID_GROUP)
    asked_type = call.query.one("clientType") or "default"
    client_type = _CLIENT_TYPES.get(asked_type.lower())
    if client_type is None:
        raise invalid_value("clientType", asked_type)
    user_id = call.query.one("userId")
    if user_id is not None and len(user_id) > MAX_USER_ID_CHARACTERS:
        text = f"The user id is limited to {MAX_USER_ID_CHARACTERS} characters."
        raise invalid("userId", text)
    keys = call.services.settings.keys
    life = DEFAULT_MINUTES if minutes is None else minutes
    token = sign_client_token(
        # With a secret of its own, so that "Salt" can be regenerated without the access keys.
        keys.salt or keys.primary,
        endpoint=endpoint_of(call.request, config.public_endpoints),
        hub=decode_segment(call.raw["hub"], "hub"),
        user_id=user_id,
        roles=call.query.all("role"),
        groups=groups,
        minutes=min(life, longest or life),
        now=call.services.clock(),
        client_type=client_type,
    )
    return web.Response(body=msgspec.json.encode({"token": token}), headers={"Content-Type": JSON})


HANDLERS: dict[str, Handler] = {"GenerateClientToken": generate}
