"""`json.webpubsub.azure.v1`: one JSON object per text frame (client-protocols.md section 3).

Frames of the service are put together from pieces that are already JSON, in the property order that the real
service uses: recorded tests of SDKs compare whole strings, and a large payload is copied once.
"""

from __future__ import annotations

import binascii
import json
import re
from binascii import b2a_base64
from collections.abc import Callable
from typing import Any, Final

import msgspec

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
from hubwire.model.limits import MAX_METADATA_TOTAL_BYTES, MAX_TTL_SECONDS, MAX_UINT64
from hubwire.model.message import DataType, Message
from hubwire.model.names import is_valid_event, is_valid_group
from hubwire.model.payload import is_any, metadata_fault

quote: Final = msgspec.json.Encoder().encode  # of a str: compact, non-ASCII as it is

_DATA_TYPES: Final = {
    "json": DataType.JSON,
    "text": DataType.TEXT,
    "binary": DataType.BINARY,
    "protobuf": DataType.PROTOBUF,
}
_NO_VALUE: Final = msgspec.Raw()
# Every byte as an escape, and every entry as short as can be: legal metadata is well below this.
_MAX_METADATA_TEXT_BYTES: Final = 16 * MAX_METADATA_TOTAL_BYTES


# --- what clients send ------------------------------------------------------------------------------------
# Each kind has a struct of its own, so that a property which means nothing in it may hold anything. msgspec
# checks the syntax of what it skips as well, so a `Raw` is always valid JSON.


class _Kind(msgspec.Struct):
    type: str


class _Group(msgspec.Struct):
    group: str
    ackId: int | None = None  # noqa: N815 - the wire's name


class _Send(msgspec.Struct):
    group: str
    ackId: int | None = None  # noqa: N815
    noEcho: bool = False  # noqa: N815
    dataType: str = "json"  # noqa: N815
    data: msgspec.Raw = _NO_VALUE
    ttlSeconds: int = 0  # noqa: N815
    metadata: msgspec.Raw = _NO_VALUE
    stream: Any = None


class _Event(msgspec.Struct):
    event: str
    ackId: int | None = None  # noqa: N815
    dataType: str = "json"  # noqa: N815
    data: msgspec.Raw = _NO_VALUE
    metadata: msgspec.Raw = _NO_VALUE


class _SequenceAck(msgspec.Struct):
    sequenceId: int | str  # noqa: N815


_kind: Final = msgspec.json.Decoder(_Kind).decode
_group: Final = msgspec.json.Decoder(_Group).decode
_send: Final = msgspec.json.Decoder(_Send).decode
_event: Final = msgspec.json.Decoder(_Event).decode
_sequence_ack: Final = msgspec.json.Decoder(_SequenceAck).decode
_string: Final = msgspec.json.Decoder(str).decode
_string_map: Final = msgspec.json.Decoder(dict[str, str]).decode


def _join_group(payload: bytes) -> Request:
    request = _group(payload)
    return JoinGroup(_legal_group(request.group), _legal_ack_id(request.ackId))


def _leave_group(payload: bytes) -> Request:
    request = _group(payload)
    return LeaveGroup(_legal_group(request.group), _legal_ack_id(request.ackId))


def _send_to_group(payload: bytes) -> Request:
    request = _send(payload)
    if not 0 <= request.ttlSeconds <= MAX_TTL_SECONDS:
        raise ProtocolViolation(f"'ttlSeconds' must be between 0 and {MAX_TTL_SECONDS}.")
    if request.stream is not None:
        raise ProtocolViolation("Streams are not supported by this service.")  # 7.1, preview
    metadata = _legal_metadata(request.metadata)
    data_type, data = _payload(request.dataType, request.data, metadata is not None)
    return SendToGroup(
        _legal_group(request.group),
        _legal_ack_id(request.ackId),
        request.noEcho,
        data_type,
        data,
        request.ttlSeconds,
        metadata,
    )


def _client_event(payload: bytes) -> Request:
    request = _event(payload)
    if not is_valid_event(request.event):
        raise ProtocolViolation(f"The event name {request.event[:64]!r} is not legal.")
    metadata = _legal_metadata(request.metadata)
    data_type, data = _payload(request.dataType, request.data, metadata is not None)
    return ClientEvent(request.event, _legal_ack_id(request.ackId), data_type, data, metadata)


def _ping(payload: bytes) -> Request:
    return Ping()


def _acknowledge(payload: bytes) -> Request:
    sequence_id = _sequence_ack(payload).sequenceId
    if isinstance(sequence_id, str):
        # Some of Azure's examples show the number in quotes (4.3). Twenty digits hold every uint64.
        if not (sequence_id.isascii() and sequence_id.isdigit() and len(sequence_id) <= 20):
            raise ProtocolViolation("'sequenceId' must be a number.")
        sequence_id = int(sequence_id)
    if not 0 <= sequence_id <= MAX_UINT64:
        raise ProtocolViolation("'sequenceId' must be an unsigned 64-bit integer.")
    return SequenceAck(sequence_id)


_KINDS: Final[dict[str, Callable[[bytes], Request]]] = {
    "joingroup": _join_group,
    "leavegroup": _leave_group,
    "sendtogroup": _send_to_group,
    "event": _client_event,
    "ping": _ping,
    "sequenceack": _acknowledge,
}
# The usual spelling first, so that nothing has to be lowered for it.
_KINDS.update(
    joinGroup=_join_group, leaveGroup=_leave_group, sendToGroup=_send_to_group, sequenceAck=_acknowledge
)


def _decode(payload: bytes) -> Request:
    kind = _kind(payload).type
    parse = _KINDS.get(kind) or _KINDS.get(kind.lower())
    if parse is None:
        raise ProtocolViolation(f"The message type {kind[:64]!r} is not known.")
    return parse(payload)


def _legal_group(group: str) -> str:
    if not is_valid_group(group):
        raise ProtocolViolation("The group name must have 1 to 1024 characters that are not all white space.")
    return group


def _legal_ack_id(ack_id: int | None) -> int | None:
    if ack_id is not None and not 0 <= ack_id <= MAX_UINT64:
        raise ProtocolViolation("'ackId' must be an unsigned 64-bit integer.")
    return ack_id


def _payload(type_name: str, raw: msgspec.Raw, has_metadata: bool) -> tuple[DataType, bytes]:
    data_type = _DATA_TYPES.get(type_name)
    if data_type is None:
        data_type = _DATA_TYPES.get(type_name.lower())
        if data_type is None:
            raise ProtocolViolation(f"The data type {type_name[:64]!r} is not known.")
    text = bytes(raw)
    if not text:
        if has_metadata:
            return DataType.TEXT, b""  # 7.5: metadata alone is an empty text
        raise ProtocolViolation("'data' is missing.")
    if data_type is DataType.JSON:
        if text == b"null":
            raise ProtocolViolation("'data' must not be null.")
        return data_type, text
    if text[0] != 0x22:
        raise ProtocolViolation(f"'data' must be a string when 'dataType' is {type_name[:64]!r}.")
    value = _string(text)
    if data_type is DataType.TEXT:
        return data_type, value.encode()
    try:
        data = binascii.a2b_base64(value, strict_mode=True)
    except ValueError as error:
        raise ProtocolViolation("'data' is not valid base64.") from error
    if data_type is DataType.PROTOBUF and not is_any(data):
        raise ProtocolViolation("'data' is not a serialised google.protobuf.Any.")
    return data_type, data


def _legal_metadata(raw: msgspec.Raw) -> dict[str, str] | None:
    text = bytes(raw)
    if not text or text == b"null":
        return None
    if len(text) > _MAX_METADATA_TEXT_BYTES:
        raise ProtocolViolation("'metadata' is too long.")
    metadata = _string_map(text)
    # msgspec lets the last of equal keys win; here that is malformed. The object is flat by now.
    if len(json.loads(text, object_pairs_hook=list[Any])) != len(metadata):
        raise ProtocolViolation("'metadata' has the same key twice.")
    fault = metadata_fault(metadata)
    if fault is not None:
        raise ProtocolViolation(fault)
    return metadata or None


# JavaScript strings can be cut between the halves of a character; `JSON.stringify` writes such a half as an
# escape, which no UTF-8 text can carry.
_LONE_SURROGATE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


def _replace_lone_surrogates(payload: bytes) -> bytes:
    """With U+FFFD, as browsers do for strings that go to a WebSocket."""
    if b"\0" in payload:
        return payload  # not JSON in any case
    # Escaped backslashes out of the way, so that every backslash left begins an escape.
    text = _LONE_SURROGATE.sub(rb"\\ufffd", payload.replace(b"\\\\", b"\0\0"))
    return text.replace(b"\0\0", b"\\\\")


# --- what the service sends -------------------------------------------------------------------------------

_FROM_GROUP: Final = b'{"type":"message","from":"group","fromUserId":'
_FROM_SERVER: Final = b'{"type":"message","from":"server","dataType":'
_NAMED: Final = {
    DataType.JSON: b'"json","data":',
    DataType.TEXT: b'"text","data":',
    DataType.BINARY: b'"binary","data":"',
    DataType.PROTOBUF: b'"protobuf","data":"',
}


class JsonCodec:
    """`json.webpubsub.azure.v1`; see `Codec`."""

    name = "json.webpubsub.azure.v1"
    binary: Final = False

    def decode(self, payload: bytes) -> Request:
        try:
            if not payload.isascii():
                payload.decode()  # what msgspec only skips over it does not check
            return _decode(payload)
        except msgspec.ValidationError as error:
            raise ProtocolViolation(f"The message is not valid: {error}.") from error
        except msgspec.DecodeError as error:
            mended = _replace_lone_surrogates(payload)
            if mended != payload:
                return self.decode(mended)
            raise ProtocolViolation(f"The message is not JSON: {error}.") from error
        except UnicodeDecodeError as error:
            raise ProtocolViolation("The message is not UTF-8.") from error
        except RecursionError as error:
            raise ProtocolViolation("The message is nested too deeply.") from error

    def connected(self, connection_id: str, user_id: str | None) -> bytes:
        return b'{"type":"system","event":"connected","userId":%b,"connectionId":%b}' % (
            b"null" if user_id is None else quote(user_id),
            quote(connection_id),
        )

    def disconnected(self, message: str) -> bytes:
        return b'{"type":"system","event":"disconnected","message":%b}' % quote(message)

    def ack(self, ack_id: int, error_name: str | None = None, error_message: str | None = None) -> bytes:
        if error_name is None:
            return b'{"type":"ack","ackId":%d,"success":true}' % ack_id
        return b'{"type":"ack","ackId":%d,"success":false,"error":{"name":%b,"message":%b}}' % (
            ack_id,
            quote(error_name),
            quote(error_message or ""),
        )

    def pong(self) -> bytes:
        return b'{"type":"pong"}'

    def message(self, m: Message) -> bytes:
        data_type = m.data_type
        if data_type is DataType.JSON:
            data, end = m.data, b"}"
        elif data_type is DataType.TEXT:
            # Edges accept valid UTF-8 only; one bad payload must still not stop a whole fan-out.
            data, end = quote(m.data.decode("utf-8", "replace")), b"}"
        else:
            data, end = b2a_base64(m.data, newline=False), b'"}'
        if m.metadata is not None:
            end = b'%b,"metadata":%b}' % (end[:-1], quote(m.metadata))
        if m.group is None:
            return b"".join((_FROM_SERVER, _NAMED[data_type], data, end))
        return b"".join(
            (
                _FROM_GROUP,
                b"null" if m.from_user is None else quote(m.from_user),
                b',"group":',
                quote(m.group),
                b',"dataType":',
                _NAMED[data_type],
                data,
                end,
            )
        )

    def is_binary(self, m: Message) -> bool:
        return False


JSON_V1: Final = JsonCodec()
