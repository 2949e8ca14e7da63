"""How clients of reliable subprotocols get in: with a new session, or back to one (client-protocols.md 4.5,
4.6)."""

from __future__ import annotations

import msgspec
import structlog

from gateway.bounds import Bounds
from gateway.connection import Connection
from gateway.events import Welcome
from gateway.flusher import Flusher
from gateway.front import Front
from gateway.handshake import Admission, RecoveryRequest, Refusal, RefusedRecovery
from gateway.http_head import Head
from gateway.reliable.service import ReliableSessions
from gateway.reliable.state import SessionState
from gateway.transport import WebSocketPeer
from gateway.upgrade import hand_over
from gateway.upstream.source import EventSource
from hubwire.model.errors import HubwireError, NotFound
from hubwire.model.permissions import PermissionSet

log = structlog.get_logger(__name__)

RETRY_SOON = (("Retry-After", "1"),)


async def open_session(
    reliable: ReliableSessions,
    front: Front,
    head: Head,
    connection_id: str,
    admission: Admission,
    welcome: Welcome,
    bounds: Bounds,
    seconds: float,
) -> Refusal | None:
    """The session is in the log, and its keys are confirmed, before the 101: what is published after it
    reaches the client. Nothing is left of a client that has gone meanwhile."""
    host = head.headers.get("host", "")
    source = welcome.source or EventSource(admission.hub, connection_id, welcome.user_id, host)
    source.subprotocol = welcome.codec.name
    source.user_id = welcome.user_id
    state = SessionState(
        connection_id,
        admission.hub,
        welcome.user_id,
        welcome.codec.name,
        groups=set(welcome.groups),
        permissions=PermissionSet.from_roles(welcome.roles),
        source=msgspec.msgpack.encode(source.snapshot()),
    )
    try:
        session = await reliable.open(state, seconds)
    except HubwireError as error:
        log.warning("connection_not_registered", hub=admission.hub, error=repr(error))
        return Refusal(503, "The cluster does not answer; try again.", RETRY_SOON)
    if not _hand_over(front, reliable.connection(session, bounds, host), admission.key, welcome.subprotocol):
        reliable.holder.end(session, "Normal", None)
    return None


async def recover(
    reliable: ReliableSessions, front: Front, head: Head, request: RecoveryRequest, bounds: Bounds
) -> Refusal | None:
    """101 for a session that goes on here; 101 and 1008 for one that is over; 503 when that is not known, so
    that the client tries again."""
    try:
        session = await reliable.recover(request.hub, request.connection_id)
    except NotFound as error:
        reliable.recoveries["not_found"] += 1
        log.info("recovery_refused", hub=request.hub, connection_id=request.connection_id, reason=str(error))
        refuse_recovery(front, request.refused(), reliable.flusher)
        return None
    except HubwireError as error:
        reliable.recoveries["unavailable"] += 1
        log.warning("recovery_failed", hub=request.hub, connection_id=request.connection_id, error=str(error))
        return Refusal(503, "The session cannot be recovered now; try again.", RETRY_SOON)
    reliable.recoveries["recovered"] += 1
    connection = reliable.connection(session, bounds, head.headers.get("host", ""))
    _hand_over(front, connection, request.key, request.echo(session.codec))
    return None


def refuse_recovery(front: Front, refused: RefusedRecovery, flusher: Flusher) -> None:
    transport, rest = front.take_socket()
    if not transport.is_closing():
        hand_over(transport, _Unrecoverable(flusher, Bounds()), refused.key, refused.subprotocol, rest)


def _hand_over(front: Front, connection: Connection, key: str, subprotocol: str | None) -> bool:
    transport, rest = front.take_socket()
    if transport.is_closing():
        return False
    hand_over(transport, connection, key, subprotocol, rest)
    return True


class _Unrecoverable(WebSocketPeer):
    """A recovery attempt: it must get its 101 and then 1008, or the client would go on trying (4.5)."""

    __slots__ = ()

    def opened(self) -> None:
        self.close(1008, "The connection cannot be recovered.", "Normal")
