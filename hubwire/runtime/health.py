"""What a process says of itself: whether it has started, whether it may get traffic, and why not.

Three questions, and nobody should mix them up:

- *alive*: the event loop turns. A process that is not alive has to be killed; NATS being away is no reason.
- *started*: it has served once. Until then the other two are not asked.
- *ready*: clients may be sent here now. While NATS is away, the lease has run out or the process is being
  stopped they may not; that passes, or ends with the process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Check = Callable[[], str]
"""What is wrong now, as a sentence; "" for nothing. Called whenever somebody asks, so it must be cheap."""

NO_NATS = "NATS is not connected."
NO_LEASE = "The lease has run out and is not renewed: others may not count on this process."


class _Bus(Protocol):
    @property
    def connected(self) -> bool: ...


class _Lease(Protocol):
    @property
    def valid(self) -> bool: ...


class Health:
    """The state of one process. It begins as starting; its service tells how far it is."""

    def __init__(self) -> None:
        self.started = False
        """Whether it has served once, perhaps under an earlier name."""
        self._phase = "It is starting: NATS has not been reached yet."
        self._checks: tuple[Check, ...] = ()
        self.stopping: Check = lambda: ""
        """Whether the whole process was told to stop."""

    def begin(self) -> None:
        """A run begins, the first or one under a new name."""
        self._phase, self._checks = "It is starting: NATS has not been reached yet.", ()

    def check(self, *checks: Check) -> None:
        """What must be so from now on, for this run."""
        self._phase, self._checks = "It is starting.", checks

    def serves(self) -> None:
        """The run may get traffic, as long as its checks find nothing."""
        self._phase = ""
        self.started = True

    def leaves(self, reason: str) -> None:
        """The run is being stopped: nothing new should come."""
        self._phase = f"It is being stopped: {reason}."

    def problems(self) -> list[str]:
        """Why it may get no traffic now; empty when it may."""
        if told := self.stopping():
            return [told]
        found = [check() for check in self._checks]
        return [one for one in (self._phase, *found) if one]


def bus_check(bus: _Bus) -> Check:
    return lambda: "" if bus.connected else NO_NATS


def lease_check(lease: _Lease) -> Check:
    """Only for a lease that was acquired."""
    return lambda: "" if lease.valid else NO_LEASE
