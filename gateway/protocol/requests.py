"""What a client can ask for, decoded: the same whichever subprotocol it came in by.

Everything in a request is already legal in form (names, numbers, payloads, metadata), so the session only
decides. `ack_id` is None when the client wants no ack; 0 is an id like any other (client-protocols.md 3.1
and 5.6).
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from hubwire.model.message import DataType


class JoinGroup(NamedTuple):
    group: str
    ack_id: int | None


class LeaveGroup(NamedTuple):
    group: str
    ack_id: int | None


class SendToGroup(NamedTuple):
    """`data` is encoded as in `hubwire.model.message.Message`; `metadata` is None, never empty."""

    group: str
    ack_id: int | None
    no_echo: bool
    data_type: DataType
    data: bytes
    ttl_seconds: int
    metadata: dict[str, str] | None


class ClientEvent(NamedTuple):
    """A user event for the event handler. `data` and `metadata` as in `SendToGroup`."""

    event: str
    ack_id: int | None
    data_type: DataType
    data: bytes
    metadata: dict[str, str] | None


class Ping(NamedTuple):
    pass


class SequenceAck(NamedTuple):
    """Everything up to and with `sequence_id` has arrived (client-protocols.md 4.3)."""

    sequence_id: int


Request: TypeAlias = JoinGroup | LeaveGroup | SendToGroup | ClientEvent | Ping | SequenceAck
