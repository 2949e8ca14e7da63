"""The control plane as one aiohttp application: what it is made of, and the way of a request through it.

    path known? 404 -> method? 405 -> credentials? 401 -> api-version? 400 -> handler: 400 ... -> cluster

Everything is decided in one middleware on the raw request target, so the application has no routes of its
own for the API and whoever embeds it may add some (the console page). It can be served by `web.AppRunner`,
or connection by connection by the `web.Server` that a runner makes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import structlog
from aiohttp import web

from controlplane import cors
from controlplane.auth import authenticate_rest
from controlplane.bare_http import SERVER
from controlplane.call import Call, Handler, Services, Settings, done
from controlplane.endpoints import is_host, prefixes_of
from controlplane.events import EventsPort
from controlplane.express import EXPRESS, REQUEST_ID, STRICT_TRANSPORT_SECURITY, Express
from controlplane.handlers import closing, existence, listing, membership, messages, permissions, tokens
from controlplane.management.errors import management_response_to
from controlplane.management.router import ManagementApi
from controlplane.meters import HEALTH, MANAGEMENT, OTHER, RequestTimes
from controlplane.oidc.tokens import Issuers
from controlplane.openapi import documents
from controlplane.operations import (
    OPERATIONS,
    SUPPORTED_VERSIONS,
    SUPPORTED_VERSIONS_HEADER,
    SUPPORTED_VERSIONS_VALUE,
    VERSION_ALIASES,
)
from controlplane.paths import Target, is_chat, match, split_target, without_prefix
from controlplane.ports import ClusterPort
from controlplane.problems import BAD_REQUEST, JSON, Problem, problem_from, response_of
from controlplane.query import QueryString
from controlplane.settings import ControlPlaneConfig
from hubwire.model.errors import HubwireError
from hubwire.runtime.traces import OFF, Traced, Traces, current

HANDLERS: dict[str, Handler] = {
    **messages.HANDLERS,
    **closing.HANDLERS,
    **existence.HANDLERS,
    **membership.HANDLERS,
    **permissions.HANDLERS,
    **listing.HANDLERS,
    **tokens.HANDLERS,
}
_OPENAPI = "/api/openapi"
_category: ContextVar[str] = ContextVar("category", default=OTHER)
"""What the request at hand is counted as."""

_log = structlog.get_logger(__name__)


def create_app(
    cluster: ClusterPort,
    settings: Settings,
    config: ControlPlaneConfig | None = None,
    *,
    clock: Callable[[], float] = time.time,
    events: EventsPort | None = None,
    times: RequestTimes | None = None,
    traces: Traces = OFF,
    issuers: Issuers | None = None,
) -> web.Application:
    """Put the control plane together. `settings` is a `hubwire.bus.settings.SettingsStore`.

    Paths that are neither the data plane's nor the management API's go to the application's own routes.
    The application owns no task and no connection but those of `issuers`, which it starts and closes: whoever
    made `cluster` and `settings` closes them.
    """
    services = Services(cluster, settings, config or ControlPlaneConfig(), clock, events, issuers)
    times = times or RequestTimes()
    app = web.Application(middlewares=[RestApi(services, times, traces).middleware])
    app[EXPRESS] = Express(services, times, traces)
    if issuers is not None:
        app.on_startup.append(lambda _app: issuers.start())
        app.on_cleanup.append(lambda _app: issuers.close())
    return app


class RestApi:
    """The dispatch. Of requests it only counts those in progress, and how long they took."""

    def __init__(self, services: Services, times: RequestTimes, traces: Traces) -> None:
        missing = {operation.id for operation in OPERATIONS} ^ HANDLERS.keys()
        if missing:
            raise AssertionError(f"Operations and handlers differ: {sorted(missing)}")
        self._services = services
        self._prefixes = prefixes_of(services.own.public_endpoints)
        self._management = ManagementApi(services)
        self._documents = documents()
        self._times = times
        self._traces = traces

    @web.middleware
    async def middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        target = split_target(request.raw_path)
        target = target._replace(path=without_prefix(target.path, self._prefixes))
        lowered = target.path.lower()
        say = response_of
        begun = time.perf_counter()
        span = self._traces.begin("REST", request.headers.get("traceparent", ""), server=True)
        if self._traces.on:  # the task serves all requests of its connection
            current.set(span.traceparent if span is not None else "")
        _category.set(OTHER)
        if lowered == "/api" or lowered.startswith("/api/"):
            answer = self._data_plane
        elif self._management.owns(lowered):
            answer, say = self._management.answer, management_response_to
            _category.set(MANAGEMENT)
        else:
            return await _elsewhere(request, handler)
        config = self._services.config
        limit = config.max_concurrent_requests
        if limit is not None and self._times.active >= limit and lowered.rstrip("/") != "/api/health":
            response: web.Response = say(_too_many(limit))
        else:
            self._times.active += 1
            try:
                response = await self._guarded(answer, request, target, say)
            finally:
                self._times.active -= 1
        self._times.record(_category.get(), response.status, time.perf_counter() - begun)
        if span is not None:
            _end(span, request.method, response.status)
        if REQUEST_ID in request.headers:
            response.headers[REQUEST_ID] = request.headers[REQUEST_ID]
        response.headers["Server"] = SERVER
        if request.secure:
            response.headers["Strict-Transport-Security"] = STRICT_TRANSPORT_SECURITY
        cors.add_headers(request, response, config.cors_origins)
        return response

    async def _guarded(
        self,
        answer: Callable[[web.Request, Target], Awaitable[web.Response]],
        request: web.Request,
        target: Target,
        say: Callable[[Problem], web.Response],
    ) -> web.Response:
        """An answer in any case, within the time for a request, in the shape of the API addressed."""
        try:
            if not is_host(request.headers.get("Host", "")):
                raise Problem(400, BAD_REQUEST, "The header Host names no host.", "Request")
            async with asyncio.timeout(self._services.config.request_seconds):
                return await answer(request, target)
        except Problem as problem:
            return say(problem)
        except HubwireError as error:
            if problem_from(error).status == 500:
                _log.exception("request_failed", method=request.method, path=target.path)
            return say(problem_from(error))
        except TimeoutError:
            if not request.content.is_eof():
                # The body did not come. Python does not repeat a POST after 408 (rest-api.md 3.4).
                slow = Problem(408, BAD_REQUEST, "The request body did not arrive in time.", "Request")
                return say(slow)
            _log.warning("request_timed_out", method=request.method, path=target.path)
            return say(_unavailable("The service did not finish in time."))
        except Exception:
            _log.exception("request_failed", method=request.method, path=target.path)
            return say(_internal())

    async def _data_plane(self, request: web.Request, target: Target) -> web.Response:
        path = target.path
        bare = path.lower().rstrip("/")
        if bare == "/api/health":
            _category.set(HEALTH)
            return self._health(request)
        if bare == _OPENAPI or bare.startswith(_OPENAPI + "/"):
            return self._openapi(request, bare)
        matched = match(path)
        if matched is None and not is_chat(path):
            raise Problem(404, "", "There is nothing at this path.")
        operations = matched.operations if matched is not None else {}
        if request.method == "OPTIONS":
            return cors.options_response(request, operations, self._services.config.cors_origins)
        operation = operations.get(request.method)
        if operation is not None:
            _category.set(operation.id)
        if matched is not None and operation is None:
            raise Problem(405, "", "Not this method.", headers={"Allow": ", ".join(sorted(operations))})
        services = self._services
        await authenticate_rest(
            request, operation, services.settings.keys, services.config, services.issuers, services.clock()
        )
        if matched is None or operation is None:
            raise Problem(501, "Error.NotImplemented", "Chat is not supported by this service.", "Request")
        try:
            query = QueryString(target.query)
            _check_version(query)
            call = Call(self._services, request, target, operation, matched.raw, query)
            response = await HANDLERS[operation.id](call)
        except Problem as problem:
            response = response_of(problem)
            if problem.versions:
                response.headers[SUPPORTED_VERSIONS_HEADER] = SUPPORTED_VERSIONS_VALUE
        except HubwireError as error:
            known = problem_from(error)
            if known.status == 500:
                raise
            response = response_of(known)
            response.headers[SUPPORTED_VERSIONS_HEADER] = SUPPORTED_VERSIONS_VALUE
        else:
            response.headers[SUPPORTED_VERSIONS_HEADER] = SUPPORTED_VERSIONS_VALUE
        return response

    def _health(self, request: web.Request) -> web.Response:
        """No credentials; `api-version` may be there or not (rest-api.md section 12)."""
        if request.method == "OPTIONS":
            return cors.options_response(request, ("GET", "HEAD"), self._services.config.cors_origins)
        if request.method not in ("GET", "HEAD"):
            raise Problem(405, "", "Not this method.", headers={"Allow": "GET, HEAD"})
        if trouble := self._services.cluster.trouble():
            return response_of(_unavailable(trouble))
        return done(200)

    def _openapi(self, request: web.Request, path: str) -> web.Response:
        """/api/openapi names the documents; /api/openapi/{api-version}.json is one. No credentials."""
        if request.method == "OPTIONS":
            return cors.options_response(request, ("GET", "HEAD"), self._services.config.cors_origins)
        if request.method not in ("GET", "HEAD"):
            raise Problem(405, "", "Not this method.", headers={"Allow": "GET, HEAD"})
        name = path.removeprefix(_OPENAPI).removeprefix("/").removesuffix(".json")
        body = self._documents.get(name)
        if body is None:
            raise Problem(404, "", "There is no such document.")
        return web.Response(body=body, headers={"Content-Type": JSON})


def _end(span: Traced, method: str, status: int) -> None:
    span.end(
        {"http.request.method": method, "http.response.status_code": status},
        name=f"REST {_category.get()}",
        failed=status >= 500,
    )


async def _elsewhere(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """The routes of whoever embeds the application, and nothing where there is none."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        code = "Error.NotFound" if error.status == 404 else BAD_REQUEST
        return response_of(Problem(error.status, code, "There is nothing at this path.", "Request"))


def _check_version(query: QueryString) -> None:
    """Without an api-version the latest is meant; all are served alike (rest-api.md 1.3)."""
    values = query.all("api-version")
    if not values or (len(values) == 1 and (values[0] in SUPPORTED_VERSIONS or values[0] in VERSION_ALIASES)):
        return
    message = "The specified API version is not supported."
    raise Problem(400, BAD_REQUEST, message, "api-version")


def _too_many(limit: int) -> Problem:
    message = f"More than {limit} requests are in progress. Repeat this one later."
    return Problem(429, "Error.TooManyRequests", message, "Request", headers={"Retry-After": "1"})


def _unavailable(message: str) -> Problem:
    return Problem(503, "Error.ServiceUnavailable", message, headers={"Retry-After": "1"})


def _internal() -> Problem:
    message = "The service failed to handle the request."
    return Problem(500, "Error.InternalServerError", message)
