"""How fast one client's messages are begun on, when its hub has a limit (client-protocols.md 8.3)."""

from __future__ import annotations

import asyncio

BURST_SECONDS = 1.0
"""A client that was quiet may send what it could have sent in this time, at once."""


class Throttle:
    """The turns of one connection, evenly spaced but for a burst: a bucket of tokens kept as one time.

    Its owner is the connection, which waits with `timer` for the next turn, and cancels it when it ends."""

    __slots__ = ("_next", "timer")

    def __init__(self) -> None:
        self._next = 0.0  # when all turns that were taken would be over at an even pace
        self.timer: asyncio.TimerHandle | None = None

    def take(self, now: float, per_second: int) -> float:
        """0.0 when a message may begin now, which is counted; else the seconds until one may."""
        after = max(self._next, now) + 1.0 / per_second
        wait = after - now - BURST_SECONDS
        if wait > 1e-6:
            return wait
        self._next = after
        return 0.0

    def cancel(self) -> None:
        """Nobody waits any more. Idempotent."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
