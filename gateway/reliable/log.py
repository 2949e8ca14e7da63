"""Reading an inbox from wherever it begins, as it was trimmed (DESIGN.md section 5). Pure."""

from __future__ import annotations

from typing import Any

import msgpack

from gateway.reliable.fold import FAULTS, InboxFold
from gateway.reliable.heard import Heard
from gateway.reliable.messages import Logged, Place, decode
from gateway.reliable.seen import Seen
from gateway.reliable.state import unpack_state
from hubwire.bus.inbox_entries import CARRIED, CHECKPOINT, COMPLETE, SNAPSHOT, unpack_batch
from hubwire.model.errors import InvalidRequest

Message = tuple[int, float, bytes]
"""Sequence number, store time, data."""


class _Cycle:
    """What was read of one cycle so far."""

    def __init__(self, as_of: int) -> None:
        self.as_of = as_of
        self.seen: dict[int, bytes] = {}
        self.parts = 0
        self.snapshots: dict[tuple[int, str], dict[int, bytes]] = {}
        self.snapshot_parts: dict[tuple[int, str], int] = {}
        self.carried: dict[Place, Logged] = {}

    def add(self, entry: list[Any]) -> None:
        kind, _, *rest = entry
        if kind == CHECKPOINT:
            _, part, self.parts, piece = rest
            self.seen[part] = piece
        elif kind == SNAPSHOT:
            session, as_of, part, parts, piece = rest
            self.snapshots.setdefault((as_of, session), {})[part] = piece
            self.snapshot_parts[as_of, session] = parts
        else:
            seq, index, at, key, body, expires = rest
            size = len(decode(key, body).message.data)
            place = (seq, index, at)
            self.carried[place] = Logged(place, seq, key, body, size, expires)

    @property
    def is_whole(self) -> bool:
        return len(self.seen) == self.parts and all(
            len(found) == self.snapshot_parts[which] for which, found in self.snapshots.items()
        )


class LogReader:
    """The fold of somebody's inbox: `feed` it every message that there is, from the stream's first on.

    `fold` is None until the states are known: at once when the log is whole, else from the first complete
    cycle on. Nothing of what is fed before is lost, and `heard` is told of it then.
    """

    def __init__(self, first: int, heard: Heard | None = None) -> None:
        self._first = first
        self._heard = heard
        self._waiting: list[Message] = []
        self._cycles: dict[int, _Cycle] = {}
        self._due: list[tuple[int, str, bytes]] = []  # snapshots that begin to count later
        self._carried: dict[Place, Logged] = {}
        self.fold: InboxFold | None = InboxFold(heard, keep_all=True) if first <= 1 else None

    def feed(self, seq: int, time: float, data: bytes) -> None:
        """The next message. Entries that cannot be read do nothing, as with the fold."""
        if self.fold is not None:
            self._apply(self.fold, seq, time, data)
            return
        self._waiting.append((seq, time, data))
        try:
            entries = unpack_batch(data).entries
        except InvalidRequest:
            return
        for entry in entries:
            try:
                if self._look(entry):
                    return
            except FAULTS:
                continue

    def _look(self, entry: list[Any]) -> bool:
        """Whether this entry completes the first cycle that the log reaches back to."""
        kind = entry[0]
        if kind == CHECKPOINT and entry[2] + 1 >= self._first:
            self._cycles.setdefault(entry[1], _Cycle(entry[2])).add(entry)
        elif kind in (SNAPSHOT, CARRIED) and (cycle := self._cycles.get(entry[1])) is not None:
            cycle.add(entry)
        elif kind == COMPLETE and (cycle := self._cycles.get(entry[1])) is not None and cycle.is_whole:
            self._start(cycle)
            return True
        return False

    def _start(self, cycle: _Cycle) -> None:
        seen = b"".join(piece for _, piece in sorted(cycle.seen.items()))
        fold = InboxFold(self._heard, keep_all=True)
        fold.begin(cycle.as_of, Seen.restored(msgpack.unpackb(seen, strict_map_key=False)))
        self._carried = cycle.carried
        self._due = [
            (as_of, session, b"".join(piece for _, piece in sorted(found.items())))
            for (as_of, session), found in cycle.snapshots.items()
        ]
        self._due.sort(reverse=True)
        self.fold = fold
        waiting, self._waiting, self._cycles = self._waiting, [], {}
        for message in waiting:
            if message[0] > cycle.as_of:
                self._apply(fold, *message)

    def _apply(self, fold: InboxFold, seq: int, time: float, data: bytes) -> None:
        while self._due and self._due[-1][0] < seq:
            self._activate(fold, self._due.pop()[2])
        if not self._due and self._carried:
            fold.forget_places()
            self._carried = {}
        fold.apply(seq, time, data)

    def _activate(self, fold: InboxFold, state: bytes) -> None:
        def find(_at: int, packed: list[Any]) -> Logged:
            place: Place = (packed[0], packed[1], packed[2])
            return self._carried.get(place) or fold.at(place)

        fold.activate(unpack_state(state, find))
