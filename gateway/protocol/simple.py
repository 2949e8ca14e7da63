"""Simple clients: payloads without an envelope (client-protocols.md section 6)."""

from __future__ import annotations

from typing import Final

from gateway.protocol.requests import Request
from hubwire.model.errors import ProtocolViolation
from hubwire.model.message import DataType, Message


class SimpleCodec:
    """A connection without a predefined subprotocol; see `Codec`.

    What such a client sends is a user event or a publish by the connection's mode (6.1, 6.3), so the gateway
    makes the request itself and `decode` is never right to call.
    """

    name: Final = ""
    binary: Final = False

    def decode(self, payload: bytes) -> Request:
        raise ProtocolViolation("Simple clients send payloads, not requests.")

    def connected(self, connection_id: str, user_id: str | None) -> bytes:
        return b""

    def disconnected(self, message: str) -> bytes:
        return b""

    def ack(self, ack_id: int, error_name: str | None = None, error_message: str | None = None) -> bytes:
        return b""

    def pong(self) -> bytes:
        return b""

    def message(self, m: Message) -> bytes:
        return m.data

    def is_binary(self, m: Message) -> bool:
        return m.data_type is DataType.BINARY or m.data_type is DataType.PROTOBUF


SIMPLE: Final = SimpleCodec()
