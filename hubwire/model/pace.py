"""Token buckets: an even pace with a burst. Pure; the caller says what time it is, in seconds."""

from __future__ import annotations

BURST_SECONDS = 1.0
"""Who was quiet may have at once what he could have had in this time."""

_ROUNDING = 1e-6


class Pace:
    """A bucket of tokens, kept as one time: when all that was taken would be over at an even pace.

    What costs more than the whole bucket holds is let through when the bucket is full, and paid for
    afterwards: a message larger than a second's bytes is late, not refused for ever."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 0.0

    def wait(self, now: float, per_second: float, cost: float = 1) -> float:
        """The seconds until so much may be taken; 0.0 when it may be now. Takes nothing."""
        start = max(self._next, now)
        seconds = min(start + cost / per_second - BURST_SECONDS, start) - now
        return seconds if seconds > _ROUNDING else 0.0

    def take(self, now: float, per_second: float, cost: float = 1) -> None:
        """Take it, whether it may be or not."""
        self._next = max(self._next, now) + cost / per_second

    def reserve(self, now: float, per_second: float) -> float:
        """Take one token, and return when it may be used: now, or behind all that were reserved before."""
        seconds = self.wait(now, per_second)
        self.take(now, per_second)
        return now + seconds

    def rests(self, now: float) -> bool:
        """Whether the bucket is full, so that a new one would be the same."""
        return self._next <= now
