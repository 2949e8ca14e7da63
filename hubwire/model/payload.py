"""Whether a payload is what its data type says, and whether metadata is legal: the same at every edge.

A payload is passed on inside other clients' frames without being looked at again, so one that is not
valid JSON, UTF-8 or a valid `Any` would break receivers that did nothing wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from hubwire.model.limits import MAX_METADATA_KEY_BYTES, MAX_METADATA_TOTAL_BYTES, MAX_METADATA_VALUE_BYTES
from hubwire.model.message import DataType
from hubwire.model.protowire import WireError, fields

# Raw keeps the parser from building objects: it checks the syntax and remembers where the text is.
_json = msgspec.json.Decoder(msgspec.Raw)

_KEY = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+")
# Metadata travels as HTTP headers, so control characters are out although 7.5 says "ASCII" only.
_VALUE = re.compile(r"[\t\x20-\x7e]*")


def is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_json(data: bytes) -> bool:
    """Whether `data` is one JSON value in UTF-8. Nesting deeper than about 900 levels is refused."""
    try:
        _json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return is_utf8(data)


def is_any(data: bytes) -> bool:
    """Whether `data` can be parsed as `google.protobuf.Any` (type URL 1, value 2); it is not unpacked."""
    try:
        return all(
            is_utf8(value) for number, value in fields(data) if number == 1 and isinstance(value, bytes)
        )
    except WireError:
        return False


def is_valid(data_type: DataType, data: bytes) -> bool:
    """Whether `data` may become a `Message` of that type (client-protocols.md 3.6)."""
    if data_type is DataType.TEXT:
        return is_utf8(data)
    if data_type is DataType.JSON:
        return is_json(data)
    if data_type is DataType.PROTOBUF:
        return is_any(data)
    return True


def metadata_fault(metadata: Mapping[str, str]) -> str | None:
    """What is wrong with the metadata, as a sentence; None when it is legal (client-protocols.md 7.5)."""
    total = 0
    for key, value in metadata.items():
        if _KEY.fullmatch(key) is None or len(key) > MAX_METADATA_KEY_BYTES:
            return (
                f"The metadata key {key[:40]!r} is not legal: 1 to {MAX_METADATA_KEY_BYTES} characters that "
                "an HTTP header name may have."
            )
        if _VALUE.fullmatch(value) is None or len(value) > MAX_METADATA_VALUE_BYTES:
            return (
                f"The metadata value of {key[:40]!r} is not legal: up to {MAX_METADATA_VALUE_BYTES} "
                "printable ASCII characters."
            )
        total += len(key) + len(value)
    if total > MAX_METADATA_TOTAL_BYTES:
        return f"The metadata has {total} bytes, over the limit of {MAX_METADATA_TOTAL_BYTES}."
    return None
