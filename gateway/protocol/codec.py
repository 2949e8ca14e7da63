"""The port that every client subprotocol implements: bytes of a WebSocket message to requests and back."""

from __future__ import annotations

from typing import Protocol

from gateway.protocol.requests import Request
from hubwire.model.message import Message


class Codec(Protocol):
    """One subprotocol. Codecs hold no state: one object serves all connections.

    All answers are complete payloads of one WebSocket message. What the codec of simple clients has no frame
    for (`connected`, `disconnected`, `ack`, `pong`) it encodes as `b""`, which must not be sent.
    """

    @property
    def name(self) -> str:
        """The subprotocol's name in lower case; empty for simple clients."""

    @property
    def binary(self) -> bool:
        """Whether the frames of control messages are binary. A client frame of the other kind is closed with
        1003 (client-protocols.md 1.11); simple clients may send both."""

    def decode(self, payload: bytes) -> Request:
        """Raises `ProtocolViolation` and nothing else, whatever the bytes are."""

    def connected(self, connection_id: str, user_id: str | None) -> bytes: ...

    def disconnected(self, message: str) -> bytes: ...

    def ack(self, ack_id: int, error_name: str | None = None, error_message: str | None = None) -> bytes:
        """Success without `error_name`; with it, a failure that always carries a message too, since some
        SDKs cannot do without (client-protocols.md 3.7)."""

    def pong(self) -> bytes: ...

    def message(self, m: Message) -> bytes:
        """Encoded once for all receivers of the subprotocol: nothing in it depends on the connection."""

    def is_binary(self, m: Message) -> bool:
        """Whether the frame of that message is binary."""


class ReliableCodec(Codec, Protocol):
    """A subprotocol whose messages are numbered for each session (client-protocols.md 4.1).

    What receivers have in common is encoded once, the number for each of them. `message` gives a frame
    without a number, which clients of these subprotocols must not be sent.
    """

    def connected(self, connection_id: str, user_id: str | None, reconnection_token: str = "") -> bytes:
        """With an empty token a client does not try to recover its session."""

    def numbered(self, m: Message) -> bytes:
        """All of a message's frame but its number and what depends on that, for `frame_with_id`."""

    def frame_with_id(self, shared: bytes, sequence_id: int) -> bytes:
        """The payload of one delivery. `sequence_id` counts a session's messages, from 1."""
