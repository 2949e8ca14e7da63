"""Errors in Azure Resource Manager's shape: wrapped in `error` (management-api.md section 4)."""

from __future__ import annotations

import msgspec
from aiohttp import web

from controlplane.problems import JSON, Problem, category_of, encodable
from hubwire.model.errors import HubwireError, Unauthenticated, Unavailable


class ManagementProblem(Exception):
    """An answer other than success. `code` is one that Azure's clients know, where they know one."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        target: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.target = target
        self.headers = headers or {}


def not_found(what: str, name: str) -> ManagementProblem:
    return ManagementProblem(404, "ResourceNotFound", f"The {what} '{name}' was not found.")


def bad_content(message: str, target: str | None = None) -> ManagementProblem:
    return ManagementProblem(400, "InvalidRequestContent", message, target)


def not_supported(message: str) -> ManagementProblem:
    """501, which neither Python nor JavaScript repeat, and which cannot be taken for bad input."""
    return ManagementProblem(501, "FeatureNotSupported", message)


# One code for each status that an error of the model can have.
_CODES = {
    400: "InvalidRequestContent",
    401: "InvalidAuthenticationToken",
    403: "AuthorizationFailed",
    404: "ResourceNotFound",
    408: "RequestTimeout",
    409: "Conflict",
    413: "RequestContentTooLarge",
    429: "TooManyRequests",
    500: "InternalServerError",
    503: "ServiceUnavailable",
}


def management_problem_from(error: HubwireError) -> ManagementProblem:
    status = category_of(error).status
    headers: dict[str, str] = {}
    if isinstance(error, Unauthenticated):
        # Without a `claims` challenge: SDKs would try to step up.
        headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'
    elif isinstance(error, Unavailable):
        headers["Retry-After"] = "1"
    message = "The service failed to handle the request." if status == 500 else str(error)
    return ManagementProblem(status, _CODES[status], message, getattr(error, "target", None), headers)


def management_response_to(problem: Problem) -> web.Response:
    """What was found before or around this API, in its shape."""
    code = _CODES.get(problem.status, "InvalidRequestContent")
    return management_response_of(
        ManagementProblem(problem.status, code, problem.message, problem.target, problem.headers)
    )


def management_response_of(problem: ManagementProblem) -> web.Response:
    error: dict[str, object] = {
        "code": problem.code,
        "message": encodable(problem.message),
        "target": None if problem.target is None else encodable(problem.target),
        "details": [],
        "additionalInfo": [],
    }
    headers = {**problem.headers, "Content-Type": JSON}
    return web.Response(status=problem.status, body=msgspec.json.encode({"error": error}), headers=headers)


def json_response(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), headers={"Content-Type": JSON})
