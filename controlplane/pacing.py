"""How many sends of a hub this process takes a second, where the hub has a limit (rest-api.md 3.1, 3.4)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from controlplane.problems import Problem
from hubwire.model.pace import Pace

MAX_HUBS = 1000
"""Hubs whose pace is remembered. Beyond it those go that would start afresh anyhow, else the oldest."""


class HubPaces:
    """A bucket of tokens for each hub with a limit that was sent to lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._by_hub: dict[str, Pace] = {}

    def __len__(self) -> int:
        return len(self._by_hub)

    def admit(self, hub: str, per_second: int | None) -> None:
        """Count one send. Raises Problem (429, which says when to repeat) when it is one too many; it is not
        counted then, and nothing was sent."""
        if per_second is None:
            return
        now = self._clock()
        pace = self._by_hub.get(hub)
        if pace is None:
            if len(self._by_hub) >= MAX_HUBS:
                self._forget(now)
            pace = self._by_hub[hub] = Pace()
        seconds = pace.wait(now, per_second)
        if seconds:
            text = f"More than {per_second} messages a second for hub `{hub}`."
            headers = {"Retry-After": str(math.ceil(seconds))}
            raise Problem(429, "Error.TooManyRequests", text, "hub", headers=headers)
        pace.take(now, per_second)

    def _forget(self, now: float) -> None:
        self._by_hub = {hub: pace for hub, pace in self._by_hub.items() if not pace.rests(now)}
        if len(self._by_hub) >= MAX_HUBS:
            del self._by_hub[next(iter(self._by_hub))]
