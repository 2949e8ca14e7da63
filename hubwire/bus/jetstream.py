"""JetStream's API by plain requests, for code that writes one small message for every connection.

nats-py's own calls go through one future, one subscription lookup and a dataclass each; these go through
`BusClient.ask`. Every answer is that of the stream's leader, so it is never an old one.
"""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any, NamedTuple

from hubwire.bus.client import NO_RESPONDERS, BusClient
from hubwire.model.errors import NotFound, Unavailable

ASK_SECONDS = 5.0

_NO_STREAM = 10059
_WRONG_REVISION = (10071, 10164)
_FULL = (10077, 10122, 10047, 10028, 10023)
"""Maximum bytes, maximum messages, the account's or the server's resources."""


class StreamMissing(Unavailable):
    """The stream is not there (any more): make it, then try again."""


class StreamFull(Unavailable):
    """The stream has no room. What is stored already stays."""


class StoredMessage(NamedTuple):
    seq: int
    subject: str
    data: bytes


async def store(
    bus: BusClient, subject: str, data: bytes, revision: int | None = None, timeout: float = ASK_SECONDS
) -> int | None:
    """Store a message and return its sequence number.

    With `revision` only if the last message of the subject is that one (0: there is none); None says that
    it was not. Raises StreamMissing, StreamFull, and Unavailable when it is not known whether it was stored.
    """
    headers = b""
    if revision is not None:
        headers = f"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: {revision}\r\n\r\n".encode()
    try:
        content = await _ask(bus, subject, data, timeout, headers)
    except Unavailable as error:
        if str(error) == NO_RESPONDERS:
            raise StreamMissing("Nobody stores this subject.") from error
        raise
    fault = content.get("error")
    if fault is None:
        return int(content["seq"])
    if fault.get("err_code") in _WRONG_REVISION:
        return None
    if fault.get("err_code") in _FULL:
        raise StreamFull(f"JetStream has no room: {fault.get('description')}.")
    raise Unavailable(f"JetStream did not store a message: {fault.get('description')}.")


async def call(bus: BusClient, operation: str, stream: str, request: dict[str, Any]) -> dict[str, Any]:
    """One call of `$JS.API.STREAM.<operation>.<stream>`. Raises NotFound for a message that is not there,
    StreamMissing, Unavailable."""
    subject = f"$JS.API.STREAM.{operation}.{stream}"
    content = await _ask(bus, subject, json.dumps(request).encode(), ASK_SECONDS)
    error = content.get("error")
    if error is None:
        return content
    if error.get("err_code") == _NO_STREAM:
        raise StreamMissing(f"The stream {stream} is not there.")
    if error.get("code") == 404:
        raise NotFound("message")
    raise Unavailable(f"JetStream refused {operation}: {error.get('description')}.")


async def last_of(bus: BusClient, stream: str, subject: str) -> StoredMessage | None:
    """The last message of a subject, None when there is none."""
    return await _get(bus, stream, {"last_by_subj": subject})


async def next_of(bus: BusClient, stream: str, pattern: str, after: int) -> StoredMessage | None:
    """The first message after a sequence number whose subject matches, None when there is no more."""
    return await _get(bus, stream, {"seq": after + 1, "next_by_subj": pattern})


async def message_at(bus: BusClient, stream: str, seq: int) -> StoredMessage | None:
    return await _get(bus, stream, {"seq": seq})


async def _get(bus: BusClient, stream: str, request: dict[str, Any]) -> StoredMessage | None:
    try:
        found = (await call(bus, "MSG.GET", stream, request))["message"]
    except NotFound:
        return None
    return StoredMessage(int(found["seq"]), str(found["subject"]), b64decode(found.get("data", "")))


async def _ask(
    bus: BusClient, subject: str, data: bytes, timeout: float, headers: bytes = b""
) -> dict[str, Any]:
    answer = await bus.ask(subject, data, timeout, headers)
    try:
        content = json.loads(answer)
        if isinstance(content, dict):
            return content
    except ValueError:
        pass
    raise Unavailable(f"JetStream's answer cannot be read: {answer[:200]!r}")
