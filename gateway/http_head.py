"""The head of an HTTP request, parsed from its bytes: pure (RFC 9112)."""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_HEAD_BYTES = 32 * 1024
"""Request line and headers together; a token in the query has to fit (client-protocols.md 2.2)."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(r"[\x21-\x7e]+")


class BadHead(Exception):
    """Not an HTTP request that we could serve; answered with 400."""


class Head(NamedTuple):
    """`headers` by lower-case name, repeated ones joined with ", "."""

    method: str
    target: str
    version: str
    headers: dict[str, str]

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    def tokens(self, name: str) -> list[str]:
        """A header that is a list of tokens, such as Connection. What is no token (RFC 9110, 5.6.2) is
        left out, so that it can never stand in a header of ours."""
        parts = (part.strip(" \t") for part in self.headers.get(name, "").split(","))
        return [part for part in parts if _TOKEN.fullmatch(part)]


def _origin_form(target: str) -> str:
    """Without scheme and authority, which the absolute form has (RFC 9112, 3.2.2: from a proxy)."""
    if not target.startswith(("http://", "https://")):
        return target
    rest = target[target.index("://") + 3 :]
    at = min((rest.index(mark) for mark in "/?" if mark in rest), default=len(rest))
    return rest[at:] if rest[at : at + 1] == "/" else "/" + rest[at:]


def path_of(target: str) -> str:
    """The path of a request target."""
    return _origin_form(target).partition("?")[0]


def parse_head(data: bytes) -> Head:
    """Parse everything up to and without the empty line. Raises BadHead."""
    lines = data.decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not _TARGET.fullmatch(parts[1]):
        raise BadHead("The request line is not one of HTTP/1.1.")
    method, target, version = parts
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise BadHead("Only HTTP/1.1 is served here.")
    target = _origin_form(target)
    if not target.startswith("/"):
        raise BadHead("The request target is not a path.")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not _TOKEN.fullmatch(name) or "\n" in value or "\r" in value or "\0" in value:
            raise BadHead("A header line is malformed.")
        name = name.lower()
        value = value.strip(" \t")
        if name in headers:
            if name in ("host", "content-length", "sec-websocket-key", "sec-websocket-version"):
                raise BadHead(f"The header {name} is given twice.")
            headers[name] = f"{headers[name]}, {value}"
        else:
            headers[name] = value
    if "host" not in headers and version == "HTTP/1.1":
        raise BadHead("The header Host is missing.")
    return Head(method, target, version, headers)
