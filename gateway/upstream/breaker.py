"""Leave a dead upstream alone for a while, and find out when it lives again. Pure: time comes in."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Pass(NamedTuple):
    """The permission to call, given `at` that time; `probe` when it is the one that tries a circuit that is
    open."""

    probe: bool
    at: float


class Breaker:
    """The circuit of one upstream.

    Closed: everything goes. After `threshold` failures in a row it opens, for `seconds`: `admit` gives
    None. After that it lets one probe through every `seconds`, even while an earlier one hangs, so that
    an upstream that answers again is noticed at once. A probe that fails doubles the time, up to
    `max_seconds`. Any success closes the circuit, and a failure whose call began before the last success is
    no sign: while one event is waited for in vain, others are answered. Times are monotonic seconds.
    """

    __slots__ = (
        "_failures",
        "_max_seconds",
        "_next_probe",
        "_seconds",
        "_succeeded_at",
        "_threshold",
        "_wait",
    )

    def __init__(self, threshold: int, seconds: float, max_seconds: float) -> None:
        self._threshold = threshold
        self._seconds = seconds
        self._max_seconds = max_seconds
        self._failures = 0
        self._wait = 0.0
        self._next_probe = 0.0
        self._succeeded_at = float("-inf")

    def state(self, now: float) -> Literal["closed", "open", "half_open"]:
        if not self._wait:
            return "closed"
        return "open" if now < self._next_probe else "half_open"

    def admit(self, now: float) -> Pass | None:
        """Every Pass must be answered with `succeeded`, `failed` or `unknown`."""
        if not self._wait:
            return Pass(False, now)
        if now < self._next_probe:
            return None
        self._next_probe = now + self._wait
        return Pass(True, now)

    def succeeded(self, now: float) -> None:
        self._succeeded_at = now
        self._failures = 0
        self._wait = 0.0

    def failed(self, given: Pass, now: float) -> None:
        if self._wait:
            if given.probe:  # those that were under way when it opened say nothing new
                self._wait = min(self._wait * 2, self._max_seconds)
                self._next_probe = now + self._wait
            return
        if self._succeeded_at > given.at:
            return
        self._failures += 1
        if self._failures >= self._threshold:
            self._wait = self._seconds
            self._next_probe = now + self._wait

    def unknown(self, given: Pass, now: float) -> None:
        """The call ended without telling anything of the upstream, such as by cancellation."""
        if given.probe and self._wait:
            self._next_probe = now  # let another one try
