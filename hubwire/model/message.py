"""A message as it travels: independent of the protocol it came in by and of those it leaves by."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class DataType(IntEnum):
    """The four data types of Azure Web PubSub (client-protocols.md 3.6); the number is the bus encoding."""

    JSON = 0
    TEXT = 1
    BINARY = 2
    PROTOBUF = 3


class Message(NamedTuple):
    """One published message.

    `data` is, by data type: the raw JSON text in UTF-8 exactly as the publisher wrote it, the text in
    UTF-8, the bytes, or a serialised `google.protobuf.Any`. `group` is None for a message "from the
    server" (REST to hub, user or connection; event handler answers). `from_user` is the publishing
    client's user id; None for anonymous publishers and REST. `metadata` is None, never empty.
    """

    data_type: DataType
    data: bytes
    group: str | None = None
    from_user: str | None = None
    metadata: dict[str, str] | None = None
