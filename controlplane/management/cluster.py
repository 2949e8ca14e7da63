"""The settings that all processes of the cluster share, which Azure has no API for. Below /hubwire, with the
credentials of the management API.

    GET   /hubwire/settings   what has been set; what is not there has its default
    PATCH /hubwire/settings   change some: an object in the form of the config file; null takes one away

In force in all processes before the answer to PATCH, or milliseconds after it.
"""

from __future__ import annotations

import msgspec
from aiohttp import web

from controlplane.call import Services
from controlplane.content import read_body
from controlplane.management.errors import bad_content, json_response, not_found
from hubwire.model.cluster_settings import ClusterSettings, changed, shown
from hubwire.model.errors import InvalidRequest


async def answer_settings(services: Services, request: web.Request) -> web.Response:
    """Raises ManagementProblem for a method that is not there, and for what cannot be set."""
    match request.method:
        case "GET":
            return json_response(shown(services.settings.cluster))
        case "PATCH":
            return await _change(services, request)
    raise not_found("path", "/hubwire/settings")


async def _change(services: Services, request: web.Request) -> web.Response:
    body = await read_body(request, services.config.max_body_bytes)
    try:
        wanted = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise bad_content("The request content is not valid JSON.") from None
    after = services.settings.cluster

    def change(present: ClusterSettings) -> ClusterSettings:
        nonlocal after
        after = changed(present, wanted)
        return after

    try:
        await services.settings.change_cluster(change)
    except InvalidRequest as error:
        raise bad_content(str(error), error.target) from None
    return json_response(shown(after))
