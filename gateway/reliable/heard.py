"""What a fold tells, and to whom. Pure."""

from __future__ import annotations

from typing import Protocol

from gateway.reliable.messages import Logged
from gateway.reliable.state import SessionState
from hubwire.bus.envelopes import Body


class Heard(Protocol):
    """Whoever wants to know what the fold comes to. Called in the order of the log, with the states as of
    there; it must not change them, `SessionState.ack` excepted."""

    def delivered(self, message: Logged, content: Body, sessions: list[SessionState]) -> None:
        """Each of these sessions has got the message, under its `last_id`."""

    def marked(self, session_id: str, generation: int, by: str) -> None:
        """Another gateway wants the session, if it is of that generation."""

    def ended(self, session: SessionState) -> None:
        """The session is no longer in this log: it was closed here, or replaced by its next coming."""


class Unheard:
    """For those who want the states only."""

    def delivered(self, message: Logged, content: Body, sessions: list[SessionState]) -> None: ...
    def marked(self, session_id: str, generation: int, by: str) -> None: ...
    def ended(self, session: SessionState) -> None: ...
