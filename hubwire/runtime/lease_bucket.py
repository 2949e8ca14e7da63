"""The bucket of the leases: its entries, and how one is read, listed and changed by compare-and-set.

What the entries mean is in `hubwire.runtime.leases`. Everything here asks the leader of the bucket: a
follower's answer could be old.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from datetime import datetime
from typing import Any, NamedTuple

from hubwire.bus.client import BusClient
from hubwire.bus.envelopes import VERSION, pack, unpack
from hubwire.bus.owners import open_bucket
from hubwire.bus.subjects import LEASES_BUCKET, lease_key, lease_subject
from hubwire.model.errors import InvalidRequest, NotFound, Unavailable

STREAM = f"KV_{LEASES_BUCKET}"
BUCKET_TTL_SECONDS = 3600.0
"""How long the bucket keeps an entry that nobody renews: the longest that NATS may be away without its
gateways taking new names."""

LIST_AT_ONCE = 50

_WRONG_REVISION = (10071, 10164)
_NO_STREAM = 10059


def margin_of(ttl: float) -> float:
    """The allowance for timers that fire late and clocks that run unevenly."""
    return ttl / 6


class LeaseEntry(NamedTuple):
    """What the bucket holds of one lease. `ended`: by its holder, or by a reader that was certain."""

    revision: int
    renewal: int
    ttl: float
    ended: bool


NOTHING = LeaseEntry(0, 0, 0.0, False)


LEAVING, ENDED = 1, 2


class LeaseMessage(NamedTuple):
    """What is stored, and heard: a renewal (`ttl` above 0; `leaving`: the holder gives its work away), the
    holder's word that its run is over (`ttl` 0), or a reader's attempt to end it (`ending`)."""

    renewal: int
    ttl: float
    leaving: bool = False
    ending: bool = False

    def pack(self) -> bytes:
        mark = ENDED if self.ending else LEAVING if self.leaving else 0
        return pack([VERSION, self.renewal, int(self.ttl * 1000), mark])


def unpack_lease(data: bytes) -> LeaseMessage:
    """Raises InvalidRequest."""
    try:
        _, renewal, ttl_ms, mark, *_ = unpack(data)
        return LeaseMessage(int(renewal), ttl_ms / 1000, mark == LEAVING, mark == ENDED)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidRequest(f"Not a lease: {error}") from error


async def open_leases(bus: BusClient, *, memory: bool, replicas: int, timeout: float) -> None:
    """Make the bucket if it is not there. Raises Unavailable, after `timeout` seconds at the latest."""
    try:
        async with asyncio.timeout(timeout):
            await open_bucket(
                bus.js, LEASES_BUCKET, memory=memory, replicas=replicas, ttl_seconds=BUCKET_TTL_SECONDS
            )
    except Exception as error:
        raise Unavailable(f"The bucket of the leases cannot be opened: {error!r}") from error


async def store_if(bus: BusClient, subject: str, data: bytes, revision: int, timeout: float) -> int | None:
    """Compare-and-set of one entry: its new revision; None when it is not at `revision` (0: not there).

    Raises Unavailable when it is not known whether it was stored.
    """
    headers = f"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: {revision}\r\n\r\n".encode()
    answer = await bus.ask(subject, data, timeout, headers)
    try:
        content = json.loads(answer)
        error = content.get("error")
        if error is None and content.get("stream") == STREAM:
            return int(content["seq"])
    except (ValueError, KeyError, AttributeError) as fault:
        raise Unavailable(f"The lease's answer cannot be read: {answer[:200]!r}") from fault
    if error is not None and error.get("err_code") in _WRONG_REVISION:
        return None
    raise Unavailable(f"The lease was not stored: {answer[:200]!r}")


async def _ask_json(bus: BusClient, subject: str, request: dict[str, Any]) -> dict[str, Any]:
    """One question to JetStream, answered by the leader of the bucket. Raises Unavailable, NotFound."""
    answer = await bus.ask(subject, json.dumps(request).encode(), 1.0)
    try:
        content: dict[str, Any] = json.loads(answer)
        error = content.get("error")
    except (ValueError, AttributeError) as fault:
        raise Unavailable(f"JetStream's answer cannot be read: {answer[:200]!r}") from fault
    if error is None:
        return content
    if error.get("code") == 404:
        raise NotFound("stream" if error.get("err_code") == _NO_STREAM else "message")
    raise Unavailable(f"JetStream answered with an error: {answer[:200]!r}")


async def _read(bus: BusClient, subject: str) -> tuple[LeaseEntry, float]:
    """The entry, as the leader has it (a follower's could be old), and its time in seconds."""
    try:
        found = (await _ask_json(bus, f"$JS.API.STREAM.MSG.GET.{STREAM}", {"last_by_subj": subject}))[
            "message"
        ]
        revision, stored = int(found["seq"]), _seconds(found["time"])
    except NotFound as error:
        if str(error) == "stream":
            raise Unavailable("The bucket of the leases is not there.") from error
        return NOTHING, 0.0
    except (ValueError, KeyError) as error:
        raise Unavailable(f"JetStream's answer cannot be read: {error!r}") from error
    try:
        lease = unpack_lease(b64decode(found.get("data", "")))
    except (InvalidRequest, ValueError):
        return LeaseEntry(revision, 0, 0.0, True), stored  # deleted by hand
    return LeaseEntry(revision, lease.renewal, lease.ttl, lease.ttl <= 0), stored


async def read_entry(bus: BusClient, role: str, name: str) -> LeaseEntry:
    """What the bucket holds of one lease, or NOTHING. Raises Unavailable."""
    return (await _read(bus, lease_subject(role, name)))[0]


class Listing(NamedTuple):
    """Every entry of a role with its age in seconds, the age of the bucket, and when it was made (which
    tells one bucket from another of the same name); all by NATS's clock."""

    entries: dict[str, tuple[LeaseEntry, float]]
    bucket_age: float
    made: float


async def list_entries(bus: BusClient, role: str) -> Listing:
    """Read all entries of a role; none, of age 0, when there is no bucket. Raises Unavailable."""
    try:
        info = await _ask_json(
            bus, f"$JS.API.STREAM.INFO.{STREAM}", {"subjects_filter": lease_subject(role, "*")}
        )
        now, made = _seconds(info["ts"]), _seconds(info["created"])
    except NotFound:
        return Listing({}, 0.0, 0.0)
    except (ValueError, KeyError) as error:
        raise Unavailable(f"JetStream's answer cannot be read: {error!r}") from error
    room = asyncio.Semaphore(LIST_AT_ONCE)

    async def one(subject: str) -> tuple[str, tuple[LeaseEntry, float]]:
        async with room:
            entry, stored = await _read(bus, subject)
        return subject.rpartition(".")[2], (entry, now - stored)

    found = await asyncio.gather(*(one(subject) for subject in info["state"].get("subjects") or ()))
    return Listing({name: entry for name, entry in found if entry[0] is not NOTHING}, now - made, made)


async def read_leases(bus: BusClient) -> dict[str, dict[str, Any]]:
    """What the bucket holds, for people (`hubwire doctor`): key to {"count", "ttl_seconds", "age_seconds"}.
    Raises Unavailable."""
    found: dict[str, dict[str, Any]] = {}
    for role in ("router", "gateway"):
        for name, (entry, age) in (await list_entries(bus, role)).entries.items():
            found[lease_key(role, name)] = {
                "count": entry.renewal,
                "ttl_seconds": entry.ttl,
                "age_seconds": age,
            }
    return found


def _seconds(text: str) -> float:
    """A time of NATS's, which has nanoseconds."""
    return datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00").timestamp()
