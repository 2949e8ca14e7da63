"""The cookies of one connection: they keep it on one server behind a load balancer (server-events.md 3.8).

RFC 6265 as far as that needs it. Pure: the time is an argument. A jar belongs to one connection and is
bounded; what is too large, malformed or not ASCII is left out, since it could never be sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_tz
from ipaddress import ip_address
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

MAX_COOKIES: Final = 20
MAX_COOKIE_BYTES: Final = 4096
"""Of one `Set-Cookie` value."""


class Cookie(msgspec.Struct, frozen=True, array_like=True):
    """`expires` is Unix time in seconds; None: as long as the connection."""

    name: str
    value: str
    domain: str
    host_only: bool
    path: str
    secure: bool
    expires: float | None = None


class _Place(NamedTuple):
    """What a URL says to cookies."""

    host: str
    path: str
    secure: bool


def store(cookies: tuple[Cookie, ...], url: str, set_cookie: Iterable[str], now: float) -> tuple[Cookie, ...]:
    """The jar after an answer from `url` with these `Set-Cookie` values. When there are more than 20, the
    oldest go."""
    place = _place(url)
    kept = {_key(cookie): cookie for cookie in cookies if not _expired(cookie, now)}
    for line in set_cookie:
        cookie = _parse(line, place, now)
        if cookie is None:
            continue
        kept.pop(_key(cookie), None)
        if not _expired(cookie, now):
            kept[_key(cookie)] = cookie
    return tuple(kept.values())[-MAX_COOKIES:]


def cookie_header(cookies: Iterable[Cookie], url: str, now: float) -> str | None:
    """The value of `Cookie` for a request to `url`; None when there is none to send."""
    place = _place(url)
    fitting = [cookie for cookie in cookies if _fits(cookie, place) and not _expired(cookie, now)]
    fitting.sort(key=lambda cookie: -len(cookie.path))  # RFC 6265, 5.4: longer paths first, else the oldest
    return "; ".join(f"{cookie.name}={cookie.value}" for cookie in fitting) or None


def _place(url: str) -> _Place:
    parts = urlsplit(url)
    return _Place(parts.hostname or "", parts.path or "/", parts.scheme == "https")


def _key(cookie: Cookie) -> tuple[str, str, str]:
    return cookie.name, cookie.domain, cookie.path


def _expired(cookie: Cookie, now: float) -> bool:
    return cookie.expires is not None and cookie.expires <= now


def _fits(cookie: Cookie, place: _Place) -> bool:
    if cookie.secure and not place.secure:
        return False
    if place.host != cookie.domain and (cookie.host_only or not place.host.endswith("." + cookie.domain)):
        return False
    path = cookie.path
    return place.path == path or (
        place.path.startswith(path) and (path.endswith("/") or place.path[len(path)] == "/")
    )


def _parse(line: str, place: _Place, now: float) -> Cookie | None:
    if len(line) > MAX_COOKIE_BYTES or not line.isascii():
        return None
    pair, *attributes = line.split(";")
    name, equals, value = pair.partition("=")
    name, value = name.strip(), value.strip()
    if not equals or not name or not (name + value).isprintable():
        return None
    domain, host_only, path, secure = place.host, True, _default_path(place.path), False
    expires: float | None = None
    max_age: float | None = None
    for attribute in attributes:
        key, _, text = attribute.partition("=")
        key, text = key.strip().lower(), text.strip()
        if key == "secure":
            secure = True
        elif key == "path":
            path = text if text.startswith("/") else _default_path(place.path)
        elif key == "domain" and text:
            wanted = text.lower().removeprefix(".")
            if not _may_set(wanted, place.host):
                return None
            domain, host_only = wanted, wanted == place.host and _is_address(wanted)
        elif key == "expires":
            expires = _date(text, expires)
        elif key == "max-age" and text.removeprefix("-").isdigit():
            max_age = now + int(text[:10])
    if max_age is not None:  # it wins over Expires
        expires = max_age
    return Cookie(name, value, domain, host_only, path, secure, expires)


def _may_set(domain: str, host: str) -> bool:
    """Whether an answer from `host` may set cookies of `domain`. There is no list of public suffixes here;
    a domain of one label is refused, and a jar sees only the few hosts of one hub's handlers."""
    if domain == host:
        return True
    return "." in domain and host.endswith("." + domain) and not _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _default_path(path: str) -> str:
    """RFC 6265, 5.1.4."""
    return path[: path.rindex("/")] or "/" if path.startswith("/") else "/"


def _date(text: str, otherwise: float | None) -> float | None:
    parsed = parsedate_tz(text)
    if parsed is None:
        return otherwise
    try:
        return datetime(*parsed[:6], tzinfo=UTC).timestamp() - (parsed[9] or 0)
    except (ValueError, OverflowError):
        return otherwise
