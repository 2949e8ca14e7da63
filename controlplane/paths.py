"""From the raw request target to an operation and its path parameters (rest-api.md 1.1 and 1.2).

The framework's router decodes before it matches; here an escape must not be able to change the route, and
`%2F` stays as it is. So the raw path is split first and decoded segment by segment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from controlplane.operations import OPERATIONS, Operation
from controlplane.problems import invalid_value

_SLASH_ESCAPE = re.compile(r"(%2f)", re.IGNORECASE)
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")


class Matched(NamedTuple):
    """The operations of a path by method (never empty), and its raw, undecoded parameters."""

    operations: dict[str, Operation]
    raw: dict[str, str]


class Target(NamedTuple):
    """A request target in its two parts, both raw: `path` begins with a slash, `query` has no "?"."""

    path: str
    query: str


def split_target(raw: str) -> Target:
    """Also for the absolute form that proxies are sent."""
    match = _ABSOLUTE.match(raw)
    if match is not None:
        raw = raw[match.end() :] or "/"
    path, _, query = raw.partition("?")
    return Target(path, query.partition("#")[0])


def without_prefix(path: str, prefixes: Iterable[str]) -> str:
    """The path below a public endpoint that has a path of its own; unchanged when it is below none."""
    if not path.lower().startswith("/api/"):
        for prefix in prefixes:
            if prefix and path.lower().startswith(prefix.lower() + "/api/"):
                return path[len(prefix) :]
    return path


def decode_segment(raw: str, name: str) -> str:
    """Decode once, except `%2F`; a plus stays a plus. Raises Problem (400) when it is not UTF-8."""
    # Bytes beyond ASCII that came unescaped stand in the framework's string as surrogates.
    parts = _SLASH_ESCAPE.split(raw)
    try:
        return "".join(
            part if index % 2 else unquote_to_bytes(part.encode("utf-8", "surrogateescape")).decode()
            for index, part in enumerate(parts)
        )
    except UnicodeError:
        raise invalid_value(name, raw.encode("ascii", "replace").decode()) from None


def _literal(segment: str) -> str:
    """For comparing with literal segments; actions may come with their colon escaped."""
    lowered = segment.lower()
    return ":" + lowered[3:] if lowered.startswith("%3a") else lowered


def _build() -> dict[int, list[tuple[tuple[str, ...], dict[str, Operation]]]]:
    by_template: dict[tuple[str, ...], dict[str, Operation]] = {}
    for operation in OPERATIONS:
        template = tuple(operation.path.strip("/").split("/"))
        by_template.setdefault(template, {})[operation.method] = operation
    table: dict[int, list[tuple[tuple[str, ...], dict[str, Operation]]]] = {}
    for template, operations in by_template.items():
        table.setdefault(len(template), []).append((template, operations))
    return table


_TABLE = _build()


def match(path: str) -> Matched | None:
    """The operations at a raw path below /api/hubs; None when there is none of that form.

    A slash at the end is allowed. No segment may be empty.
    """
    segments = path.removesuffix("/").split("/")
    if len(segments) < 5 or segments[0] or [s.lower() for s in segments[1:3]] != ["api", "hubs"]:
        return None
    hub, below = segments[3], segments[4:]
    if not hub or "" in below:
        return None
    for template, operations in _TABLE.get(len(below), ()):
        raw = {"hub": hub}
        for expected, segment in zip(template, below, strict=True):
            if expected.startswith("{"):
                raw[expected[1:-1]] = segment
            elif expected.lower() != _literal(segment):
                break
        else:
            return Matched(operations, raw)
    return None


def is_chat(path: str) -> bool:
    """Whether the path belongs to the chat preview, which is not served (rest-api.md section 15)."""
    segments = path.split("/")
    return len(segments) > 4 and [s.lower() for s in segments[1:3] + segments[4:5]] == ["api", "hubs", "chat"]
