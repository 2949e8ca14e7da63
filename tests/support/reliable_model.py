"""An inbox as a list, its live fold, and what is compared of two folds."""

from __future__ import annotations

from typing import Any

from gateway.reliable.fold import InboxFold
from gateway.reliable.heard import Heard
from gateway.reliable.log import LogReader, Message
from gateway.reliable.state import SessionState
from hubwire.bus.envelopes import pack, pack_body
from hubwire.bus.inbox_batches import join_batch
from hubwire.model.message import DataType
from hubwire.model.message import Message as Content

HUB = "hub"
GROUPS = ["a", "171", "c"]
"""The first two are of one partition: what is said to one stands between what is said to the other."""


class Inbox:
    """A stream, and the fold of the gateway that it belongs to, which reads it when it is told to."""

    def __init__(self, name: str, heard: Heard | None = None) -> None:
        self.name = name
        self.messages: list[Message] = []
        self.first = 1
        self.last = 0
        self.fold = InboxFold(heard)
        self.numbers: dict[str, int] = {}

    def batch(self, writer: str, entries: list[bytes]) -> bytes:
        number = self.numbers[writer] = self.numbers.get(writer, 0) + 1
        return join_batch(pack(writer), number, entries)

    def store(self, data: bytes, time: float) -> int:
        self.last += 1
        self.messages.append((self.last, time, data))
        return self.last

    def write(self, writer: str, entries: list[bytes], time: float) -> int:
        return self.store(self.batch(writer, entries), time)

    def tail(self, count: int | None = None) -> None:
        """The gateway folds the next messages; all there are without a count."""
        last = self.last if count is None else min(self.last, self.fold.position + count)
        for message in self.messages[self.fold.position + 1 - self.first :]:
            if message[0] > last:
                break
            self.fold.apply(*message)

    def trim(self, as_of: int) -> None:
        self.messages = [message for message in self.messages if message[0] > as_of]
        self.first = max(self.first, as_of + 1)

    def reader(self, heard: Heard | None = None, to: int | None = None) -> LogReader:
        reader = LogReader(self.first, heard)
        for message in self.messages:
            if to is None or message[0] <= to:
                reader.feed(*message)
        return reader


def body(text: str, excluded: tuple[str, ...] = (), filter: str | None = None, ttl: int = 0) -> bytes:
    return pack_body(Content(DataType.TEXT, text.encode()), excluded, filter, ttl)


def texts(session: SessionState) -> list[str]:
    return [message.content().message.data.decode() for message in session.unacked]


def state(fold: InboxFold) -> dict[str, Any]:
    """What two folds of the same log must agree about."""
    return {
        session.id: (
            session.hub,
            session.user_id,
            session.subprotocol,
            session.generation,
            sorted(session.groups),
            session.permissions.snapshot(),
            session.source,
            session.window,
            session.last_id,
            session.acked,
            [(m.key, m.body, m.size, m.expires) for m in session.unacked],
            session.unacked_bytes,
            session.left,
            None
            if session.base is None or session.base.until < fold.seen.now
            else (
                sorted((p, seen.pack()) for p, seen in session.base.partitions.items()),
                session.base.left,
            ),
        )
        for session in fold.sessions
    } | {
        "": (
            sorted(fold.seen.writers.items()),
            sorted((p, s.pack()) for p, s in fold.seen.partitions.items()),
        )
    }
