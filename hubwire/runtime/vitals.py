"""Whether a child that serves is alive: it beats, and it answers what it is asked.

A process that hangs keeps its pid and its sockets, so nothing but silence tells of it. Silence is counted
in time in which the supervisor itself was awake: after a laptop's suspend, or when the whole machine stood
still, nobody is taken for hung because nobody could say anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol

TICK_SECONDS = 1.0
SILENCE_SECONDS = 10.0
"""How long a child may be silent: a busy machine delays beats by seconds."""

_ANSWER_SECONDS = 5.0
_PAUSE_SECONDS = 2.0


class AwakeClock:
    """Seconds in which this process ran and looked around, at least once every `tick` seconds.

    What lies between two looks counts for two ticks at most: who comes so late was asleep itself.
    """

    def __init__(self, tick: float = TICK_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self.tick = tick
        self.now = 0.0
        self._clock = clock
        self._last = clock()

    def look(self) -> float:
        """Go on to now, and return it."""
        at = self._clock()
        self.now += min(max(0.0, at - self._last), 2 * self.tick)
        self._last = at
        return self.now


class Probe(Protocol):
    """One question to a process, asked without ever waiting."""

    def advance(self) -> str | None:
        """Go on as far as possible. None: no answer yet; "": it is well; else what is wrong with it. May
        raise OSError, which says the same as a text."""

    def late(self) -> str:
        """There was no answer in time: what is wrong then; "" when it says nothing against the process."""

    def fileno(self) -> int:
        """The socket, for a forked process to close."""

    def close(self) -> None:
        """Give up; also after an answer."""


class _Sign:
    """One thing that is heard of a child again and again while it is well."""

    def __init__(self, ask: Callable[[], Probe] | None, now: float) -> None:
        self.heard = now
        self.fault = ""
        self._ask = ask
        self._probe: Probe | None = None
        self._next = now  # when the present question is given up, or the next one is put

    def tick(self, now: float) -> None:
        if self._ask is None:
            return
        try:
            if self._probe is None:
                if now < self._next:
                    return
                self._next = now + _ANSWER_SECONDS
                self._probe = self._ask()
            answer = self._probe.advance()
            if answer is None:
                if now < self._next:
                    return
                answer = self._probe.late()
        except OSError as fault:
            answer = fault.strerror or str(fault)
        self.close()
        self._next = now + _PAUSE_SECONDS
        self.fault = answer
        if not self.fault:
            self.heard = now

    def fds(self) -> Iterator[int]:
        if self._probe is not None:
            yield self._probe.fileno()

    def close(self) -> None:
        if self._probe is not None:
            self._probe.close()
            self._probe = None


class Vitals:
    """What is heard of one run of a child, from when it serves. All times are an `AwakeClock`'s."""

    def __init__(
        self, beats: bool, questions: tuple[Callable[[], Probe], ...], silence_seconds: float, now: float
    ) -> None:
        self._silence = silence_seconds
        self._beat = _Sign(None, now) if beats else None
        self._signs = [_Sign(ask, now) for ask in questions]
        if self._beat is not None:
            self._signs.append(self._beat)

    def beat(self, now: float) -> None:
        """The child has said that it is there."""
        if self._beat is not None:
            self._beat.heard = now

    def excuse(self, now: float) -> None:
        """Begin to count now: until here nothing could be expected."""
        for sign in self._signs:
            sign.heard = now

    def tick(self, now: float) -> str:
        """Put the questions that are due. Returns why the child is to be taken for hung; "" if it is not."""
        for sign in self._signs:
            sign.tick(now)
        for sign in self._signs:
            if now - sign.heard > self._silence:
                return f"{sign.fault or 'nothing was heard of it'} for {self._silence:g} seconds"
        return ""

    def fds(self) -> Iterator[int]:
        """The descriptors of questions that are under way."""
        for sign in self._signs:
            yield from sign.fds()

    def close(self) -> None:
        for sign in self._signs:
            sign.close()
