"""Hub settings over the management API (management-api.md 5.3): in Azure's form, in force at once."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from controlplane.call import Services
from controlplane.content import read_body
from controlplane.management.errors import bad_content, json_response, not_found, not_supported
from controlplane.management.events import verdicts
from controlplane.management.resource import RESOURCE_TYPE, ResourceId
from hubwire.model.errors import InvalidRequest
from hubwire.model.hub_rules import KEY_VAULT_REFERENCE, parse_hub_settings
from hubwire.model.names import normalize_hub
from hubwire.model.settings import EventHubEndpoint, HubSettings

_UNSUPPORTED = ("chat",)  # of Azure's preview versions (management-api.md 5.3)
_OURS = {"limits": "limits", "closeOnEventFailure": "close_on_event_failure"}
"""Properties that Azure has none of, and the attributes that they are."""


def hub_body(resource: ResourceId, name: str, settings: HubSettings) -> dict[str, Any]:
    properties: dict[str, Any] = msgspec.to_builtins(settings)
    for handler in properties["eventHandlers"]:
        # What was not given is left out, as Azure does.
        for key in [key for key, value in handler.items() if value is None]:
            del handler[key]
    for extension in _OURS:
        if not properties[extension]:  # shown where there is something to see
            del properties[extension]
    return {
        "properties": properties,
        "id": f"{resource}/hubs/{name}",
        "name": name,
        "type": f"{RESOURCE_TYPE}/hubs",
        "systemData": None,
    }


async def list_hubs(services: Services, resource: ResourceId) -> web.Response:
    hubs = services.settings.hubs()
    return json_response({"value": [hub_body(resource, name, hub) for name, hub in hubs.items()]})


async def get_hub(services: Services, resource: ResourceId, name: str) -> web.Response:
    entry = services.settings.hub_entry(name)
    if entry is None:
        raise not_found("hub", name)
    return json_response(hub_body(resource, *entry))


async def put_hub(services: Services, resource: ResourceId, name: str, request: web.Request) -> web.Response:
    """200 for a change, 201 for the first settings of a hub, both with the finished hub: no polling.

    `validation`, which SDKs do not look at, says which of its event handlers agreed to be called, and why
    not; it is null when nobody could ask. `limits` and `closeOnEventFailure`, which Azure has none of, stay
    as they are when they are not named, or each change by a vendor's tool would lift them; null takes them
    away.
    """
    try:
        normalize_hub(name)
        wanted, unnamed = _read(await read_body(request, services.config.max_body_bytes))
    except InvalidRequest as error:
        raise bad_content(str(error), error.target) from None
    _refuse_unsupported(services, wanted)
    had = services.settings.hub_entry(name) is not None

    def change(present: HubSettings | None) -> HubSettings:
        if present is None:
            return wanted
        return msgspec.structs.replace(wanted, **{name: getattr(present, name) for name in unnamed})

    settings = await services.settings.change_hub(name, change)
    body = hub_body(resource, name, settings)
    # A warning, no condition: the upstream may not be up yet (server-events.md 1.7).
    body["validation"] = await verdicts(services, request, name, settings)
    return json_response(body, 200 if had else 201)


async def delete_hub(services: Services, name: str) -> web.Response:
    """Takes the settings away and closes no connection. 204 when there were none."""
    had = await services.settings.delete_hub(name)
    return web.Response(status=200, headers={"Content-Length": "0"}) if had else web.Response(status=204)


def _read(body: bytes) -> tuple[HubSettings, list[str]]:
    """The settings, and which attributes that Azure has none of they do not name at all."""
    try:
        content = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest("The request content is not valid JSON.") from None
    if not isinstance(content, dict) or not isinstance(content.get("properties"), dict):
        raise InvalidRequest("The hub needs 'properties', an object.", target="properties")
    properties = content["properties"]
    for name in properties:
        if name in _UNSUPPORTED and properties[name] is not None:
            raise not_supported(f"The hub property '{name}' is not supported by this service: leave it out.")
    unnamed = [attribute for name, attribute in _OURS.items() if name not in properties]
    return parse_hub_settings(properties), unnamed


def _refuse_unsupported(services: Services, settings: HubSettings) -> None:
    """What this instance cannot honour is refused, never stored silently (management-api.md section 6)."""
    config = services.config.management
    if any(isinstance(listener.endpoint, EventHubEndpoint) for listener in settings.event_listeners):
        raise not_supported(
            "Event listeners to Azure Event Hubs are not supported by this service: use an endpoint of the "
            "type Nats, and carry the events on from there if they must go to Event Hubs."
        )
    for handler in settings.event_handlers:
        if KEY_VAULT_REFERENCE in handler.url_template:
            raise not_supported("Key Vault references are not supported: put the URL itself.")
        auth = handler.auth
        if auth is not None and auth.type == "ManagedIdentity" and not config.upstream_identity:
            raise not_supported("Managed identity for event handlers is not configured on this service.")
