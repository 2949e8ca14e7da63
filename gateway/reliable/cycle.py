"""How a log is kept short: what its holder writes into it, so that it can be trimmed before that. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.reliable.fold import InboxFold
from gateway.reliable.messages import Logged, Place
from gateway.reliable.state import SessionState, pack_state
from hubwire.bus.envelopes import pack
from hubwire.bus.inbox_entries import carried_entry, checkpoint_entries, complete_entry, snapshot_entries


class Cycle:
    """One checkpoint and the snapshots that belong to it.

    Submit what `entries` gives, in that order, at any pace, while the fold goes on. When the last one is
    stored, trim away everything up to and including `as_of`. A cycle that is given up half-way does no
    harm: it never counts. `number` is higher than that of every cycle before, whatever became of it.
    """

    def __init__(self, fold: InboxFold, number: int) -> None:
        self._fold = fold
        self.number = number
        self.as_of = fold.position
        self._seen = pack(fold.seen.pack())
        self._done: set[SessionState] = set()
        self._carried: set[Place] = set()

    def entries(self) -> Iterator[bytes | None]:
        """The entries, each made when it is asked for; None when the cycle has to wait: ask again when the
        fold has gone on, since a session that began before `as_of` is on its way into it."""
        yield from checkpoint_entries(self.number, self.as_of, self._seen)
        while True:
            for session in self._fold.sessions:
                # Those that have ended meanwhile are no longer the fold's.
                if self._needs(session) and self._fold.get(session.id) is session:
                    yield from self._snapshot(session)
            if any(pin.since < self.as_of for pin in self._fold.pins):
                yield None
            elif not any(map(self._needs, self._fold.sessions)):
                break
        yield complete_entry(self.number, self.as_of)

    def _needs(self, session: SessionState) -> bool:
        return session.since < self.as_of and session not in self._done

    def _snapshot(self, session: SessionState) -> Iterator[bytes]:
        self._done.add(session)
        as_of = self._fold.position
        state = pack_state(session, inline=False)
        carried: list[Logged] = []
        for message in session.unacked:
            if message.root <= self.as_of and message.place not in self._carried:
                self._carried.add(message.place)
                carried.append(message)
        for message in carried:
            yield carried_entry(self.number, message.place, message.key, message.body, message.expires)
        yield from snapshot_entries(self.number, session.id, as_of, state)
