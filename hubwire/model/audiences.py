"""Which audiences of a token fit a hub or a REST request (client-protocols.md 2.3, rest-api.md 2.1).

An audience only tells one place from another: the signature has proved the key by then. So what cannot be
told apart behind a proxy is not: the schemes http, https, ws and wss are one, a default port is none, and
letter case does not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, Literal, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, unquote

ClientType: TypeAlias = Literal["default", "mqtt", "socketio"]

CLIENT_PATHS: Final[dict[ClientType, str]] = {
    "default": "/client/hubs/",
    "mqtt": "/clients/mqtt/hubs/",
    "socketio": "/clients/socketio/hubs/",
}
MANAGEMENT_AUDIENCE: Final = "https://management.azure.com"

_URL = re.compile(r"(?:https?|wss?)://([^/?#]+)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.DOTALL)
_DEFAULT_PORT = re.compile(r":(?:80|443)?$")
_ESCAPE_BUT_SLASH = re.compile(r"(?:%(?!2f)[0-9a-f]{2})+", re.IGNORECASE)
_REST_ROOT: Final = "/api/hubs/"


class _Url(NamedTuple):
    authority: str
    path: str  # lower case, escapes as they were
    query: str


class AudiencePolicy(NamedTuple):
    """The endpoints, as `host[:port][/prefix]` in lower case, that clients may have put into an audience."""

    endpoints: tuple[str, ...] = ()
    scheme: str = ""
    """Of the first public endpoint, for error messages; empty when there is none."""

    @classmethod
    def of(cls, public_endpoints: Sequence[str], host: str | None = None) -> AudiencePolicy:
        """From the configured public endpoints (URLs, also with a path) and the request's own Host header.

        Raises `ValueError` when a public endpoint is not a URL; an odd `host` just never fits.
        """
        scheme = public_endpoints[0].lower().partition("://")[0] if public_endpoints else ""
        return cls(tuple(map(_endpoint, public_endpoints)), scheme).with_host(host)

    def with_host(self, host: str | None) -> AudiencePolicy:
        """These and the host that one request was sent to."""
        if not host:
            return self
        return AudiencePolicy((*self.endpoints, _DEFAULT_PORT.sub("", host.lower())), self.scheme)


def fits_client(audience: str, hub: str, policy: AudiencePolicy, client_type: ClientType = "default") -> bool:
    """Whether it names the client endpoint of the hub (a normalised name)."""
    suffix = CLIENT_PATHS[client_type] + hub
    _, _, rest = audience.lower().partition("://")
    if not any(rest == endpoint + suffix for endpoint in policy.endpoints):  # how all SDKs write it
        return _fits_client(audience, hub, suffix, policy, client_type)
    return _parse(audience) is not None  # the scheme is one of ours


def _fits_client(
    audience: str, hub: str, suffix: str, policy: AudiencePolicy, client_type: ClientType
) -> bool:
    url = _parse(audience)
    if url is None:
        return False
    for endpoint in policy.endpoints:
        authority, slash, prefix = endpoint.partition("/")
        if url.authority != authority or not url.path.startswith(slash + prefix):
            continue
        path = url.path[len(slash + prefix) :].rstrip("/")
        if not url.query and suffix in (path, unquote(path)):  # .NET escapes the hub
            return True
        if client_type == "default" and path == "/client" and parse_qsl(url.query) == [("hub", hub)]:
            return True
    return False


def fits_rest(audience: str, request_url: str, policy: AudiencePolicy) -> bool:
    """Whether it names the request, or something below it. Never so for a URL that is not of the REST API."""
    request, url = _parse(request_url), _parse(audience)
    if request is None or url is None:
        return False
    paths = {url.path, unquote(url.path), _unescape_but_slash(url.path)}
    for authority, path in _places(request, policy):
        if url.authority != authority:
            continue
        for wanted in {path, _unescape_but_slash(path)}:
            if any(each == wanted or each.startswith(wanted + "/") for each in paths):
                return True
    return False


def fits_management(audience: str) -> bool:
    return audience.lower().removesuffix("/.default").rstrip("/") == MANAGEMENT_AUDIENCE


def expected_client(hub: str, policy: AudiencePolicy, client_type: ClientType = "default") -> str:
    """The audiences that would fit, for an error message. Other schemes would do as well."""
    scheme = policy.scheme or "http"
    return ", ".join(
        f"{scheme}://{endpoint}{CLIENT_PATHS[client_type]}{hub}" for endpoint in policy.endpoints
    )


def expected_rest(request_url: str, policy: AudiencePolicy) -> str:
    request = _parse(request_url)
    scheme = policy.scheme or request_url.partition("://")[0].lower()
    return "" if request is None else ", ".join(f"{scheme}://{a}{p}" for a, p in _places(request, policy))


def _places(request: _Url, policy: AudiencePolicy) -> Iterator[tuple[str, str]]:
    """(authority, path) under which the caller may know what was requested."""
    path = request.path.rstrip("/")
    if path.startswith(_REST_ROOT):
        yield request.authority, path
    for endpoint in policy.endpoints:
        authority, slash, prefix = endpoint.partition("/")
        if path.startswith(_REST_ROOT):
            # A proxy has taken the prefix away, or there is none.
            yield authority, slash + prefix + path
        elif slash and path.startswith(slash + prefix + _REST_ROOT):
            yield authority, path
            yield request.authority, path


@lru_cache(maxsize=256)
def _endpoint(text: str) -> str:
    url = _parse(text)
    if url is None or url.query:
        raise ValueError(f"{text!r} is not an endpoint: http(s)://host[:port][/path] is needed")
    return url.authority + url.path.rstrip("/")


def _parse(text: str) -> _Url | None:
    match = _URL.fullmatch(text.lower())
    if match is None:
        return None
    return _Url(_DEFAULT_PORT.sub("", match[1]), match[2], match[3] or "")


def _unescape_but_slash(path: str) -> str:
    return _ESCAPE_BUT_SLASH.sub(lambda match: unquote(match[0]), path).lower()
