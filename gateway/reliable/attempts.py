"""Sessions on their way into the log: opened or adopted here, and not known to be in it yet.

Each attempt needs its keys until it is known what became of it; there may be several of one session, behind
one another, of which the first has failed and is still being taken out.
"""

from __future__ import annotations

from gateway.reliable.needs import Needs
from gateway.reliable.own_log import OwnLog
from gateway.reliable.state import SessionState
from hubwire.bus.inbox_entries import closed_entry
from hubwire.model.errors import HubwireError


class Attempt:
    """`keys` are needed for it. `wanted`: the highest generation that another gateway has marked meanwhile,
    -1 for none."""

    __slots__ = ("generation", "keys", "session_id", "wanted")

    def __init__(self, session_id: str, generation: int) -> None:
        self.session_id = session_id
        self.generation = generation
        self.keys: list[str] = []
        self.wanted = -1


class Attempts:
    """Those of one holder. Every `begin` is followed by one `arrived` or `give_up`."""

    def __init__(self, log: OwnLog, needs: Needs) -> None:
        self._log = log
        self._needs = needs
        self._by_id: dict[str, list[Attempt]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def begin(self, session_id: str, generation: int) -> Attempt:
        attempt = Attempt(session_id, generation)
        self._by_id.setdefault(session_id, []).append(attempt)
        return attempt

    def need(self, attempt: Attempt, keys: list[str]) -> None:
        """More keys, or none of them when it raises Unavailable."""
        self._needs.need_all(keys)
        attempt.keys += keys

    def arrived(self, attempt: Attempt) -> None:
        """The session is in the log, and has the attempt's keys now."""
        self._drop(attempt)

    def give_up(self, attempt: Attempt) -> None:
        """It may be found in the log all the same, so it is taken out again; its keys are needed until
        then."""

        def gone(_error: HubwireError | None) -> None:
            if self._drop(attempt):
                self._needs.release_all(attempt.keys)

        entry = closed_entry(attempt.session_id, attempt.generation)
        self._log.insist(attempt.session_id, entry, gone)

    def ended(self, state: SessionState) -> None:
        """A state is out of the log, and its keys are given back. Was it one that an attempt has put there,
        that has no keys any more: attempts of one generation come and go in their order."""
        for attempt in self._by_id.get(state.id, ()):
            if attempt.generation == state.generation:
                self._drop(attempt)
                return

    def marked(self, session_id: str, generation: int) -> None:
        """Another gateway wants the session in that generation, of which we may not know yet."""
        for attempt in self._by_id.get(session_id, ()):
            attempt.wanted = max(attempt.wanted, generation)

    def _drop(self, attempt: Attempt) -> bool:
        found = self._by_id.get(attempt.session_id, [])
        if attempt not in found:
            return False
        found.remove(attempt)
        if not found:
            del self._by_id[attempt.session_id]
        return True
