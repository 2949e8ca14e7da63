"""One upstream of one hub: what may be on its way to it, and whether it is alive.

Whatever is slow or dead about it is kept in here: other upstreams, other hubs' events to the same host, and
`connect`, for which a client stands at the door, have their own.
"""

from __future__ import annotations

import asyncio
from typing import Final, Literal, NamedTuple

from gateway.upstream.breaker import Breaker
from gateway.upstream.config import UpstreamConfig

VALIDATIONS: Final = 4
"""First validations that run at a time. Each is for an address and an origin, and clients choose the origin
where no public host is configured."""


class UpstreamKey(NamedTuple):
    """`place` is scheme, host and port: `https://app.example:8443`; `connect`: for that event only."""

    hub: str
    place: str
    connect: bool


class UpstreamStatus(NamedTuple):
    """For people and metrics. `pending` counts all events that are not answered yet, `active` those of them
    that hold a connection right now."""

    hub: str
    place: str
    connect: bool
    circuit: Literal["closed", "open", "half_open"]
    active: int
    pending: int
    pending_bytes: int


class Upstream:
    """Admission to an upstream.

    `enter` counts an event in, against the bounds on events and bytes, and never waits; `slots` is what
    requests wait for, first come first served; `validations` bounds what is asked before the first event. An
    event gives its slot back while it pauses before a repeat.
    """

    def __init__(self, key: UpstreamKey, config: UpstreamConfig) -> None:
        self.key = key
        self.slots = asyncio.Semaphore(config.connect_connections if key.connect else config.connections)
        self.validations = asyncio.Semaphore(VALIDATIONS)
        self.large = asyncio.Semaphore(config.large_answers)
        self.breaker = Breaker(config.breaker_failures, config.breaker_seconds, config.breaker_max_seconds)
        self._max_pending = config.pending
        self._max_bytes = config.pending_bytes
        self.pending = 0
        self.pending_bytes = 0
        self.active = 0

    def enter(self, size: int) -> bool:
        """Whether an event of `size` bytes may wait here; if so, `leave` must follow. An event that is alone
        always may, however large."""
        if self.pending and (
            self.pending >= self._max_pending or self.pending_bytes + size > self._max_bytes
        ):
            return False
        self.pending += 1
        self.pending_bytes += size
        return True

    def leave(self, size: int) -> None:
        self.pending -= 1
        self.pending_bytes -= size

    def status(self, now: float) -> UpstreamStatus:
        return UpstreamStatus(
            *self.key, self.breaker.state(now), self.active, self.pending, self.pending_bytes
        )
