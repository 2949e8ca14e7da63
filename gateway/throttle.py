"""How fast one client's messages are begun on, when its hub has a limit (client-protocols.md 8.3)."""

from __future__ import annotations

import asyncio

from gateway.bounds import Bounds
from hubwire.model.pace import Pace

LOOK_AGAIN_SECONDS = 1.0
"""Who is held up asks again after so long at most: a limit may have been lifted meanwhile."""


class Throttle:
    """The turns of one connection: its own pace in messages and in bytes, and its place in its hub's line.

    A connection has one place in that line at most, for the message that is next. So who sends much is behind
    everybody else of his hub who waits, and never before him twice.

    Its owner is the connection, which waits with `timer` for the next turn, and cancels it when it ends."""

    __slots__ = ("_bytes", "_holds", "_line", "_messages", "_place", "timer")

    def __init__(self) -> None:
        self._messages = Pace()
        self._bytes = Pace()
        self._line: Pace | None = None  # of the hub, in which there is a place
        self._place = 0.0
        self._holds = False
        self.timer: asyncio.TimerHandle | None = None

    def take(self, now: float, bounds: Bounds, size: int) -> float:
        """0.0 when a message of `size` bytes may begin now, which is counted; else the seconds to wait."""
        wait = self._own_wait(now, bounds, size)
        if not wait and bounds.hub_messages_per_second:
            if self._line is not bounds.line:  # none, or of a limit that was another
                self._line = bounds.line
                self._place = bounds.line.reserve(now, bounds.hub_messages_per_second)
            wait = max(0.0, self._place - now)
        if wait > 1e-6:
            return wait
        self._line = None
        self._holds = False
        if bounds.messages_per_second:
            self._messages.take(now, bounds.messages_per_second)
        if bounds.bytes_per_second:
            self._bytes.take(now, bounds.bytes_per_second, size)
        return 0.0

    def holds_another(self) -> bool:
        """Whether the message that may not begin is another than when this was asked last."""
        held, self._holds = self._holds, True
        return not held

    def _own_wait(self, now: float, bounds: Bounds, size: int) -> float:
        wait = 0.0
        if bounds.messages_per_second:
            wait = self._messages.wait(now, bounds.messages_per_second)
        if bounds.bytes_per_second:
            wait = max(wait, self._bytes.wait(now, bounds.bytes_per_second, size))
        return wait

    def cancel(self) -> None:
        """Nobody waits any more. Idempotent."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
