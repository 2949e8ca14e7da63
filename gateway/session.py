"""What a client's request leads to, decided without I/O (client-protocols.md section 10).

The order is the specification's: duplicate check, then permission, then execution, then the id is
remembered. `decide` makes the first two steps; the connection executes and reports back by `executed`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from gateway.protocol.requests import (
    ClientEvent,
    JoinGroup,
    LeaveGroup,
    Ping,
    Request,
    SendToGroup,
    SequenceAck,
)
from hubwire.model.limits import ACK_WINDOW
from hubwire.model.permissions import PermissionSet

Verdict = Literal["execute", "pong", "nothing", "ack", "wait", "acked"]


class Decision(NamedTuple):
    """`execute` the request; answer with a `pong`; do `nothing`; send a failed `ack`; `wait`, since a
    request with the same ack id is still being executed; or take what the client has `acked` out of its
    session (`released_by`)."""

    verdict: Verdict
    error_name: str = ""
    error_message: str = ""


EXECUTE = Decision("execute")
PONG = Decision("pong")
NOTHING = Decision("nothing")
WAIT = Decision("wait")
ACKED = Decision("acked")


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


def decide(
    request: Request, permissions: PermissionSet, window: AckWindow, *, reliable: bool = False
) -> Decision:
    """What to do with a well-formed request of a connected client."""
    if isinstance(request, Ping):
        return PONG
    if isinstance(request, SequenceAck):
        return ACKED if reliable else NOTHING  # accepted and ignored on the other subprotocols (3.2)
    ack_id = request.ack_id
    if ack_id is not None:
        if window.is_done(ack_id):
            return Decision("ack", "Duplicate", f"Message with ack-id: {ack_id} has been processed")
        if window.is_executing(ack_id):
            return WAIT
    if isinstance(request, SendToGroup):
        if permissions.can_send(request.group):
            return EXECUTE
        return _forbidden(ack_id, f"The client does not have permission to send to group '{request.group}'.")
    if isinstance(request, (JoinGroup, LeaveGroup)):
        if permissions.can_join_leave(request.group):
            return EXECUTE
        doing = "join" if isinstance(request, JoinGroup) else "leave"
        return _forbidden(ack_id, f"The client does not have permission to {doing} group '{request.group}'.")
    assert isinstance(request, ClientEvent)
    return EXECUTE


def _forbidden(ack_id: int | None, message: str) -> Decision:
    # Without an ack id nothing is ever reported, a missing permission neither (3.8).
    return NOTHING if ack_id is None else Decision("ack", "Forbidden", message)


def released_by(sequence_id: int, acked: int, sent: int) -> int:
    """Up to where a session's messages are acknowledged after a `sequenceAck` (4.3): it never goes back, and
    an id beyond the last one that was `sent` means all that were."""
    return max(acked, min(sequence_id, sent))
