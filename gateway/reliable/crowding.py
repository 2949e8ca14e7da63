"""Which sessions have too much that their client has not acknowledged (client-protocols.md 4.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from gateway.reliable.session import Session
from gateway.reliable.state import SessionState

BURST_TIMES = 4
BURST_SECONDS = 3.0
"""More messages than the limit may be unacknowledged for so long, and up to so many times the limit: the SDKs
acknowledge once a second, whatever comes in between."""


class Crowding:
    """The limits (`messages`, and `size` in bytes), and which of the `sessions` are over them for a moment:
    never more than there are. Calls `close_slow` for one that is to be closed."""

    def __init__(
        self,
        messages: int,
        size: int,
        sessions: Callable[[], Mapping[str, Session]],
        close_slow: Callable[[Session], None],
    ) -> None:
        self.messages = messages
        self.size = size
        self._sessions = sessions
        self._close_slow = close_slow
        self._loop = asyncio.get_running_loop()
        self._borne: dict[str, float] = {}  # over the number of messages, until when that is borne

    def look(self, session: Session) -> None:
        """A session is over a limit. Clients acknowledge once a second, so a burst is over the number for
        a moment; that many bytes, or several times the number, are too much at once. A client that has just
        come back and has not said yet what it has may have more; but not without end, if it never says."""
        state = session.state
        if session.over or not self._too_much(state, 1):
            return
        at_once = len(state.unacked) > BURST_TIMES * self.messages
        bytes_over = state.unacked_bytes > self.size
        if not session.judged:
            if not self._too_much(state, BURST_TIMES):
                return
        elif not at_once and not bytes_over:
            self._borne.setdefault(session.id, self._loop.time() + BURST_SECONDS)
            return
        self._close_slow(session)

    def judge(self, now: float) -> None:
        """Once a second or so: those whose moment is over at `now`, a time of the loop's clock."""
        for session_id, until in [*self._borne.items()]:
            session = self._sessions().get(session_id)
            if session is None or session.over or not self._too_much(session.state, 1):
                del self._borne[session_id]
            elif until <= now:
                del self._borne[session_id]
                self._close_slow(session)

    def _too_much(self, state: SessionState, times: int) -> bool:
        return len(state.unacked) > times * self.messages or state.unacked_bytes > times * self.size
