"""Where the client is when it says where it is: the service's address as a caller of REST sees it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from aiohttp import web

_HOST = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]*)(?::(?P<port>[0-9]{0,5}))?"  # RFC 3986, 3.2.2
)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def prefixes_of(public_endpoints: Sequence[str]) -> tuple[str, ...]:
    """The paths of the public endpoints, without a slash at the end; empty where there is none."""
    return tuple(urlsplit(endpoint).path.rstrip("/") for endpoint in public_endpoints)


def is_host(value: str) -> bool:
    """Whether a Host header is one; other ones must be answered with 400 (RFC 9112, 3.2)."""
    match = _HOST.fullmatch(value)
    return match is not None and int(match["port"] or 0) <= 65535


def endpoint_of(request: web.Request, public_endpoints: Sequence[str]) -> str:
    """`scheme://host[:port][/prefix]` for answers that hold a URL.

    The public endpoint that the Host header names; else the first one configured, since a proxy has put
    its own name into Host then; else what the request itself says.
    """
    host = request.headers.get("Host", "")
    for endpoint in public_endpoints:
        if _bare(urlsplit(endpoint).netloc) == _bare(host):
            return endpoint.rstrip("/")
    if public_endpoints:
        return public_endpoints[0].rstrip("/")
    return f"{request.scheme}://{host}"


def request_url_of(request: web.Request) -> str:
    """The absolute URL as it was on the wire, escapes untouched: what audiences are compared with."""
    raw = request.raw_path
    if not raw.startswith("/"):
        return raw  # the absolute form
    return f"{request.scheme}://{request.headers.get('Host', '')}{raw}"


def _bare(netloc: str) -> str:
    lowered = netloc.lower()
    for port in _DEFAULT_PORTS.values():
        lowered = lowered.removesuffix(port)
    return lowered
