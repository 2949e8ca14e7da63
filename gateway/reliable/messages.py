"""Messages of the log, shared by the sessions that have not acknowledged them; whom they are for. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from gateway.hub import Member
from hubwire.bus.envelopes import Body, unpack_body
from hubwire.bus.keys import split_key
from hubwire.model.filters import Filter, InvalidFilter, compile_filter


class Receiver(Member, Protocol):
    @property
    def subprotocol(self) -> str: ...


S = TypeVar("S", bound=Receiver)

Place = tuple[int, int, int]
"""Where a message stands in an inbox: the sequence number, which entry of that batch, and which of the
messages that the entry brings."""


class Logged:
    """One message of the log; shared by all sessions that have not acknowledged it. Never changed.

    `place` names it within this inbox. `root` is the sequence number from which on the log must be readable
    to find it there. `key` is "" for a message to one connection. `size` is that of its data in bytes,
    `expires` the Unix time in seconds after which it need not be replayed, 0 for never.
    """

    __slots__ = ("body", "expires", "key", "place", "root", "size")

    def __init__(self, place: Place, root: int, key: str, body: bytes, size: int, expires: float) -> None:
        self.place = place
        self.root = root
        self.key = key
        self.body = body
        self.size = size
        self.expires = expires

    def content(self) -> Body:
        """The message itself, decoded each time: what waits to be acknowledged is kept packed, once."""
        return decode(self.key, self.body)


def decode(key: str, body: bytes) -> Body:
    """Raises InvalidRequest when the body is none."""
    kind, _, name = split_key(key)
    return unpack_body(body, name if kind == "g" else None)


def spared(members: Iterable[S], content: Body) -> list[S]:
    """The members without those that the message is not for; nobody when its filter cannot be understood."""
    excluded, filter_text = content.excluded, content.filter
    test: Filter | None = None
    if filter_text:
        try:
            test = compile_filter(filter_text)
        except InvalidFilter:
            return []
    if excluded is None and test is None:
        return list(members)
    return [
        session
        for session in members
        if (excluded is None or session.id not in excluded)
        and (
            test is None
            or test.matches(session.id, session.user_id, session.groups, session.subprotocol or None)
        )
    ]
