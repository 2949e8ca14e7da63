"""Closing connections: all of a hub, of a group, of a user, or one (rest-api.md section 10)."""

from __future__ import annotations

from aiohttp import web

from controlplane.call import Call, Handler, done
from controlplane.ports import Target


async def _close(call: Call, target: Target, *, excluded: bool = True) -> web.Response:
    hub = call.hub()
    left_out = call.query.all("excluded") if excluded else []
    reason = call.query.one("reason") or None
    await call.cluster.close(hub, target, excluded=left_out, reason=reason)
    return done(204)


async def close_all(call: Call) -> web.Response:
    return await _close(call, Target("hub"))


async def close_group(call: Call) -> web.Response:
    call.hub()
    return await _close(call, Target("group", call.group()))


async def close_user(call: Call) -> web.Response:
    return await _close(call, Target("user", call.user_id()))


async def close_connection(call: Call) -> web.Response:
    return await _close(call, Target("connection", call.connection_id()), excluded=False)


HANDLERS: dict[str, Handler] = {
    "CloseAllConnections": close_all,
    "CloseGroupConnections": close_group,
    "CloseUserConnections": close_user,
    "CloseConnection": close_connection,
}
