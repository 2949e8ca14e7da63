"""Cross-origin requests from browsers: preflight, and the headers of every answer.

Tokens travel in the Authorization header, never in cookies, so credentials are not allowed and any origin
may be; an operator can name the origins instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aiohttp import web

EXPOSED = "api-supported-versions, Retry-After, WWW-Authenticate, x-ms-client-request-id, x-ms-error-code"
MAX_AGE_SECONDS = 86_400


def is_allowed(origin: str, allowed: Sequence[str]) -> bool:
    """Origins are compared without regard to case and to a slash at the end."""
    bare = origin.rstrip("/").lower()
    return any(entry == "*" or entry.rstrip("/").lower() == bare for entry in allowed)


def add_headers(request: web.Request, response: web.StreamResponse, allowed: Sequence[str]) -> None:
    """Say to the browser that the page may read the answer; nothing without an Origin header."""
    origin = request.headers.get("Origin")
    if origin is None:
        return
    if "*" not in allowed:
        response.headers.add("Vary", "Origin")
    if is_allowed(origin, allowed):
        response.headers["Access-Control-Allow-Origin"] = "*" if "*" in allowed else origin
        response.headers["Access-Control-Expose-Headers"] = EXPOSED


def options_response(request: web.Request, methods: Iterable[str], allowed: Sequence[str]) -> web.Response:
    """The answer to OPTIONS: a preflight when the browser asks for one, else what the path can do."""
    names = ", ".join(sorted({*methods, "OPTIONS"}))
    headers = {"Allow": names}
    origin = request.headers.get("Origin")
    wanted = request.headers.get("Access-Control-Request-Method")
    if origin is not None and wanted is not None and is_allowed(origin, allowed):
        headers["Access-Control-Allow-Methods"] = names
        # Authorization is not covered by "*", so what is asked for is repeated.
        asked = request.headers.get("Access-Control-Request-Headers")
        headers["Access-Control-Allow-Headers"] = asked or "Authorization, Content-Type"
        headers["Access-Control-Max-Age"] = str(MAX_AGE_SECONDS)
    return web.Response(status=204, headers=headers)
