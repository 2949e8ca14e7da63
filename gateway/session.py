"""What a client's request leads to, decided without I/O (client-protocols.md section 10).

The order is the specification's: duplicate check, then permission, then execution, then the id is
remembered. `decide` makes the first two steps; the connection executes and reports back by `executed`.
"""

from __future__ import annotations

from collections import OrderedDict
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

Verdict = Literal["execute", "pong", "nothing", "ack", "wait"]


class Decision(NamedTuple):
    """`execute` the request; answer with a `pong`; do `nothing`; send a failed `ack`; or `wait`, since a
    request with the same ack id is still being executed."""

    verdict: Verdict
    error_name: str = ""
    error_message: str = ""


EXECUTE = Decision("execute")
PONG = Decision("pong")
NOTHING = Decision("nothing")
WAIT = Decision("wait")


class AckWindow:
    """The ids of the last 1000 requests that succeeded (3.8), first in, first out."""

    __slots__ = ("_done", "_executing")

    def __init__(self) -> None:
        self._done: OrderedDict[int, None] | None = None
        self._executing: set[int] | None = None

    def is_done(self, ack_id: int) -> bool:
        return self._done is not None and ack_id in self._done

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
        if succeeded:
            if self._done is None:
                self._done = OrderedDict()
            self._done[ack_id] = None
            if len(self._done) > ACK_WINDOW:
                self._done.popitem(last=False)


def decide(request: Request, permissions: PermissionSet, window: AckWindow) -> Decision:
    """What to do with a well-formed request of a connected client."""
    if isinstance(request, Ping):
        return PONG
    if isinstance(request, SequenceAck):
        return NOTHING  # accepted and ignored on the subprotocols that are not reliable (3.2)
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
