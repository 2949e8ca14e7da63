"""What a connection may do: grant, revoke, check (rest-api.md section 11)."""

from __future__ import annotations

from aiohttp import web

from controlplane.call import Call, Handler, done, not_existed
from controlplane.paths import decode_segment
from controlplane.ports import GrantResult, PermissionName
from controlplane.problems import INVALID_GROUP, Problem, invalid_body, invalid_value
from hubwire.model.names import is_valid_group

# The names, and the numbers of the enum behind them, which the service takes as well.
_PERMISSIONS: dict[str, PermissionName] = {
    "sendtogroup": "sendToGroup",
    "joinleavegroup": "joinLeaveGroup",
    "1": "sendToGroup",
    "2": "joinLeaveGroup",
}


def _permission(call: Call) -> PermissionName:
    text = decode_segment(call.raw["permission"], "permission")
    found = _PERMISSIONS.get(text.lower())
    if found is None:
        raise invalid_value("permission", text)
    return found


def _target_name(call: Call) -> str:
    """The group, literally: no pattern, no trimming. That it is needed is recorded, with target Request."""
    name = call.query.one("targetName", shape="flat")
    if name is None or not is_valid_group(name):
        raise invalid_body(INVALID_GROUP)
    return name


def _refuse_conflict(result: GrantResult, connection_id: str) -> None:
    if result.conflict:
        raise Problem(
            409,
            "Error.Connection.Conflict",
            f"Connection `{connection_id}` has too many rules for this permission.",
            "Connection",
        )


async def grant(call: Call) -> web.Response:
    hub, permission, connection_id = call.hub(), _permission(call), call.connection_id()
    result = await call.cluster.grant(hub, permission, connection_id, _target_name(call))
    _refuse_conflict(result, connection_id)
    if not result.found:
        raise not_existed("Info.Connection.NotExisted", "Connection", connection_id)
    return done(200)


async def revoke(call: Call) -> web.Response:
    hub, permission, connection_id = call.hub(), _permission(call), call.connection_id()
    result = await call.cluster.revoke(hub, permission, connection_id, _target_name(call))
    _refuse_conflict(result, connection_id)
    return done(204)


async def check(call: Call) -> web.Response:
    hub, permission, connection_id = call.hub(), _permission(call), call.connection_id()
    if not await call.cluster.has_permission(hub, permission, connection_id, _target_name(call)):
        raise not_existed("Info.Connection.NotExisted", "Connection", connection_id)
    return done(200)


HANDLERS: dict[str, Handler] = {
    "GrantPermission": grant,
    "RevokePermission": revoke,
    "CheckPermission": check,
}
