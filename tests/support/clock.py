"""A clock that tests move: nobody waits."""

from __future__ import annotations

import asyncio


class FakeClock:
    """`sleep` moves the time on by itself and lets others run; `slept` are the pauses so far."""

    def __init__(self, now: float = 0.0, unix: float = 1_772_360_430.0) -> None:
        self.now = now
        self.unix = unix
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.unix + self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        self.now += seconds
