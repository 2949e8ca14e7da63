"""Sending to a hub, a group, a user or a connection (rest-api.md section 6)."""

from __future__ import annotations

from aiohttp import web

from controlplane.call import Call, Handler, done
from controlplane.content import parse_content_type, read_body, read_metadata, to_message_data
from controlplane.handlers.filters import filter_from_query
from controlplane.operations import TTL
from controlplane.ports import Target
from hubwire.model.message import Message


async def _send(call: Call, target: Target, *, excluded: bool, filtered: bool) -> web.Response:
    """202 once the cluster has accepted the message. Nothing that can fail comes after that: a client
    would repeat the send (rest-api.md 3.4)."""
    hub = call.hub()
    ttl_seconds = call.query.integer(TTL) or 0
    text = filter_from_query(call) if filtered else None
    left_out = call.query.all("excluded") if excluded else []
    content_type = parse_content_type(call.request.headers.get("Content-Type"))
    metadata = read_metadata(call.request)
    limit = call.services.config.max_body_bytes
    own = call.services.settings.limits(hub).max_message_bytes
    if own is not None:
        limit = min(limit, own)
    data = to_message_data(content_type, await read_body(call.request, limit), limit)
    call.services.paces.admit(hub, call.services.settings.limits(hub).hub_messages_per_second_per_gateway)
    group = target.name if target.kind == "group" else None
    await call.cluster.publish(
        hub,
        target,
        Message(content_type.data_type, data, group=group, metadata=metadata),
        excluded=left_out,
        filter=text,
        ttl_seconds=ttl_seconds,
    )
    return done(202)


async def send_to_all(call: Call) -> web.Response:
    return await _send(call, Target("hub"), excluded=True, filtered=True)


async def send_to_group(call: Call) -> web.Response:
    call.hub()
    return await _send(call, Target("group", call.group()), excluded=True, filtered=True)


async def send_to_user(call: Call) -> web.Response:
    return await _send(call, Target("user", call.user_id()), excluded=False, filtered=True)


async def send_to_connection(call: Call) -> web.Response:
    return await _send(call, Target("connection", call.connection_id()), excluded=False, filtered=False)


HANDLERS: dict[str, Handler] = {
    "SendToAll": send_to_all,
    "SendToGroup": send_to_group,
    "SendToUser": send_to_user,
    "SendToConnection": send_to_connection,
}
