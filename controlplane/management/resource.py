"""The one resource that an instance is, and what Azure's tools look for around it (management-api.md 5, 7).

Read-only: names and location come from the configuration, the rest is Azure's default for what this
service does not limit.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from controlplane.settings import ManagementConfig

PROVIDER = "Microsoft.SignalRService"
RESOURCE_TYPE = f"{PROVIDER}/WebPubSub"
# Until there are replicas, private links and certificates of our own: lists of them are empty.
EMPTY_CHILDREN = (
    "customCertificates",
    "customDomains",
    "privateEndpointConnections",
    "privateLinkResources",
    "sharedPrivateLinkResources",
    "replicas",
    "persistentStorages",
    "aiServices",
)


class ResourceId(NamedTuple):
    """As the caller wrote it, so that answers show the names that were asked for."""

    subscription: str
    group: str
    name: str

    def __str__(self) -> str:
        return (
            f"/subscriptions/{self.subscription}/resourceGroups/{self.group}/providers/"
            f"{PROVIDER}/WebPubSub/{self.name}"
        )


def shown_resource(config: ManagementConfig, subscription: str = "", group: str = "") -> ResourceId:
    """What lists show: the configured names, or the stand-ins for them."""
    return ResourceId(
        subscription or config.shown_subscription_id,
        group or config.shown_resource_group,
        config.shown_resource_name,
    )


def resource_body(resource: ResourceId, config: ManagementConfig, endpoint: str) -> dict[str, object]:
    """The resource, members in the order of Azure's answers."""
    url = urlsplit(endpoint)
    port = url.port or (443 if url.scheme == "https" else 80)
    everybody = ["ClientConnection", "ServerConnection", "RESTAPI", "Trace"]
    properties: dict[str, object] = {
        "provisioningState": "Succeeded",
        "externalIP": None,
        "hostName": url.hostname or "",
        "publicPort": port,
        "serverPort": port,
        "version": "1.0",
        "privateEndpointConnections": [],
        "sharedPrivateLinkResources": [],
        "tls": {"clientCertEnabled": False},
        "hostNamePrefix": resource.name,
        "liveTraceConfiguration": None,
        "resourceLogConfiguration": None,
        "networkACLs": {
            "defaultAction": "Deny",
            "publicNetwork": {"allow": everybody, "deny": None},
            "privateEndpoints": [],
            "ipRules": [{"value": "0.0.0.0/0", "action": "Allow"}, {"value": "::/0", "action": "Allow"}],
        },
        "publicNetworkAccess": "Enabled",
        "disableLocalAuth": False,
        "disableAadAuth": False,
        "regionEndpointEnabled": "Enabled",
        "resourceStopped": "false",
        "socketIO": None,
    }
    return {
        "sku": {"name": "Standard_S1", "tier": "Standard", "size": "S1", "capacity": 1},
        "properties": properties,
        "kind": "WebPubSub",
        "location": config.location,
        "tags": {},
        "id": str(resource),
        "name": resource.name,
        "type": RESOURCE_TYPE,
        "systemData": None,
    }


def operations_body() -> dict[str, object]:
    """What the provider can do here."""
    names = ("hubs/read", "hubs/write", "hubs/delete", "listkeys/action", "regeneratekey/action", "read")
    return {
        "value": [
            {
                "name": f"{RESOURCE_TYPE}/{name}",
                "isDataAction": False,
                "display": {"provider": PROVIDER, "resource": "WebPubSub", "operation": name},
                "origin": "user,system",
            }
            for name in names
        ]
    }


def subscription_body(subscription: str) -> dict[str, object]:
    return {
        "id": f"/subscriptions/{subscription}",
        "subscriptionId": subscription,
        "tenantId": "00000000-0000-0000-0000-000000000000",
        "displayName": "Hubwire",
        "state": "Enabled",
        "subscriptionPolicies": {},
        "authorizationSource": "RoleBased",
        "managedByTenants": [],
    }


def group_body(subscription: str, group: str, config: ManagementConfig) -> dict[str, object]:
    return {
        "id": f"/subscriptions/{subscription}/resourceGroups/{group}",
        "name": group,
        "type": "Microsoft.Resources/resourceGroups",
        "location": config.location,
        "properties": {"provisioningState": "Succeeded"},
    }


def metadata_body(endpoint: str) -> dict[str, object]:
    """What `az cloud register` reads; without `suffixes` it fails (management-api.md 7.3)."""
    return {
        "name": "Hubwire",
        "portal": endpoint,
        "authentication": {
            "loginEndpoint": endpoint,
            "audiences": ["https://management.azure.com"],
            "tenant": "common",
            "identityProvider": "AAD",
        },
        "graphAudience": endpoint,
        "graph": endpoint,
        "resourceManager": endpoint,
        "suffixes": {},
    }
