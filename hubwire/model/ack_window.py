"""What a publisher has had done, by the ids of its requests (client-protocols.md 3.8): pure."""

from __future__ import annotations

from hubwire.model.limits import ACK_WINDOW

MAX_RUNS = 16


class AckWindow:
    """The ids of the last 1000 requests that succeeded (3.8), first in, first out.

    Clients count their ids up, so a few runs of consecutive ids hold them all in a few words, where a
    table of a thousand would be most of the memory of a connection. Ids that come in another order get
    the table.
    """

    __slots__ = ("_count", "_executing", "_runs", "_table")

    def __init__(self) -> None:
        self._runs: list[int] | None = None  # first, last, first, last ... in the order of their coming
        self._count = 0
        self._table: dict[int, None] | None = None
        self._executing: set[int] | None = None

    def snapshot(self) -> list[int]:
        """What is remembered, as runs: first, last, first, last ... in the order of their coming. What is
        being executed is no part of it."""
        if self._table is None:
            return list(self._runs or ())
        return [end for one in self._table for end in (one, one)]

    @classmethod
    def restored(cls, runs: list[int]) -> AckWindow:
        """A window that remembers what the one of the snapshot did. Raises ValueError for no snapshot."""
        firsts, lasts = runs[::2], runs[1::2]
        count = sum(last - first + 1 for first, last in zip(firsts, lasts, strict=True))
        if count > ACK_WINDOW or any(last < first for first, last in zip(firsts, lasts, strict=True)):
            raise ValueError("Not the snapshot of a window.")
        window = cls()
        if len(runs) > 2 * MAX_RUNS:
            window._table = {
                one: None for first, last in zip(firsts, lasts, strict=True) for one in range(first, last + 1)
            }
        elif runs:
            window._runs, window._count = list(runs), count
        return window

    def is_done(self, ack_id: int) -> bool:
        if self._table is not None:
            return ack_id in self._table
        runs = self._runs
        if runs is None:
            return False
        return any(runs[at] <= ack_id <= runs[at + 1] for at in range(0, len(runs), 2))

    def is_executing(self, ack_id: int) -> bool:
        return self._executing is not None and ack_id in self._executing

    def begin(self, ack_id: int) -> None:
        if self._executing is None:
            self._executing = set()
        self._executing.add(ack_id)

    def end(self, ack_id: int, succeeded: bool) -> None:
        """A failed request is not remembered: the client may try again with the same id."""
        if self._executing is not None:
            self._executing.discard(ack_id)
            if not self._executing:
                self._executing = None
        if succeeded and not self.is_done(ack_id):
            if self._table is None:
                self._add_to_runs(ack_id)
            else:
                self._table[ack_id] = None
                if len(self._table) > ACK_WINDOW:
                    del self._table[next(iter(self._table))]

    def _add_to_runs(self, ack_id: int) -> None:
        runs = self._runs
        if runs is None:
            runs = self._runs = []
        if runs and runs[-1] == ack_id - 1:
            runs[-1] = ack_id
        else:
            runs += (ack_id, ack_id)
        self._count += 1
        if self._count > ACK_WINDOW:
            self._count -= 1
            runs[0] += 1
            if runs[0] > runs[1]:
                del runs[:2]
        if len(runs) > 2 * MAX_RUNS:
            self._table = {
                one: None for at in range(0, len(runs), 2) for one in range(runs[at], runs[at + 1] + 1)
            }
            self._runs = None
