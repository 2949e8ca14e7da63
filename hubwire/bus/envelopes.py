"""What travels on the bus: msgpack arrays with a version first (DESIGN.md section 4). Pure.

To a router, `hw.router.<router>`, answered entry by entry:
    [VERSION, sender, [[partition, epoch, [entry, ...]], ...]]
      publish   [PUBLISH, partition, key, number, body] or [..., body, publisher, ack id]; a traced one is
                [..., body, publisher or nil, ack id or nil, traceparent]
      join      [JOIN, partition, key, seq, digest]
      leave     [LEAVE, partition, key, seq, digest]
      snapshot  [SNAPSHOT, partition, seq, digest, [key, ...], part, parts]
      who       [WHO, partition, key]
      confirm   [CONFIRM, partition, key, number]
    answer: [VERSION, [answer, ...]] with OK, NOT_MINE, RESYNC, REFUSED, WAIT, DUPLICATE, or for WHO
            [[member gateways], [unsynced], [lost, but its sessions can come back], [lost and not known]]

A batch of which something must first be stored in inboxes is answered at once with WAIT for that, and once
or several times more, whole, until nothing waits; see hubwire.bus.dispatcher.

To a gateway, `hw.gw.<gateway>`:
    [VERSION, DELIVER, router, [[partition, epoch, sender, number, key, body], ...]]; behind the body the
                publisher and the ack id of a publish that has them
    [VERSION, ASK, router, [partition, ...]]       the router lacks our members: send snapshots
    [VERSION, COMMAND, operation, arguments]       from a control plane; answered [VERSION, result]
and `hw.peer.<gateway>`, from another gateway: the same for `let_go` alone.

A `body` is opaque to routers and is packed once by the publisher:
    [data type, data, from user, metadata, excluded connection ids, filter, ttl seconds]
and, of some publishes, when they were accepted, by the clock of who accepted them (Unix time in seconds): how
long the way took is measured on those. A traced publish has its traceparent behind that.

`publisher` (a connection) and `ack id` name a publish that its client may send again, also over another
gateway: the owner answers the second one DUPLICATE and does nothing. An owner that was not there for the
first one does it again; gateways and inboxes drop what they had.

A key of reliable members is joined and left as its `reliable_key`; its joining is confirmed when all that was
published to it before is stored. A gateway that has it already asks for the same with CONFIRM, and counts its
asking.

`epoch` is the one that the sender's table names: an owner of another epoch answers NOT_MINE, so what was
meant for an earlier owner, and comes late, does nothing.

A snapshot too big for one message comes in parts, numbered from 0, with nothing of the partition between.

`number` counts up per sender; with the first-in-first-out of one sender and partition it lets an owner
and a gateway drop what they have had already when a publisher repeats an unanswered batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack

from hubwire.model.errors import InvalidRequest
from hubwire.model.message import DataType, Message

VERSION = 1

PUBLISH, JOIN, LEAVE, SNAPSHOT, WHO, CONFIRM = range(6)
OK, NOT_MINE, RESYNC, REFUSED, WAIT, DUPLICATE = range(6)
DELIVER, ASK, COMMAND = range(3)

DELIVER_OVERHEAD = 256
"""How much bigger an entry can be as an envelope to a gateway: what a router took must fit on the way out."""

Entry = list[Any]

_pack = msgpack.Packer(use_bin_type=True, unicode_errors="surrogatepass").pack


def pack(value: Any) -> bytes:
    """Any bus value to bytes."""
    packed: bytes = _pack(value)
    return packed


def unpack(data: bytes) -> Any:
    """Bytes from the bus to a value. Raises InvalidRequest for what is not one of our arrays."""
    try:
        value = msgpack.unpackb(
            data, raw=False, unicode_errors="surrogatepass", strict_map_key=False, use_list=True
        )
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise InvalidRequest(f"Not a bus envelope: {error}") from error
    if not isinstance(value, list) or not value or value[0] != VERSION:
        raise InvalidRequest(f"Not a bus envelope of version {VERSION}.")
    return value


class Body(NamedTuple):
    """A decoded publish: the message (without its group, which is in the key), and whom it spares.
    `accepted` is when the service got it, 0.0 when that is not told; `trace` its traceparent, or ""."""

    message: Message
    excluded: frozenset[str] | None
    filter: str | None
    ttl_seconds: int
    accepted: float = 0.0
    trace: str = ""


def pack_body(
    message: Message,
    excluded: Sequence[str] = (),
    filter: str | None = None,
    ttl_seconds: int = 0,
    accepted: float = 0.0,
    trace: str = "",
) -> bytes:
    body: list[Any] = [
        int(message.data_type),
        message.data,
        message.from_user,
        message.metadata,
        list(excluded) if excluded else None,
        filter,
        ttl_seconds,
    ]
    if trace:
        body += (accepted, trace)
    elif accepted:
        body.append(accepted)
    return pack(body)


_DATA_TYPES = tuple(DataType)


def unpack_body(body: bytes, group: str | None) -> Body:
    """Raises InvalidRequest when the bytes are not a body."""
    try:
        parts = msgpack.unpackb(body, raw=False, unicode_errors="surrogatepass")
        trace = str(parts.pop()) if len(parts) == 9 else ""
        accepted = float(parts.pop()) if len(parts) == 8 else 0.0
        data_type, data, from_user, metadata, excluded, filter, ttl_seconds = parts
        if type(data) is not bytes:
            raise TypeError("the data are no bytes")
        message = Message(_DATA_TYPES[data_type], data, group, from_user, metadata)
        return Body(message, frozenset(excluded) if excluded else None, filter, ttl_seconds, accepted, trace)
    except (ValueError, TypeError, LookupError, AttributeError, msgpack.exceptions.UnpackException) as error:
        raise InvalidRequest(f"Not a message body: {error}") from error


SNAPSHOT_PART_BYTES = 128 * 1024


def split_keys(keys: Sequence[str]) -> list[list[str]]:
    """The keys of a snapshot in parts that each fit into a message; at least one part, perhaps empty."""
    parts: list[list[str]] = [[]]
    size = 0
    for key in keys:
        # At most four bytes a character, and a length before it.
        mine = len(key) + 5 if key.isascii() else 4 * len(key) + 5
        if size + mine > SNAPSHOT_PART_BYTES and parts[-1]:
            parts.append([])
            size = 0
        parts[-1].append(key)
        size += mine
    return parts


Part = tuple[int, int, list[Entry]]
"""A partition, its owner's epoch, and the entries for it, in order."""


def batch_to_router(sender: str, parts: Sequence[Part]) -> bytes:
    return pack([VERSION, sender, parts])


def answer_to_batch(answers: Sequence[Any]) -> bytes:
    return pack([VERSION, answers])


def answers_to_batch(data: bytes, count: int | None) -> list[Any]:
    """What `answer_to_batch` has packed, of `count` entries where it is known how many there must be. Raises
    InvalidRequest."""
    rest = unpack(data)[1:]
    if not rest or not isinstance(rest[0], list) or (count is not None and len(rest[0]) != count):
        raise InvalidRequest("Not the answers to this batch.")
    return rest[0]


_DELIVER_HEAD = b"\x94" + pack(VERSION) + pack(DELIVER)  # an array of four: version, kind, router, items


def deliver_to_gateway(router: str, items: Sequence[bytes]) -> bytes:
    """Joins items that were packed once each with `deliver_item`, for as many gateways as there are."""
    header: bytes = msgpack.Packer().pack_array_header(len(items))
    return b"".join((_DELIVER_HEAD, pack(router), header, *items))


def deliver_item(
    partition: int,
    epoch: int,
    sender: str,
    number: int,
    key: str,
    body: bytes,
    identity: Sequence[Any] = (),
) -> bytes:
    """`identity`: the publisher and the ack id of a publish that has them."""
    return pack([partition, epoch, sender, number, key, body, *identity])


def ask_gateway(router: str, partitions: Sequence[int]) -> bytes:
    return pack([VERSION, ASK, router, list(partitions)])


def command_to_gateway(operation: str, arguments: Any) -> bytes:
    return pack([VERSION, COMMAND, operation, arguments])
