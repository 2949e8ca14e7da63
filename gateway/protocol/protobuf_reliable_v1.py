"""`protobuf.reliable.webpubsub.azure.v1`: protobuf frames with a session's numbers (5, 5.6)."""

from __future__ import annotations

from typing import Final

from gateway.protocol.protobuf_v1 import ProtobufCodec, connected_frame, message_fields
from hubwire.model.message import Message
from hubwire.model.protowire import encode_varint


class ProtobufReliableCodec(ProtobufCodec):
    """See `ReliableCodec`. Requests are those of the plain subprotocol, which knows sequence acks too."""

    name = "protobuf.reliable.webpubsub.azure.v1"

    def connected(self, connection_id: str, user_id: str | None, reconnection_token: str = "") -> bytes:
        return connected_frame(connection_id, user_id, reconnection_token)

    def numbered(self, m: Message) -> bytes:
        return message_fields(m)

    def frame_with_id(self, shared: bytes, sequence_id: int) -> bytes:
        # `sequence_id` goes last, also after metadata whose field number is higher: fields may come in any
        # order, and the rest stays one piece.
        number = b"\x20" + encode_varint(sequence_id)
        return b"".join((b"\x12", encode_varint(len(shared) + len(number)), shared, number))


PROTOBUF_RELIABLE_V1: Final = ProtobufReliableCodec()
