"""Who is in which group: one connection, the connections of a user, all that a filter holds for."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from controlplane.call import Call, Handler, done, not_existed
from controlplane.content import parse_content_type, read_body, to_message_data, unsupported
from controlplane.handlers.filters import checked_filter
from controlplane.problems import INVALID_GROUP, Problem, invalid
from hubwire.model.message import DataType
from hubwire.model.names import is_valid_group


async def add_connection(call: Call) -> web.Response:
    hub, group, connection_id = call.hub(), call.group(), call.connection_id()
    if not await call.cluster.add_connection_to_group(hub, group, connection_id):
        raise not_existed("Error.Connection.NotExisted", "Connection", connection_id)
    return done(200)


async def remove_connection(call: Call) -> web.Response:
    await call.cluster.remove_connection_from_group(call.hub(), call.group(), call.connection_id())
    return done(204)


async def remove_connection_from_all(call: Call) -> web.Response:
    await call.cluster.remove_connection_from_all_groups(call.hub(), call.connection_id())
    return done(204)


async def add_user(call: Call) -> web.Response:
    """Joins the connections that the user has now; later ones don't join (rest-api.md section 5)."""
    hub, group, user_id = call.hub(), call.group(), call.user_id()
    if not await call.cluster.add_user_to_group(hub, group, user_id):
        raise not_existed("Warning.User.NotExisted", "User", user_id)
    return done(200)


async def remove_user(call: Call) -> web.Response:
    await call.cluster.remove_user_from_group(call.hub(), call.group(), call.user_id())
    return done(204)


async def remove_user_from_all(call: Call) -> web.Response:
    await call.cluster.remove_user_from_all_groups(call.hub(), call.user_id())
    return done(204)


async def add_to_groups(call: Call) -> web.Response:
    hub = call.hub()
    groups, text = await _groups_and_filter(call)
    await call.cluster.add_to_groups(hub, groups, text)
    return done(200)


async def remove_from_groups(call: Call) -> web.Response:
    hub = call.hub()
    groups, text = await _groups_and_filter(call)
    await call.cluster.remove_from_groups(hub, groups, text)
    return done(200)


async def _groups_and_filter(call: Call) -> tuple[list[str], str | None]:
    """The body {"groups": [...], "filter"?: ...}, property names in any case. Raises Problem (400, 413, 415).

    The answers for a bad filter are recorded, the other ones are in their form (rest-api.md 3.2, 3.3).
    """
    content_type = parse_content_type(call.request.headers.get("Content-Type"))
    if call.request.headers.get("Content-Type") is None or content_type.data_type is not DataType.JSON:
        # Without a body at all nothing says what type it should have had.
        if not call.request.can_read_body:
            raise _invalid_groups()
        raise unsupported("The content type must be application/json.")
    limit = call.services.config.max_body_bytes
    data = await read_body(call.request, limit)
    if not data.strip():
        raise _invalid_groups()
    try:
        data = to_message_data(content_type, data, limit)
    except Problem as problem:
        if problem.status != 400:
            raise
        raise invalid("Request", problem.message, shape="problem+json") from None
    body: Any = msgspec.json.decode(data)
    if not isinstance(body, dict):
        raise _invalid_groups()
    properties = {name.lower(): value for name, value in body.items()}
    groups = properties.get("groups")
    if not isinstance(groups, list) or not groups:
        raise _invalid_groups()
    for group in groups:
        if not isinstance(group, str) or not is_valid_group(group) or not _is_text(group):
            raise invalid("Groups", INVALID_GROUP, shape="problem+json")
    text = properties.get("filter")
    if text is not None and not isinstance(text, str):
        raise invalid("Filter", "The filter must be a string or null.", shape="problem+json")
    return list(dict.fromkeys(groups)), checked_filter(text, "Filter")


def _is_text(text: str) -> bool:
    """Half a surrogate pair, which a JSON escape can bring in, is no text that could travel on."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _invalid_groups() -> Problem:
    return invalid("Groups", "The Groups field is required.", shape="problem+json")


HANDLERS: dict[str, Handler] = {
    "AddConnectionToGroup": add_connection,
    "RemoveConnectionFromGroup": remove_connection,
    "RemoveConnectionFromAllGroups": remove_connection_from_all,
    "AddUserToGroup": add_user,
    "RemoveUserFromGroup": remove_user,
    "RemoveUserFromAllGroups": remove_user_from_all,
    "AddConnectionsToGroups": add_to_groups,
    "RemoveConnectionsFromGroups": remove_from_groups,
}
