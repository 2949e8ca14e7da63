"""What goes wrong, and the one table from its category to an HTTP status and a body.

Two shapes of body, as the service itself answers (spec/recorded-exchanges.json, rest-api.md section 3):

    flat      {"code", "message", "target", "details", "innererror"}      what the service says
    problem   the same beginning, and an RFC 7807 object: what is said while parameters are being bound

Azure's recordings name the last member `innererror` where its schema says `inner`; the recordings win.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec
from aiohttp import web

from hubwire.model.errors import (
    Conflict,
    HubwireError,
    InternalError,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    SlowConsumer,
    Unauthenticated,
    Unavailable,
)

ERROR_CODE_HEADER = "x-ms-error-code"
BAD_REQUEST = "Error.BadRequest"
JSON = "application/json; charset=utf-8"
PROBLEM_JSON = "application/problem+json; charset=utf-8"
INVALID_GROUP = "Invalid group name. Valid group name should be in between 1 and 1024 characters long."

Shape = Literal["flat", "problem", "problem+json"]


class Category(NamedTuple):
    status: int
    code: str


# By exact class; subclasses are found along the method resolution order.
CATEGORIES: dict[type[HubwireError], Category] = {
    InvalidRequest: Category(400, BAD_REQUEST),
    ProtocolViolation: Category(400, BAD_REQUEST),
    Unauthenticated: Category(401, ""),  # an empty body (rest-api.md section 2)
    PermissionDenied: Category(403, "Error.Forbidden"),
    NotFound: Category(404, "Error.NotFound"),
    Conflict: Category(409, "Error.Conflict"),
    LimitExceeded: Category(413, BAD_REQUEST),
    SlowConsumer: Category(503, "Error.ServiceUnavailable"),
    Unavailable: Category(503, "Error.ServiceUnavailable"),
    InternalError: Category(500, "Error.InternalServerError"),
    HubwireError: Category(500, "Error.InternalServerError"),
}


class Problem(Exception):
    """An answer other than success, ready to be written. Raised anywhere in the control plane.

    `versions` says whether the answer names the supported api-versions: the service's own answers do,
    those from the binding of parameters do not (rest-api.md 1.3).
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        target: str | None = None,
        *,
        shape: Shape = "flat",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.target = target
        self.shape = shape
        self.headers = headers or {}

    @property
    def versions(self) -> bool:
        return self.shape == "flat"


def category_of(error: HubwireError) -> Category:
    """The row of the table for an error or a subclass of it."""
    for cls in type(error).__mro__:
        found = CATEGORIES.get(cls)
        if found is not None:
            return found
    raise AssertionError("HubwireError itself is in the table.")


def problem_from(error: HubwireError) -> Problem:
    """Turn an error of the model into the answer for it. Errors of ours say nothing of their inside."""
    status, code = category_of(error)
    headers: dict[str, str] = {}
    message = str(error)
    target = getattr(error, "target", None)
    if isinstance(error, Unauthenticated):
        # Printable ASCII without quotes: the sentence may hold what the caller sent.
        text = "".join(c if " " <= c <= "~" and c not in '"\\' else "?" for c in message)[:1000]
        headers["WWW-Authenticate"] = f'Bearer error="invalid_token", error_description="{text}"'
    elif isinstance(error, (Unavailable, SlowConsumer)):
        headers["Retry-After"] = "1"
    elif status == 500:
        message = "The service failed to handle the request."
    elif isinstance(error, LimitExceeded):
        target = "Request"
    return Problem(status, code, message, target, headers=headers)


def invalid(target: str, message: str, *, shape: Shape = "problem") -> Problem:
    """A parameter or property that cannot be used (rest-api.md 3.2)."""
    return Problem(400, BAD_REQUEST, message, target, shape=shape)


def invalid_value(target: str, value: str, *, shape: Shape = "problem") -> Problem:
    return invalid(target, f"The value '{value}' is not valid.", shape=shape)


def invalid_body(message: str, status: int = 400) -> Problem:
    """The request as a whole is at fault, not one parameter."""
    return Problem(status, BAD_REQUEST, message, "Request")


def encodable(text: str) -> str:
    """A text that can be encoded: what a header held that is no UTF-8 has come as halves of surrogates."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def body_of(problem: Problem) -> bytes:
    """The JSON text, members in the order that the service writes them; empty where it writes none."""
    if not problem.code:
        return b""
    message = encodable(problem.message)
    target = None if problem.target is None else encodable(problem.target)
    head = {"code": problem.code, "message": message, "target": target}
    if problem.shape == "flat":
        return msgspec.json.encode({**head, "details": None, "innererror": None})
    return msgspec.json.encode(
        {
            **head,
            "errors": {target or "Request": [message]},
            "type": None,
            "title": "One or more validation errors occurred.",
            "status": problem.status,
            "detail": None,
            "instance": None,
            "extensions": {},
        }
    )


def response_of(problem: Problem) -> web.Response:
    """The answer as HTTP. For HEAD the transport leaves the body away and keeps its length."""
    body = body_of(problem)
    headers = dict(problem.headers)
    if body:
        headers["Content-Type"] = PROBLEM_JSON if problem.shape == "problem+json" else JSON
        headers[ERROR_CODE_HEADER] = problem.code
    headers["Content-Length"] = str(len(body))
    return web.Response(status=problem.status, body=body, headers=headers)


def head_of(problem: Problem) -> str:
    """The head of the answer on the wire, but its end: for where aiohttp does not write it."""
    response = response_of(problem)
    return f"HTTP/1.1 {problem.status} {response.reason}\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in response.headers.items()
    )
