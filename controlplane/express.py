"""The short way of the commonest call: a send to a hub, group or user that is complete and in order.

It takes a request only when everything about it is plain: written as the SDKs write it, signed, with a small
body that is what it says. Of anything else it says nothing and changes nothing, and the request goes the
ordinary way over aiohttp, which finds out what is wrong with it, or does what is rare. So there is one place
for each refusal, and this one need only know what it accepts. Measured, CPU of the control plane for a call:
490 us the ordinary way, 190 us this way (16 in flight).

Nothing here knows a socket; `controlplane.http` has that part.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import structlog
from aiohttp import web

from controlplane.auth import verify_signed
from controlplane.bare_http import SERVER
from controlplane.call import Services
from controlplane.content import METADATA_PREFIX, ContentType, parse_content_type, to_message_data
from controlplane.endpoints import is_host
from controlplane.meters import RequestTimes
from controlplane.operations import (
    SUPPORTED_VERSIONS,
    SUPPORTED_VERSIONS_HEADER,
    SUPPORTED_VERSIONS_VALUE,
    VERSION_ALIASES,
)
from controlplane.paths import decode_segment
from controlplane.ports import Target
from controlplane.problems import Problem, body_of, head_of, problem_from
from hubwire.model.errors import HubwireError
from hubwire.model.message import Message
from hubwire.model.names import is_valid_group, normalize_hub
from hubwire.runtime.traces import Traces

MAX_BODY_BYTES = 64 * 1024
"""A larger body may take its time to come; the ordinary way has deadlines for that."""

_SEGMENT = r"[A-Za-z0-9\-._~!$&'()*+,;=:@%]+"  # RFC 3986, 3.3: what needs no escape, and escapes
_TARGET = re.compile(
    rf"POST (?P<raw>/api/hubs/(?P<hub>[A-Za-z0-9_]+)(?:/(?P<kind>groups|users)/(?P<name>{_SEGMENT}))?"
    r"/(?::|%3[Aa])send(?:\?api-version=(?P<version>[0-9a-z-]+))?) HTTP/1\.1\r\n"
)
_FIELDS = re.compile(r"(?:[A-Za-z0-9!#$%&'*+\-.^_`|~]+:[ -~]*\r\n)+\r\n")  # RFC 9112, 5, without tabs
_MAX_FIELDS = 64
_RARE = frozenset(
    (
        "content-encoding",
        "expect",
        "origin",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
_VERSIONS_KNOWN = frozenset((None, *SUPPORTED_VERSIONS, *VERSION_ALIASES))
_OPERATIONS = {None: "SendToAll", "groups": "SendToGroup", "users": "SendToUser"}
_LENGTH = re.compile(r"[0-9]{1,6}")
REQUEST_ID = "x-ms-client-request-id"
_VERSIONS = f"{SUPPORTED_VERSIONS_HEADER}: {SUPPORTED_VERSIONS_VALUE}\r\n"
STRICT_TRANSPORT_SECURITY = "max-age=15724800; includeSubDomains"
_SERVER = f"Server: {SERVER}\r\n"
_END = {False: _SERVER, True: f"{_SERVER}Strict-Transport-Security: {STRICT_TRANSPORT_SECURITY}\r\n"}
_ACCEPTED = f"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n{_VERSIONS}"

_log = structlog.get_logger(__name__)


class Head(NamedTuple):
    """The head of a request that may go this way."""

    raw: str
    hub: str
    kind: str | None
    name: str
    fields: dict[str, str]  # by name in lower case
    body_bytes: int


def read_head(head: bytes) -> Head | None:
    """The head, when it is one of a send, and all about it is usual."""
    try:
        text = head.decode("ascii")
    except UnicodeDecodeError:
        return None
    found = _TARGET.match(text)
    if found is None or found["version"] not in _VERSIONS_KNOWN or not _FIELDS.fullmatch(text, found.end()):
        return None
    lines = text[found.end() : -4].split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if len(fields) != len(lines) or len(lines) > _MAX_FIELDS or not _RARE.isdisjoint(fields):
        return None
    length = fields.get("content-length", "")
    if not _LENGTH.fullmatch(length) or int(length) > MAX_BODY_BYTES or METADATA_PREFIX in text.lower():
        return None
    if fields.get("connection", "keep-alive").lower() != "keep-alive":
        return None
    return Head(found["raw"], found["hub"], found["kind"], found["name"] or "", fields, int(length))


class Express:
    """Takes requests of one process that are complete. Bounded as the ordinary way is, and counted there."""

    def __init__(self, services: Services, times: RequestTimes, traces: Traces) -> None:
        self._services = services
        self._times = times
        self._traces = traces

    def take(self, head: Head, body: bytes, secure: bool, answer: Callable[[str, bytes], None]) -> bool:
        """Whether the request is accepted; then `answer` is called once, perhaps before this returns, within
        the time for a request, with the head of the answer but its date, and its body. If not, nothing has
        been done. `secure` is whether it came by TLS."""
        config = self._services.config
        limit = config.max_concurrent_requests
        if self._traces.on or (limit is not None and self._times.active >= limit):
            return False
        begun = time.perf_counter()
        fields, operation = head.fields, _OPERATIONS[head.kind]
        try:
            target, message = self._understood(head, body, secure)
        except (Problem, HubwireError):
            return False  # the ordinary way says it
        except Exception:
            _log.exception("request_failed", method="POST", path=head.raw)
            return False

        def answered(error: HubwireError | None) -> None:
            self._times.active -= 1
            status, text, said = (202, _ACCEPTED, b"") if error is None else _refusal(error, head.raw)
            self._times.record(operation, status, time.perf_counter() - begun)
            if REQUEST_ID in fields:
                text = f"{text}{REQUEST_ID}: {fields[REQUEST_ID]}\r\n"
            answer(text + _END[secure], said)

        self._times.active += 1
        try:
            self._services.cluster.submit(head.hub.lower(), target, message, answered, config.request_seconds)
        except HubwireError:
            self._times.active -= 1
            return False
        return True

    def _understood(self, head: Head, body: bytes, secure: bool) -> tuple[Target, Message]:
        """Whom to send what. Raises Problem or HubwireError when anything is not as it should be."""
        services, fields = self._services, head.fields
        config, host = services.config, fields.get("host", "")
        if not host or not is_host(host):
            raise Problem(400, "", "")
        url = f"http{'s' * secure}://{host}{head.raw}"
        verify_signed(fields.get("authorization", ""), url, services.settings.keys, config, services.clock())
        hub = normalize_hub(head.hub)
        name = decode_segment(head.name, "name") if "%" in head.name else head.name
        if head.kind == "groups":
            if not is_valid_group(name):
                raise Problem(400, "", "")
            target, group = Target("group", name), name
        else:
            target, group = (Target("user", name) if head.kind else Target("hub")), None
        limit = config.max_body_bytes
        limits = services.settings.limits(hub)
        if limits.hub_messages_per_second_per_gateway is not None:
            raise Problem(429, "", "")  # counted where it may be refused
        if limits.max_message_bytes is not None:
            limit = min(limit, limits.max_message_bytes)
        if len(body) > limit:
            raise Problem(413, "", "")
        content_type = _content_type(fields.get("content-type"))
        data = to_message_data(content_type, body, limit)
        return target, Message(content_type.data_type, data, group=group)


EXPRESS = web.AppKey("express", Express)
"""Where `controlplane.http` finds it beside the application."""


@lru_cache(maxsize=64)
def _content_type(header: str | None) -> ContentType:
    """Remembered, as nearly all calls have one of a few; what is refused is not."""
    return parse_content_type(header)


def _refusal(error: HubwireError, path: str) -> tuple[int, str, bytes]:
    problem = problem_from(error)
    if problem.status == 500:  # a fault of ours, and no answer of the API: that names no versions
        _log.exception("request_failed", method="POST", path=path, exc_info=error)
        return problem.status, head_of(problem), body_of(problem)
    return problem.status, head_of(problem) + _VERSIONS, body_of(problem)
