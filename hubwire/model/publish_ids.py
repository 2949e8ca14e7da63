"""Which publishes were had already, by the ids of their clients: pure.

A client of a reliable subprotocol sends what was not acked again, perhaps over another gateway, under the
same ack id. The owner of a partition remembers what it has stamped; a gateway what it has delivered to plain
members, since the next owner does not know what the one before has stamped.

What is remembered is bounded: for each publisher as much as its gateway would remember, for REMEMBER_SECONDS
after its last publish; and MAX_PUBLISHERS of them. Beyond that an owner does it again, and inboxes drop what
they had.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from hubwire.model.ack_window import AckWindow

REMEMBER_SECONDS: Final = 180.0
MAX_PUBLISHERS: Final = 20_000


class PublishIds:
    """Of an owner: of one partition, under one epoch, since what one of before has stamped may not be stored.
    Of a gateway: of all partitions, where a publisher is named together with the partition."""

    __slots__ = ("_publishers",)

    def __init__(self) -> None:
        self._publishers: dict[Hashable, tuple[AckWindow, float]] = {}  # longest unheard of first

    def __len__(self) -> int:
        return len(self._publishers)

    def knows(self, publisher: Hashable, ack_id: int) -> bool:
        """Whether this publish was here before."""
        found = self._publishers.get(publisher)
        return found is not None and found[0].is_done(ack_id)

    def remember(self, publisher: Hashable, ack_id: int, now: float) -> None:
        """`now` in seconds of a clock that never goes back."""
        found = self._publishers.pop(publisher, None)
        window = found[0] if found is not None else AckWindow()
        window.end(ack_id, True)
        self._publishers[publisher] = (window, now)
        oldest = next(iter(self._publishers))
        # One for each that comes: so there is never more than that, and no long turn.
        if len(self._publishers) > MAX_PUBLISHERS or self._publishers[oldest][1] < now - REMEMBER_SECONDS:
            del self._publishers[oldest]
