"""The protobuf wire format, read and written field by field: just what the subprotocols need.

Written by hand because the messages are few and small, must be read in one pass without building
objects, and payloads (`Any`) must be kept byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

VARINT: Final = 0
FIXED64: Final = 1
LEN: Final = 2
START_GROUP: Final = 3
END_GROUP: Final = 4
FIXED32: Final = 5

_MAX_GROUP_DEPTH = 100  # what the protobuf libraries allow
_MASK64 = 2**64 - 1
MAX_FIELDS: Final = 10_000
"""In one message; metadata at its limit of 8192 bytes has about 4100 entries."""


class WireError(Exception):
    """The bytes are not a protobuf message."""


def encode_varint(value: int) -> bytes:
    """`value` is not negative and below 2**64."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_len(tag: bytes, data: bytes) -> bytes:
    """A length-delimited field: its tag (number and wire type in one varint), length and bytes."""
    return tag + encode_varint(len(data)) + data


def fields(data: bytes, limit: int = MAX_FIELDS) -> Iterator[tuple[int, int | bytes]]:
    """Each field as (number, value), in the order on the wire.

    A varint's value is an int of 64 bits, a length-delimited one's is bytes. Fixed ones and groups, which no
    message of ours uses, are checked and skipped. Raises `WireError`, possibly after fields were yielded;
    also when there are more than `limit`, so that a megabyte of tiny fields does not hold up everybody else.
    """
    count = 0
    position = 0
    end = len(data)
    while position < end:
        count += 1
        if count > limit:
            raise WireError("it has too many fields")
        tag = data[position]
        position += 1
        if tag >= 0x80:
            tag, position = _varint(data, position - 1)
            if tag > 0xFFFFFFFF:
                raise WireError("a field number is too large")
        wire_type = tag & 7
        number = tag >> 3
        if number == 0:
            raise WireError("a field number is 0")
        if wire_type == LEN:
            if position < end and data[position] < 0x80:
                size = data[position]
                position += 1
            else:
                size, position = _varint(data, position)
            stop = position + size
            if stop > end:
                raise WireError("a field is longer than the message")
            yield number, data[position:stop]
            position = stop
        elif wire_type == VARINT:
            if position < end and data[position] < 0x80:
                value = data[position]
                position += 1
            else:
                value, position = _varint(data, position)
            yield number, value
        else:
            position = _skip(data, position, number, wire_type)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    shift = 0
    end = len(data)
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK64, position
        shift += 7
        if shift == 70:
            raise WireError("a number has more than ten bytes")
    raise WireError("the message ends within a number")


def _skip(data: bytes, position: int, number: int, wire_type: int) -> int:
    """The position after a fixed-size field or a whole group. No recursion: depth is the sender's choice."""
    open_groups: list[int] = []
    for _ in range(MAX_FIELDS):
        if wire_type == FIXED64:
            position += 8
        elif wire_type == FIXED32:
            position += 4
        elif wire_type == VARINT:
            _, position = _varint(data, position)
        elif wire_type == LEN:
            size, position = _varint(data, position)
            position += size
        elif wire_type == START_GROUP:
            if len(open_groups) == _MAX_GROUP_DEPTH:
                raise WireError("groups are nested too deeply")
            open_groups.append(number)
        elif wire_type == END_GROUP:
            if not open_groups or open_groups.pop() != number:
                raise WireError("a group ends that did not begin")
        else:
            raise WireError(f"there is no wire type {wire_type}")
        if position > len(data):
            raise WireError("a field is longer than the message")
        if not open_groups:
            return position
        tag, position = _varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        if number == 0 or tag > 0xFFFFFFFF:
            raise WireError("a field number is not legal")
    raise WireError("a group has too many fields")
