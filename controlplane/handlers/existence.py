"""Whether a connection, a group or a user is there: HEAD, 200 or 404 (rest-api.md 3.1)."""

from __future__ import annotations

from aiohttp import web

from controlplane.call import Call, Handler, done, not_existed
from controlplane.ports import Target
from controlplane.problems import Problem


async def connection_exists(call: Call) -> web.Response:
    hub, connection_id = call.hub(), call.connection_id()
    if not await call.cluster.exists(hub, Target("connection", connection_id)):
        raise not_existed("Warning.Connection.NotExisted", "Connection", connection_id)
    return done(200)


async def group_exists(call: Call) -> web.Response:
    hub, group = call.hub(), call.group()
    if not await call.cluster.exists(hub, Target("group", group)):
        # The text is inferred from the length that was recorded (rest-api.md 3.1).
        raise Problem(404, "Warning.Group.NotExisted", f"Group `{group}` is empty.", "Group")
    return done(200)


async def user_exists(call: Call) -> web.Response:
    hub, user_id = call.hub(), call.user_id()
    if not await call.cluster.exists(hub, Target("user", user_id)):
        raise not_existed("Warning.User.NotExisted", "User", user_id)
    return done(200)


HANDLERS: dict[str, Handler] = {
    "ConnectionExists": connection_exists,
    "GroupExists": group_exists,
    "UserExists": user_exists,
}
