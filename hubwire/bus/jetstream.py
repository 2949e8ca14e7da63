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
    bus: BusClient,
    subject: str,
    data: bytes,
    revision: int | None = None,
    timeout: float = ASK_SECONDS,
    *,
    ttl_seconds: int | None = None,
) -> int | None:
    """Store a message and return its sequence number.

    With `revision` only if the last message of the subject is that one (0: there is none); None says that
    it was not. With `ttl_seconds` the server removes the message by itself that long after, if its stream
    allows that. Raises StreamMissing (nobody answers: so it is also while a leader is elected), StreamFull,
    and Unavailable when it is not known whether it was stored.
    """
    lines = []
    if revision is not None:
        lines.append(f"Nats-Expected-Last-Subject-Sequence: {revision}\r\n")
    if ttl_seconds is not None:
        lines.append(f"Nats-TTL: {ttl_seconds}s\r\n")
    headers = f"NATS/1.0\r\n{''.join(lines)}\r\n".encode() if lines else b""
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


async def call(
    bus: BusClient, operation: str, stream: str, request: dict[str, Any], timeout: float = ASK_SECONDS
) -> dict[str, Any]:
    """One call of `$JS.API.STREAM.<operation>.<stream>`. Raises NotFound for a message that is not there,
    StreamMissing, StreamFull, Unavailable."""
    return await api(bus, f"STREAM.{operation}.{stream}", request, timeout)


async def make_consumer(
    bus: BusClient, stream: str, name: str, config: dict[str, Any], timeout: float = ASK_SECONDS
) -> None:
    """Make a consumer. Raises StreamMissing, and Unavailable, after which it may be there all the same."""
    request = {"stream_name": stream, "config": {"name": name, **config}, "action": "create"}
    await api(bus, f"CONSUMER.CREATE.{stream}.{name}", request, timeout)


async def api(
    bus: BusClient, operation: str, request: dict[str, Any], timeout: float = ASK_SECONDS
) -> dict[str, Any]:
    """One call of `$JS.API.<operation>`. Raises like `call`."""
    content = await _ask(bus, f"$JS.API.{operation}", json.dumps(request).encode(), timeout)
    error = content.get("error")
    if error is None:
        return content
    if error.get("err_code") == _NO_STREAM:
        raise StreamMissing(f"There is no stream: {operation}.")
    if error.get("err_code") in _FULL:
        raise StreamFull(f"JetStream has no room: {error.get('description')}.")
    if error.get("code") == 404:
        raise NotFound("message")
    raise Unavailable(f"JetStream refused {operation}: {error.get('description')}.")


class Place(NamedTuple):
    """Where a message that a consumer brings stands: in the stream, in the consumer's own count, and when
    it was stored, in nanoseconds of Unix time. Its subject is the one that it was stored under."""

    consumer: str
    seq: int
    delivered: int
    time_ns: int


def place_of(reply: str) -> Place | None:
    """Read from the reply subject of a message; None when it is not one that a consumer brings."""
    tokens = reply.split(".")
    if len(tokens) < 9 or tokens[1] != "ACK" or tokens[0] != "$JS":
        return None
    # With a domain and an account two more tokens stand before the stream's name.
    at = 5 if len(tokens) == 9 else 7
    try:
        return Place(tokens[at - 2], int(tokens[at]), int(tokens[at + 1]), int(tokens[at + 2]))
    except (ValueError, IndexError):
        return None


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
