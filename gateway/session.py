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
from hubwire.model.ack_window import AckWindow as AckWindow
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
