"""`protobuf.webpubsub.azure.v1`: one message per binary frame (client-protocols.md section 5).

Field numbers are those of 5.1 to 5.3. Merging follows protobuf: the last value of a scalar wins, a message
that comes twice is merged (which is what parsing the two after each other means), the last member of a oneof
wins. Preview kinds are not known here, so like any unknown kind they are malformed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.protocol.requests import (
    ClientEvent,
    JoinGroup,
    LeaveGroup,
    Ping,
    Request,
    SendToGroup,
    SequenceAck,
)
from hubwire.model.errors import ProtocolViolation
from hubwire.model.limits import MAX_TTL_SECONDS
from hubwire.model.message import DataType, Message
from hubwire.model.names import is_valid_event, is_valid_group
from hubwire.model.payload import is_any, is_json, is_utf8, metadata_fault
from hubwire.model.protowire import WireError, encode_len, encode_varint, fields

# MessageData's oneof (5.2), both ways.
_DATA_TYPES: Final = {1: DataType.TEXT, 2: DataType.BINARY, 3: DataType.PROTOBUF, 4: DataType.JSON}
_DATA_TAGS: Final = {
    DataType.TEXT: b"\x0a",
    DataType.BINARY: b"\x12",
    DataType.PROTOBUF: b"\x1a",
    DataType.JSON: b"\x22",
}

_MAX_ENTRY_FIELDS: Final = 16  # a map entry has two

# --- what clients send ------------------------------------------------------------------------------------


def _join_group(body: bytes) -> Request:
    return JoinGroup(*_group_and_ack_id(body))


def _leave_group(body: bytes) -> Request:
    return LeaveGroup(*_group_and_ack_id(body))


def _group_and_ack_id(body: bytes) -> tuple[str, int | None]:
    group = b""
    ack_id: int | None = None
    for number, value in fields(body):
        if isinstance(value, bytes):
            if number == 1:
                group = _utf8(value)
        elif number == 2:
            ack_id = value
    return _legal_group(group), ack_id


def _send_to_group(body: bytes) -> Request:
    group = b""
    ack_id: int | None = None
    data: list[bytes] = []
    no_echo = False
    ttl_seconds = 0
    metadata: dict[str, str] = {}
    for number, value in fields(body):
        if isinstance(value, bytes):
            if number == 1:
                group = _utf8(value)
            elif number == 3:
                data.append(value)
            elif number == 6:
                _add_entry(metadata, value)
            elif number == 7:
                raise ProtocolViolation("Streams are not supported.")
        elif number == 2:
            ack_id = value
        elif number == 4:
            no_echo = value != 0
        elif number == 5:
            ttl_seconds = value & 0xFFFFFFFF  # a uint32: protobuf drops the upper half
    if ttl_seconds > MAX_TTL_SECONDS:
        raise ProtocolViolation(f"ttl_seconds must be between 0 and {MAX_TTL_SECONDS}.")
    data_type, content = _payload(data, _legal_metadata(metadata))
    return SendToGroup(
        _legal_group(group), ack_id, no_echo, data_type, content, ttl_seconds, metadata or None
    )


def _client_event(body: bytes) -> Request:
    event = b""
    ack_id: int | None = None
    data: list[bytes] = []
    metadata: dict[str, str] = {}
    for number, value in fields(body):
        if isinstance(value, bytes):
            if number == 1:
                event = _utf8(value)
            elif number == 2:
                data.append(value)
            elif number == 4:
                _add_entry(metadata, value)
            elif number == 5:
                raise ProtocolViolation("Streams are not supported.")
        elif number == 3:
            ack_id = value
    name = event.decode()
    if not is_valid_event(name):
        raise ProtocolViolation(f"The event name {name[:64]!r} is not legal.")
    data_type, content = _payload(data, _legal_metadata(metadata))
    return ClientEvent(name, ack_id, data_type, content, metadata or None)


def _acknowledge(body: bytes) -> Request:
    sequence_id = 0
    for number, value in fields(body):
        if number == 1 and not isinstance(value, bytes):
            sequence_id = value
    return SequenceAck(sequence_id)


def _ping(body: bytes) -> Request:
    for _ in fields(body):
        pass  # unknown fields are allowed, broken ones are not
    return Ping()


_KINDS: Final[dict[int, Callable[[bytes], Request]]] = {
    1: _send_to_group,
    5: _client_event,
    6: _join_group,
    7: _leave_group,
    8: _acknowledge,
    9: _ping,
}
# 10, 11 and 13 to 17 are kinds of newer schemas: as members of the oneof they displace what came before.
_UNSUPPORTED: Final = frozenset((10, 11, 13, 14, 15, 16, 17))


def _decode(payload: bytes) -> Request:
    kind = 0
    body: list[bytes] = []
    for number, value in fields(payload):
        if isinstance(value, bytes):
            if number in _KINDS:
                if number != kind:
                    kind = number
                    body = []
                body.append(value)
            elif number in _UNSUPPORTED:
                kind = 0
    parse = _KINDS.get(kind)
    if parse is None:
        raise ProtocolViolation("The message has no known kind.")
    return parse(b"".join(body))


def _utf8(value: bytes) -> bytes:
    if not is_utf8(value):
        raise ProtocolViolation("A string is not UTF-8.")
    return value


def _legal_group(value: bytes) -> str:
    group = value.decode()
    if not is_valid_group(group):
        raise ProtocolViolation("The group name must have 1 to 1024 characters that are not all white space.")
    return group


def _payload(parts: list[bytes], has_metadata: bool) -> tuple[DataType, bytes]:
    data_type: DataType | None = None
    content: list[bytes] = []
    for number, value in fields(b"".join(parts)):
        if isinstance(value, bytes):
            member = _DATA_TYPES.get(number)
            if member is None:
                continue
            if member is not DataType.PROTOBUF or data_type is not DataType.PROTOBUF:
                content = []
            content.append(value)
            data_type = member
    if data_type is None:
        if has_metadata:
            return DataType.TEXT, b""  # 5.6
        raise ProtocolViolation("The message has no data.")
    data = b"".join(content)
    if data_type is DataType.TEXT:
        _utf8(data)
    elif data_type is DataType.JSON:
        if not is_json(data):
            raise ProtocolViolation("json_data is not valid JSON.")
    elif data_type is DataType.PROTOBUF and not is_any(data):
        raise ProtocolViolation("protobuf_data is not a google.protobuf.Any.")
    return data_type, data


def _add_entry(metadata: dict[str, str], entry: bytes) -> None:
    key = content = b""
    for number, value in fields(entry, limit=_MAX_ENTRY_FIELDS):
        if isinstance(value, bytes):
            if number == 1:
                key = _utf8(value)
            elif number == 2:
                content = _utf8(value)
    metadata[key.decode()] = content.decode()


def _legal_metadata(metadata: dict[str, str]) -> bool:
    """Whether there is any."""
    if not metadata:
        return False
    fault = metadata_fault(metadata)
    if fault is not None:
        raise ProtocolViolation(fault)
    return True


# --- what the service sends -------------------------------------------------------------------------------
# Scalars with their default value are left out, as proto3 does for fields without explicit presence.


def _text(tag: bytes, text: str) -> bytes:
    return encode_len(tag, text.encode("utf-8", "replace")) if text else b""


def connected_frame(connection_id: str, user_id: str | None, reconnection_token: str = "") -> bytes:
    """A system message; the token is the reliable subprotocol's alone."""
    connected = _text(b"\x0a", connection_id) + _text(b"\x12", user_id or "")
    return encode_len(b"\x1a", encode_len(b"\x0a", connected + _text(b"\x1a", reconnection_token)))


def message_fields(m: Message) -> bytes:
    """The DataMessage of `m` (5.3), without the head that says how long it is."""
    return b"".join(_message_pieces(m))


def _message_pieces(m: Message) -> tuple[bytes, bytes, bytes, bytes]:
    size = len(m.data)
    head = _DATA_TAGS[m.data_type] + encode_varint(size)
    data = b"\x1a" + encode_varint(len(head) + size) + head
    if m.group is None:
        start = b"\x0a\x06server"
    else:
        start = b"\x0a\x05group" + encode_len(b"\x12", m.group.encode("utf-8", "replace"))
    return start, data, m.data, b"" if m.metadata is None else b"".join(map(_entry, m.metadata.items()))


class ProtobufCodec:
    """`protobuf.webpubsub.azure.v1`; see `Codec`."""

    name = "protobuf.webpubsub.azure.v1"
    binary: Final = True

    def decode(self, payload: bytes) -> Request:
        try:
            return _decode(payload)
        except WireError as error:
            raise ProtocolViolation(f"The message is not a protobuf message: {error}.") from error

    def connected(self, connection_id: str, user_id: str | None) -> bytes:
        return connected_frame(connection_id, user_id)

    def disconnected(self, message: str) -> bytes:
        # The text has field number 2 (5.3).
        return encode_len(b"\x1a", encode_len(b"\x12", _text(b"\x12", message)))

    def ack(self, ack_id: int, error_name: str | None = None, error_message: str | None = None) -> bytes:
        body = b"\x08" + encode_varint(ack_id) if ack_id else b""
        if error_name is None:
            body += b"\x10\x01"
        else:
            body += encode_len(b"\x1a", _text(b"\x0a", error_name) + _text(b"\x12", error_message or ""))
        return encode_len(b"\x0a", body)

    def pong(self) -> bytes:
        return b"\x22\x00"

    def message(self, m: Message) -> bytes:
        pieces = _message_pieces(m)
        return b"".join((b"\x12", encode_varint(sum(map(len, pieces))), *pieces))

    def is_binary(self, m: Message) -> bool:
        return True


def _entry(item: tuple[str, str]) -> bytes:
    key, value = item
    return encode_len(b"\x2a", encode_len(b"\x0a", key.encode()) + encode_len(b"\x12", value.encode()))


PROTOBUF_V1: Final = ProtobufCodec()
