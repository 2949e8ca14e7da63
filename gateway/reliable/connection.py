"""A socket of a reliable session (client-protocols.md section 4): sessions outlive it.

It decodes, orders and executes requests as every connection does. What differs: its frames are numbered, its
end ends the session only when the client, a REST caller or a broken rule says so, and what it has not
answered when it is lost is remembered by the session.
"""

from __future__ import annotations

from typing import Protocol

from gateway.bounds import Bounds
from gateway.connection import SEND_EVENT, Connection, Executed, Executor
from gateway.flusher import Flusher
from gateway.reliable.session import Session
from gateway.upstream.source import EventSource
from hubwire.model.errors import HubwireError
from hubwire.model.message import Message

MESSAGE_BYTES = 10_000
"""What a message may cost beside its data: names and metadata, at most."""

_LOST = frozenset(("Normal", "ServiceReload", "PingTimeout", "ServiceTransientError", "Moved"))
"""Ends of a socket after which the client may come back (4.4); "Normal" with a close frame of the client's is
decided by its code."""


class ReliableExecutor(Executor, Protocol):
    """What a reliable connection asks of the holder of its session, beside what every connection does."""

    def attached(self, connection: ReliableConnection) -> None:
        """The 101 is written: say `connected`, then everything that is not acknowledged."""

    def acked(self, connection: ReliableConnection, sequence_id: int) -> None: ...
    def executed(self, connection: ReliableConnection) -> None:
        """A request with an ack id has been executed, whether or not the socket still is there."""

    def direct(self, connection: ReliableConnection, message: Message, done: Executed) -> None: ...


class ReliableConnection(Connection):
    __slots__ = ("_holder", "final", "session")

    def __init__(
        self,
        session: Session,
        *,
        executor: ReliableExecutor,
        flusher: Flusher,
        bounds: Bounds,
        host: str = "",
    ) -> None:
        super().__init__(
            session.id,
            session.hub,
            session.user_id,
            session.codec,
            session.permissions,
            session.groups,
            SEND_EVENT,
            executor=executor,
            flusher=flusher,
            bounds=bounds,
            host=host,
        )
        self._holder = executor
        self.session = session
        self.window = session.window
        self.final = False

    @property
    def source(self) -> EventSource:
        return self.session.source

    def opened(self) -> None:
        self._holder.attached(self)

    def sequence_acked(self, sequence_id: int) -> None:
        self._holder.acked(self, sequence_id)

    def deliver(self, message: Message, done: Executed) -> None:
        """Through the inbox, since it is numbered; done once it is on its way in its place."""
        self._holder.direct(self, message, done)

    def _executed(self, ack_id: int | None, publish_size: int, error: HubwireError | None) -> None:
        super()._executed(ack_id, publish_size, error)
        if ack_id is not None:
            self._holder.executed(self)
        successor = self.session.connection
        if successor is not None and successor is not self and not successor.closing:
            successor._go_on()  # what waits there for the very request that was executed here

    def too_slow(self) -> None:
        """What is not acknowledged is bounded for itself (8.2), and all of it may have to be replayed at
        once, in JSON with binary data in base64. What comes on top, such as answers to pings, counts."""
        state = self.session.state
        unacked = 2 * state.unacked_bytes + len(state.unacked) * MESSAGE_BYTES
        if self.queued_bytes > unacked + self.bounds.outbox_bytes:
            super().too_slow()

    def ended(self, category: str, reason: str | None) -> None:
        if category not in _LOST:
            self.final = True
        super().ended(category, reason)

    def answer_close(self, payload: bytes) -> None:
        """A close frame with 1000 or without a code ends the session (1.12)."""
        if not self.closing and int.from_bytes(payload[:2] or b"\x03\xe8", "big") == 1000:
            self.final = True
        super().answer_close(payload)
