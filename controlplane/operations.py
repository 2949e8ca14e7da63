"""The operations of the data plane: one table for routing, for the OpenAPI documents and for the tests.

From rest-api.md sections 1.3 and 5; the ids are those of Azure's own specification.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from hubwire.model.limits import MAX_USER_ID_CHARACTERS

SUPPORTED_VERSIONS = ("2021-10-01", "2022-11-01", "2023-07-01", "2024-01-01", "2024-12-01")
LATEST_VERSION = SUPPORTED_VERSIONS[-1]
# Old previews that released clients still send; each is served like the version beside it.
VERSION_ALIASES = {
    "2020-10-01": "2021-10-01",
    "2021-05-01-preview": "2021-10-01",
    "2021-08-01-preview": "2021-10-01",
    "2022-10-01-preview": "2022-11-01",
}
SUPPORTED_VERSIONS_HEADER = "api-supported-versions"
SUPPORTED_VERSIONS_VALUE = ", ".join(SUPPORTED_VERSIONS)

Kind = Literal["string", "strings", "int32", "clientType", "continuationToken"]


class Query(NamedTuple):
    """A query parameter. `minimum` and `maximum` are for numbers, `maximum` also for the characters of a
    text; `strings` are repeated parameters."""

    name: str
    kind: Kind
    since: str
    about: str
    minimum: int | None = None
    maximum: int | None = None
    required: bool = False


class Operation(NamedTuple):
    """One method on one path. `path` is below /api/hubs/{hub}, except that of the health check."""

    id: str
    method: str
    path: str
    success: int
    since: str
    about: str
    query: tuple[Query, ...] = ()
    body: Literal["none", "message", "groups"] = "none"
    missing: str | None = None  # error code of the 404, when a missing target is one
    answer: Literal["none", "token", "members"] = "none"


EXCLUDED = Query("excluded", "strings", "2021-10-01", "Connection ids that are left out; repeatable.")
REASON = Query("reason", "string", "2021-10-01", "Told to the clients that are closed.")
FILTER = Query("filter", "string", "2022-11-01", "OData filter: only connections for which it holds.")
TTL = Query(
    "messageTtlSeconds", "int32", "2023-07-01", "Seconds after which an unread message is dropped.", 0, 300
)
TARGET_NAME = Query("targetName", "string", "2021-10-01", "The group's name, literally.", required=True)
TOKEN_QUERY = (
    Query(
        "userId",
        "string",
        "2021-10-01",
        "Becomes the user id of the connection.",
        None,
        MAX_USER_ID_CHARACTERS,
    ),
    Query("role", "strings", "2021-10-01", "Roles of the connection; repeatable."),
    Query("minutesToExpire", "int32", "2021-10-01", "Life of the token; 60 when absent.", 1, 2**31 - 1),
    Query("group", "strings", "2022-11-01", "Groups joined on connecting; repeatable."),
    Query("clientType", "clientType", "2024-01-01", "Chooses the client endpoint."),
)
PAGE_QUERY = (
    Query("maxpagesize", "int32", "2024-12-01", "Most members in one page; 200 when absent.", 1, 200),
    Query("top", "int32", "2024-12-01", "Most members in all pages together.", 1, 2**31 - 1),
    Query("continuationToken", "continuationToken", "2024-12-01", "From nextLink; opaque."),
)

_GROUP = "/groups/{group}"
_USER = "/users/{userId}"
_CONNECTION = "/connections/{connectionId}"
_PERMISSION = "/permissions/{permission}/connections/{connectionId}"
_V21, _V22, _V23, _V24_12 = "2021-10-01", "2022-11-01", "2023-07-01", "2024-12-01"
_NO_CONNECTION = "Error.Connection.NotExisted"
_NO_USER = "Warning.User.NotExisted"
_NO_GRANT = "Info.Connection.NotExisted"

HEALTH = Operation("GetServiceStatus", "HEAD", "/api/health", 200, _V21, "Whether the service works.")

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "AddConnectionsToGroups",
        "POST",
        "/:addToGroups",
        200,
        _V23,
        "Every connection for which the filter holds joins every group.",
        body="groups",
    ),
    Operation(
        "RemoveConnectionsFromGroups",
        "POST",
        "/:removeFromGroups",
        200,
        _V23,
        "Every connection for which the filter holds leaves every group.",
        body="groups",
    ),
    Operation(
        "CloseAllConnections",
        "POST",
        "/:closeConnections",
        204,
        _V21,
        "Close the connections of the hub.",
        (EXCLUDED, REASON),
    ),
    Operation(
        "GenerateClientToken",
        "POST",
        "/:generateToken",
        200,
        _V21,
        "An access token for a client.",
        TOKEN_QUERY,
        answer="token",
    ),
    Operation(
        "SendToAll",
        "POST",
        "/:send",
        202,
        _V21,
        "Send a message to the hub.",
        (EXCLUDED, FILTER, TTL),
        "message",
    ),
    Operation("CloseConnection", "DELETE", _CONNECTION, 204, _V21, "Close a connection.", (REASON,)),
    Operation(
        "ConnectionExists",
        "HEAD",
        _CONNECTION,
        200,
        _V21,
        "Whether a connection exists.",
        missing="Warning.Connection.NotExisted",
    ),
    Operation(
        "SendToConnection",
        "POST",
        _CONNECTION + "/:send",
        202,
        _V21,
        "Send a message to a connection.",
        (TTL,),
        "message",
    ),
    Operation(
        "RemoveConnectionFromAllGroups",
        "DELETE",
        _CONNECTION + "/groups",
        204,
        _V22,
        "Remove a connection from all its groups.",
    ),
    Operation(
        "GroupExists",
        "HEAD",
        _GROUP,
        200,
        _V21,
        "Whether a group has members.",
        missing="Warning.Group.NotExisted",
    ),
    Operation(
        "CloseGroupConnections",
        "POST",
        _GROUP + "/:closeConnections",
        204,
        _V21,
        "Close the connections of a group.",
        (EXCLUDED, REASON),
    ),
    Operation(
        "SendToGroup",
        "POST",
        _GROUP + "/:send",
        202,
        _V21,
        "Send a message to a group.",
        (EXCLUDED, FILTER, TTL),
        "message",
    ),
    Operation(
        "ListConnectionsInGroup",
        "GET",
        _GROUP + "/connections",
        200,
        _V24_12,
        "The members of a group, page by page.",
        PAGE_QUERY,
        answer="members",
    ),
    Operation(
        "RemoveConnectionFromGroup",
        "DELETE",
        _GROUP + _CONNECTION,
        204,
        _V21,
        "Remove a connection from a group.",
    ),
    Operation(
        "AddConnectionToGroup",
        "PUT",
        _GROUP + _CONNECTION,
        200,
        _V21,
        "Add a connection to a group.",
        missing=_NO_CONNECTION,
    ),
    Operation(
        "RevokePermission", "DELETE", _PERMISSION, 204, _V21, "Take a permission back.", (TARGET_NAME,)
    ),
    Operation(
        "CheckPermission",
        "HEAD",
        _PERMISSION,
        200,
        _V21,
        "Whether a connection has a permission.",
        (TARGET_NAME,),
        missing=_NO_GRANT,
    ),
    Operation(
        "GrantPermission",
        "PUT",
        _PERMISSION,
        200,
        _V21,
        "Give a permission.",
        (TARGET_NAME,),
        missing=_NO_GRANT,
    ),
    Operation("UserExists", "HEAD", _USER, 200, _V21, "Whether a user has connections.", missing=_NO_USER),
    Operation(
        "CloseUserConnections",
        "POST",
        _USER + "/:closeConnections",
        204,
        _V21,
        "Close the connections of a user.",
        (EXCLUDED, REASON),
    ),
    Operation(
        "SendToUser",
        "POST",
        _USER + "/:send",
        202,
        _V21,
        "Send a message to a user.",
        (FILTER, TTL),
        "message",
    ),
    Operation(
        "RemoveUserFromAllGroups",
        "DELETE",
        _USER + "/groups",
        204,
        _V21,
        "Remove a user's connections from all groups.",
    ),
    Operation(
        "RemoveUserFromGroup",
        "DELETE",
        _USER + "/groups/{group}",
        204,
        _V21,
        "Remove a user's connections from a group.",
    ),
    Operation(
        "AddUserToGroup",
        "PUT",
        _USER + "/groups/{group}",
        200,
        _V21,
        "Add the connections that a user has now to a group.",
        missing=_NO_USER,
    ),
)
