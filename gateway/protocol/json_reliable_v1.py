"""`json.reliable.webpubsub.azure.v1`: JSON frames with a session's numbers (client-protocols.md 4)."""

from __future__ import annotations

from typing import Final

from gateway.protocol.json_v1 import JsonCodec, quote
from hubwire.model.message import Message


class JsonReliableCodec(JsonCodec):
    """See `ReliableCodec`. Requests are those of the plain subprotocol, which knows `sequenceAck` too."""

    name = "json.reliable.webpubsub.azure.v1"

    def connected(self, connection_id: str, user_id: str | None, reconnection_token: str = "") -> bytes:
        plain = super().connected(connection_id, user_id)
        return b'%b,"reconnectionToken":%b}' % (plain[:-1], quote(reconnection_token))

    def numbered(self, m: Message) -> bytes:
        return self.message(m)[1:]

    def frame_with_id(self, shared: bytes, sequence_id: int) -> bytes:
        return b'{"sequenceId":%d,%b' % (sequence_id, shared)  # the place where the real service has it (4.1)


JSON_RELIABLE_V1: Final = JsonReliableCodec()
