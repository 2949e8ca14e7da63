"""The way into the management API: paths in any case, an administrator's token, any api-version.

Room to grow: a new part is a file beside this one and a branch in `_resource`.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

import structlog
from aiohttp import web

from controlplane import cors
from controlplane.auth import authenticate_admin
from controlplane.call import Services
from controlplane.endpoints import endpoint_of
from controlplane.management import hubs, keys, resource
from controlplane.management.cluster import answer_settings
from controlplane.management.errors import (
    ManagementProblem,
    json_response,
    management_problem_from,
    management_response_of,
    management_response_to,
    not_found,
    not_supported,
)
from controlplane.management.events import answer_own
from controlplane.management.resource import EMPTY_CHILDREN, ResourceId
from controlplane.paths import Target
from controlplane.problems import Problem
from controlplane.query import QueryString
from hubwire.model.errors import HubwireError

_API_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?", re.ASCII)
_OLDEST_VERSION = "2021-04-01"
_ROOTS = ("/subscriptions", "/providers", "/metadata/endpoints", "/hubwire")
_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")

_log = structlog.get_logger(__name__)


class ManagementApi:
    """Answers below /subscriptions, /providers, /metadata/endpoints, and /hubwire, which is our own."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @staticmethod
    def owns(path: str) -> bool:
        """Whether a path, in lower case, belongs here."""
        return any(path == root or path.startswith(root + "/") for root in _ROOTS)

    async def answer(self, request: web.Request, target: Target) -> web.Response:
        """Errors become answers here, in this API's own shape; only a timeout is left to the caller."""
        if request.method == "OPTIONS":
            return cors.options_response(request, _METHODS, self._services.config.cors_origins)
        try:
            return await self._answer(request, target)
        except ManagementProblem as problem:
            return management_response_of(problem)
        except Problem as problem:
            return management_response_to(problem)
        except HubwireError as error:
            if management_problem_from(error).status == 500:
                _log.exception("management_failed", method=request.method, path=target.path)
            return management_response_of(management_problem_from(error))

    async def _answer(self, request: web.Request, target: Target) -> web.Response:
        config = self._services.config
        endpoint = endpoint_of(request, config.public_endpoints)
        segments = [unquote(segment) for segment in target.path.strip("/").split("/")]
        lowered = [segment.lower() for segment in segments]
        if lowered == ["metadata", "endpoints"]:
            return json_response(resource.metadata_body(endpoint))  # read before anybody has signed in
        services = self._services
        await authenticate_admin(request, services.settings.keys, config, services.issuers, services.clock())
        query = QueryString(target.query)
        if lowered == ["hubwire", "settings"]:
            return await answer_settings(self._services, request)
        if lowered[0] == "hubwire":
            return await answer_own(self._services, request, segments[1:], query)
        _check_version(query)
        shown = config.management
        match lowered:
            case ["providers", "microsoft.signalrservice", "operations"] if request.method == "GET":
                return json_response(resource.operations_body())
            case ["subscriptions"] if request.method == "GET":
                return json_response({"value": [resource.subscription_body(shown.shown_subscription_id)]})
            case ["subscriptions", _, *below]:
                self._check_subscription(segments[1])
                return await self._subscription(request, segments[1], segments[2:], below, endpoint)
            case _:
                raise not_found("path", target.path)

    async def _subscription(
        self, request: web.Request, subscription: str, segments: list[str], lowered: list[str], endpoint: str
    ) -> web.Response:
        config = self._services.config.management
        match lowered:
            case [] if request.method == "GET":
                return json_response(resource.subscription_body(subscription))
            case ["providers", "microsoft.signalrservice", "webpubsub"] if request.method == "GET":
                return self._list_resources(subscription, "", endpoint)
            case ["providers", "microsoft.signalrservice", "locations", _, "usages"]:
                return json_response({"value": []})
            case ["resourcegroups", _] if request.method == "GET":
                return json_response(resource.group_body(subscription, segments[1], config))
            case ["resourcegroups", _, "providers", "microsoft.signalrservice", "webpubsub"]:
                if request.method == "GET":
                    return self._list_resources(subscription, segments[1], endpoint)
                raise not_supported("An instance is one resource; start another instance for another one.")
            case ["resourcegroups", _, "providers", "microsoft.signalrservice", "webpubsub", _, *below]:
                self._check_resource(segments[1], segments[5])
                named = ResourceId(subscription, segments[1], segments[5])
                return await self._resource(request, named, segments[6:], below, endpoint)
            case _:
                raise not_found("path", "/".join(segments))

    def _list_resources(self, subscription: str, group: str, endpoint: str) -> web.Response:
        config = self._services.config.management
        shown = resource.shown_resource(config, subscription, group)
        return json_response({"value": [resource.resource_body(shown, config, endpoint)]})

    async def _resource(
        self, request: web.Request, named: ResourceId, segments: list[str], lowered: list[str], endpoint: str
    ) -> web.Response:
        services = self._services
        match request.method, lowered:
            case "GET", []:
                return json_response(resource.resource_body(named, services.config.management, endpoint))
            case "DELETE", []:
                raise ManagementProblem(
                    403, "OperationNotAllowed", "An instance is not deleted by its own management API."
                )
            case _, []:
                raise not_supported("The properties of the resource are set where the service is started.")
            case "POST", ["listkeys"]:
                return await keys.list_keys(services, endpoint)
            case "POST", ["regeneratekey"]:
                return await keys.regenerate_key(services, endpoint, request)
            case "GET", ["hubs"]:
                return await hubs.list_hubs(services, named)
            case "GET", ["hubs", _]:
                return await hubs.get_hub(services, named, segments[1])
            case "PUT", ["hubs", _]:
                return await hubs.put_hub(services, named, segments[1], request)
            case "DELETE", ["hubs", _]:
                return await hubs.delete_hub(services, segments[1])
            case "GET", ["operationstatuses" | "operationresults", *_]:
                # Everything is finished when it is answered; for callers that hold an id of elsewhere.
                return json_response({"id": request.path, "name": segments[-1], "status": "Succeeded"})
        return self._child(request.method, segments, lowered)

    @staticmethod
    def _child(method: str, segments: list[str], lowered: list[str]) -> web.Response:
        """Parts of the resource that this service has none of (management-api.md section 6)."""
        if lowered[0] not in {name.lower() for name in EMPTY_CHILDREN}:
            if lowered[0] in ("restart", "skus"):
                raise not_supported(f"'{segments[0]}' is not supported by this service.")
            raise ManagementProblem(
                404, "InvalidResourceType", f"There is no '{segments[0]}' with this method."
            )
        match method, len(lowered):
            case "GET", 1:
                return json_response({"value": []})
            case "GET", _:
                raise not_found(segments[0], segments[-1])
            case "DELETE", _:
                return web.Response(status=204)
        raise not_supported(
            f"'{segments[0]}' is not part of this service: use a reverse proxy, its TLS settings, or more "
            "gateways instead."
        )

    def _check_subscription(self, subscription: str) -> None:
        wanted = self._services.config.management.subscription_id
        if wanted and subscription.lower() != wanted.lower():
            message = f"The subscription '{subscription}' could not be found."
            raise ManagementProblem(404, "SubscriptionNotFound", message)

    def _check_resource(self, group: str, name: str) -> None:
        config = self._services.config.management
        if config.resource_group and group.lower() != config.resource_group.lower():
            message = f"Resource group '{group}' could not be found."
            raise ManagementProblem(404, "ResourceGroupNotFound", message)
        if config.resource_name and name.lower() != config.resource_name.lower():
            raise not_found("resource", name)


def _check_version(query: QueryString) -> None:
    """Any version from the oldest on: one model serves them all (management-api.md section 1)."""
    versions = query.all("api-version")
    if not versions:
        message = "The api-version query parameter (?api-version=) is required for all requests."
        raise ManagementProblem(400, "MissingApiVersionParameter", message)
    if len(versions) > 1 or not _API_VERSION.fullmatch(versions[0]) or versions[0][:10] < _OLDEST_VERSION:
        message = f"The api-version '{versions[0][:40]}' is invalid."
        raise ManagementProblem(400, "InvalidApiVersionParameter", message)
