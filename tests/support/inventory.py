"""Everything that the compatibility page must have a line for, and the versions that are tested.

The REST operations, client messages and role forms are those of the protocol documents; the methods of
the Python packages are found by looking at the classes, those of the JavaScript packages are listed here
and compared with the classes by `covers` in tests/conformance/js/.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

REST = "REST operations"
JSON = "json.webpubsub.azure.v1"
PROTOBUF = "protobuf.webpubsub.azure.v1"
SIMPLE = "Clients without a subprotocol"
RELIABLE = "Reliable subprotocols"
CONNECTING = "Connecting"
CLOSING = "Close codes"
ROLES = "Roles and permissions"
CROSS = "Delivery between protocols"
CHROMIUM = "Headless Chromium"
SERVICE = "azure-messaging-webpubsubservice"
SERVICE_AIO = "azure-messaging-webpubsubservice (aio)"
CLIENT = "azure-messaging-webpubsubclient"
CLIENT_AIO = "azure-messaging-webpubsubclient (aio)"
JS_SERVICE = "@azure/web-pubsub"
JS_CLIENT = "@azure/web-pubsub-client"
EXPRESS = "@azure/web-pubsub-express"
HANDLERS = "Event handlers"
LISTENERS = "Event listeners to NATS JetStream"

PYTHON_PACKAGES = ("azure-messaging-webpubsubservice", "azure-messaging-webpubsubclient", "protobuf")
JS_FOLDER = Path(__file__).parents[1] / "conformance" / "js"
JS_PACKAGES = ("@azure/web-pubsub", "@azure/web-pubsub-client")
EXPRESS_FOLDER = Path(__file__).parents[1] / "upstream" / "express"
EXPRESS_PACKAGES = {"@azure/web-pubsub-express": EXPRESS, "express4": "express 4", "express5": "express 5"}

REST_OPERATIONS = (
    "GetServiceStatus",
    "AddConnectionsToGroups",
    "RemoveConnectionsFromGroups",
    "CloseAllConnections",
    "GenerateClientToken",
    "SendToAll",
    "CloseConnection",
    "ConnectionExists",
    "SendToConnection",
    "RemoveConnectionFromAllGroups",
    "GroupExists",
    "CloseGroupConnections",
    "SendToGroup",
    "ListConnectionsInGroup",
    "RemoveConnectionFromGroup",
    "AddConnectionToGroup",
    "RevokePermission",
    "CheckPermission",
    "GrantPermission",
    "UserExists",
    "CloseUserConnections",
    "SendToUser",
    "RemoveUserFromAllGroups",
    "RemoveUserFromGroup",
    "AddUserToGroup",
)

# What a client sends, then what the service sends (client-protocols.md section 11).
_REQUESTS = ("joinGroup", "leaveGroup", "sendToGroup", "event", "ping", "sequenceAck")
_PREVIEW = (
    "invoke",
    "cancelInvocation",
    "streamData",
    "streamEnd",
    "setGroupState",
    "subscribeGroupState",
    "unsubscribeGroupState",
)
_ANSWERS = ("connected", "disconnected", "ack", "message from group", "message from server", "pong")
CLIENT_MESSAGES = (*_REQUESTS, *_PREVIEW, *_ANSWERS)
SIMPLE_MODES = ("sendEvent", "sendToGroup", "receives text", "receives binary")

RELIABLE_ITEMS = (
    "json.reliable.webpubsub.azure.v1",
    "protobuf.reliable.webpubsub.azure.v1",
    "sequenceAck",
    "replay of what is not acknowledged",
    "recovery on any gateway",
    "recovery refused with 1008",
    "Duplicate for a publish that is sent again",
    "REST on a session whose client is away",
    "limit of what is not acknowledged",
    "end of a session that nobody comes back for",
    f"{CLIENT} recovers by itself",
    f"{CLIENT_AIO} recovers by itself",
    f"{JS_CLIENT} recovers by itself",
)

ROLE_FORMS = (
    "no role",
    "webpubsub.joinLeaveGroup",
    "webpubsub.sendToGroup",
    "webpubsub.joinLeaveGroup.<group>",
    "webpubsub.sendToGroup.<group>",
    "webpubsub.joinLeaveGroups.<pattern>",
    "webpubsub.sendToGroups.<pattern>",
    "webpubsub.getGroupState[.<group>]",
    "webpubsub.setGroupState[.<group>]",
    "granted by REST",
    "revoked by REST",
)

CONNECTING_ITEMS = (
    "token in the query",
    "token in the Authorization header",
    "primary key",
    "secondary key",
    "hub in any letter case",
    "hub in the query",
    "anonymous client of a hub that allows it",
    "groups of the token",
    "401 for a bad or missing token",
    "400 for a bad request",
    "404 for an unknown path",
    "public endpoint as audience",
    "user, roles and groups of a connect event handler",
    "subprotocol of a connect event handler",
    "refused by a connect event handler",
)
CLOSE_CODES = ("1000", "1003", "1007", "1008", "1009", "1011")

EXPRESS_ITEMS = (
    "user, groups and roles of connect",
    "connect refused, with status and words",
    "user events answered",
    "connection state of its own",
    "simple clients",
    "failure of a user event",
)
HANDLER_ITEMS = (
    "abuse protection",
    "ce-signature with each access key",
    "connected and disconnected, once and in order",
)
LISTENER_ITEMS = (
    "connected and disconnected, once and in order",
    "user events, once and in order, with and without a handler",
    "CloudEvents headers, subjects and bodies",
)
JS_METHODS = {
    JS_SERVICE: (
        "WebPubSubServiceClient.addConnectionsToGroups",
        "WebPubSubServiceClient.closeAllConnections",
        "WebPubSubServiceClient.closeConnection",
        "WebPubSubServiceClient.closeUserConnections",
        "WebPubSubServiceClient.connectionExists",
        "WebPubSubServiceClient.getClientAccessToken",
        "WebPubSubServiceClient.grantPermission",
        "WebPubSubServiceClient.group",
        "WebPubSubServiceClient.groupExists",
        "WebPubSubServiceClient.hasPermission",
        "WebPubSubServiceClient.removeConnectionFromAllGroups",
        "WebPubSubServiceClient.removeConnectionsFromGroups",
        "WebPubSubServiceClient.removeUserFromAllGroups",
        "WebPubSubServiceClient.revokePermission",
        "WebPubSubServiceClient.sendToAll",
        "WebPubSubServiceClient.sendToConnection",
        "WebPubSubServiceClient.sendToUser",
        "WebPubSubServiceClient.userExists",
        "WebPubSubGroup.addConnection",
        "WebPubSubGroup.addUser",
        "WebPubSubGroup.closeAllConnections",
        "WebPubSubGroup.listConnections",
        "WebPubSubGroup.removeConnection",
        "WebPubSubGroup.removeUser",
        "WebPubSubGroup.sendToAll",
    ),
    JS_CLIENT: (
        "WebPubSubClient.invokeEvent",
        "WebPubSubClient.joinGroup",
        "WebPubSubClient.leaveGroup",
        "WebPubSubClient.off",
        "WebPubSubClient.on",
        "WebPubSubClient.onGroupStream",
        "WebPubSubClient.openGroupStream",
        "WebPubSubClient.sendEvent",
        "WebPubSubClient.sendToGroup",
        "WebPubSubClient.start",
        "WebPubSubClient.stop",
    ),
}

_STREAMS = "streaming to groups is a preview feature that this version does not have"
_INVOKE = "invoking event handlers is a preview feature that this version does not have"
_STATE = "group state is an undocumented preview feature that this version does not have"
_HANDLED = "answered by the event handler; without one that wants it the event fails"
# What a reader must know about an item that is tested.
NOTES = {
    **{(area, "event"): _HANDLED for area in (JSON, PROTOBUF)},
    (SIMPLE, "sendEvent"): _HANDLED,
    (
        RELIABLE,
        "limit of what is not acknowledged",
    ): "1,000 messages or 16 MB; the packages acknowledge once a second",
    **{
        (RELIABLE, f"{name} recovers by itself"): "over JSON, its only protocol"
        for name in (CLIENT, CLIENT_AIO)
    },
    (RELIABLE, f"{JS_CLIENT} recovers by itself"): (
        "over JSON; over protobuf (its add-on is not on npm) in the chaos tests, with a codec of their own"
    ),
    **{(area, "sequenceAck"): "ignored without the reliable protocols" for area in (JSON, PROTOBUF)},
}
# Why an item has no test.
NOT_SERVED = {
    **{(area, name): _INVOKE for area in (JSON, PROTOBUF) for name in ("invoke", "cancelInvocation")},
    **{(area, name): _STREAMS for area in (JSON, PROTOBUF) for name in ("streamData", "streamEnd")},
    **{(area, name): _STATE for area in (JSON, PROTOBUF) for name in _PREVIEW if name.endswith("GroupState")},
    (ROLES, "webpubsub.getGroupState[.<group>]"): _STATE,
    (ROLES, "webpubsub.setGroupState[.<group>]"): _STATE,
    (JS_CLIENT, "WebPubSubClient.invokeEvent"): _INVOKE,
    (JS_CLIENT, "WebPubSubClient.openGroupStream"): _STREAMS,
    (JS_CLIENT, "WebPubSubClient.onGroupStream"): _STREAMS,
}


def public_methods(cls: type) -> list[str]:
    """What a user of a class may call, by name."""
    return [
        name for name in sorted(dir(cls)) if not name.startswith("_") and callable(getattr(cls, name, None))
    ]


def python_classes() -> dict[str, type]:
    """The client class of each Python package, by the name of its area."""
    from azure.messaging import webpubsubclient, webpubsubservice
    from azure.messaging.webpubsubclient import aio as client_aio
    from azure.messaging.webpubsubservice import aio as service_aio

    return {
        SERVICE: webpubsubservice.WebPubSubServiceClient,
        SERVICE_AIO: service_aio.WebPubSubServiceClient,
        CLIENT: webpubsubclient.WebPubSubClient,
        CLIENT_AIO: client_aio.WebPubSubClient,
    }


def inventory() -> dict[str, list[str]]:
    """Areas in the order of the page, each with its items."""
    return {
        REST: list(REST_OPERATIONS),
        JSON: list(CLIENT_MESSAGES),
        PROTOBUF: list(CLIENT_MESSAGES),
        SIMPLE: list(SIMPLE_MODES),
        RELIABLE: list(RELIABLE_ITEMS),
        ROLES: list(ROLE_FORMS),
        CONNECTING: list(CONNECTING_ITEMS),
        CLOSING: list(CLOSE_CODES),
        **{area: public_methods(cls) for area, cls in python_classes().items()},
        **{area: list(methods) for area, methods in JS_METHODS.items()},
        EXPRESS: list(EXPRESS_ITEMS),
        HANDLERS: list(HANDLER_ITEMS),
        LISTENERS: list(LISTENER_ITEMS),
        CHROMIUM: ["WebSocket of the page", f"{JS_CLIENT} in the page"],
    }


def versions() -> dict[str, str]:
    """The versions of the packages that are installed, and so tested."""
    lock: Any = json.loads((JS_FOLDER / "package-lock.json").read_text())
    found = {name: version(name) for name in PYTHON_PACKAGES}
    found |= {name: lock["packages"][f"node_modules/{name}"]["version"] for name in JS_PACKAGES}
    lock = json.loads((EXPRESS_FOLDER / "package-lock.json").read_text())
    for folder, name in EXPRESS_PACKAGES.items():
        found[name] = lock["packages"][f"node_modules/{folder}"]["version"]
    return found
