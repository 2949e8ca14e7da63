"""One client connection: its messages in order, decided by the session, executed by the gateway.

Messages are processed strictly in order (client-protocols.md 3.1). Publishes to groups may be on their
way to their owners together, since those keep their order; everything else waits until they are
answered, and they wait for everything else. What waits is bounded: past the bound the socket is not
read, so the client is held up by TCP and by nothing else (8.3).
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from functools import partial
from typing import Protocol

import structlog

from gateway.bounds import Bounds
from gateway.flusher import Flusher
from gateway.frames import BINARY, TEXT, frame
from gateway.protocol.codec import Codec
from gateway.protocol.requests import (
    ClientEvent,
    JoinGroup,
    LeaveGroup,
    Ping,
    Request,
    SendToGroup,
    SequenceAck,
)
from gateway.session import AckWindow, decide
from gateway.throttle import LOOK_AGAIN_SECONDS, Throttle
from gateway.transport import WebSocketPeer
from gateway.upstream.source import EventSource
from hubwire.model.errors import Conflict, HubwireError, PermissionDenied, ProtocolViolation
from hubwire.model.message import DataType, Message
from hubwire.model.permissions import PermissionSet

log = structlog.get_logger(__name__)

MAX_WAITING = 64
MAX_WAITING_BYTES = 2 * 1024 * 1024
MAX_IN_FLIGHT = 256
MAX_IN_FLIGHT_BYTES = 2 * 1024 * 1024
REQUEST_BYTES = 64
"""What a request costs beside its payload, roughly."""


class Executed(Protocol):
    def __call__(self, error: HubwireError | None) -> None: ...


class Executor(Protocol):
    """What a connection asks of the gateway. Each calls `done` exactly once, possibly at once."""

    def publish(self, connection: Connection, request: SendToGroup, done: Executed) -> None: ...
    def join(self, connection: Connection, group: str, done: Executed) -> None: ...
    def leave(self, connection: Connection, group: str, done: Executed) -> None: ...
    def event(self, connection: Connection, request: ClientEvent, done: Executed) -> None: ...
    def registered(self, connection: Connection) -> None: ...
    def ended(self, connection: Connection, category: str, reason: str | None) -> None: ...


class _Goodbye:
    """The client's close frame, waiting for its turn behind what the client sent before."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes) -> None:
        self.payload = payload


class Mode:
    """What a simple client's frames mean (client-protocols.md 6.1, 6.3): events when `group` is None."""

    __slots__ = ("group", "no_echo")

    def __init__(self, group: str | None = None, no_echo: bool = False) -> None:
        self.group = group
        self.no_echo = no_echo


SEND_EVENT = Mode()


class Connection(WebSocketPeer):
    """A client of one hub. Created when it is admitted, registered before its 101 is sent."""

    __slots__ = (
        "_executor",
        "_going_on",
        "_source",
        "_throttle",
        "announced",
        "busy",
        "codec",
        "groups",
        "host",
        "hub",
        "id",
        "in_flight",
        "in_flight_bytes",
        "mode",
        "permissions",
        "reading_paused",
        "user_id",
        "waiting",
        "waiting_bytes",
        "window",
    )

    def __init__(
        self,
        connection_id: str,
        hub: str,
        user_id: str | None,
        codec: Codec,
        permissions: PermissionSet,
        groups: set[str],
        mode: Mode,
        *,
        executor: Executor,
        flusher: Flusher,
        bounds: Bounds,
        host: str = "",
        source: EventSource | None = None,
    ) -> None:
        """`host` is the Host header of the client's request. `source` is there when an event handler was
        asked whether the client may connect; its user id is that of the connection."""
        super().__init__(flusher, bounds)
        self.id = connection_id
        self.hub = hub
        self.user_id = user_id
        self.codec = codec
        self.permissions = permissions
        self.groups = groups
        self.mode = mode
        self._executor = executor
        self.window = AckWindow()
        self.waiting: deque[tuple[Request | _Goodbye, int]] | None = None
        self.waiting_bytes = 0
        self.busy = False
        self.in_flight = 0
        self.in_flight_bytes = 0
        self.reading_paused = False
        self._going_on = False
        self.host = sys.intern(host)  # one text for all that came by the same name
        self._source = source
        self._throttle: Throttle | None = None
        self.announced = False

    @property
    def source(self) -> EventSource:
        """What event handlers know of this connection. Made when it is first asked for, since most
        connections of hubs without handlers never need one; its events are counted all the same."""
        source = self._source
        if source is None:
            source = self._source = EventSource(self.hub, self.id, self.user_id, self.host)
            source.subprotocol = self.codec.name or None
            source.events = 1 if self.announced else 0
        return source

    @property
    def simple(self) -> bool:
        return not self.codec.name

    def opened(self) -> None:
        if not self.simple:
            self._send_payload(self.codec.connected(self.id, self.user_id))  # always the first (3.7)
        self._executor.registered(self)
        # `connected` has the first number, whether anybody was told or not (server-events.md 3.5).
        self.announced = True
        if self._source is not None and not self._source.events:
            self._source.next_id()

    def ended(self, category: str, reason: str | None) -> None:
        self.waiting = None
        if self._throttle is not None:
            self._throttle.cancel()
        self._executor.ended(self, category, reason)

    def deliver(self, message: Message, done: Executed) -> None:
        """Send one message to this client alone; `done` is called once what follows it may be sent."""
        opcode = BINARY if self.codec.is_binary(message) else TEXT
        self.send(frame(opcode, self.codec.message(message)))
        done(None)

    def _send_payload(self, payload: bytes) -> None:
        self.send(frame(BINARY if self.codec.binary else TEXT, payload))

    # -- requests ----------------------------------------------------------------------------------

    def received(self, payload: bytes, binary: bool) -> None:
        try:
            request = self._decode(payload, binary)
        except ProtocolViolation as violation:
            self.close(violation.close_code, str(violation), "BadRequest")
            return
        if type(request) is Ping:
            self._send_payload(self.codec.pong())  # answered at once, never sequenced (1.10)
            return
        if type(request) is SequenceAck:
            self.sequence_acked(request.sequence_id)  # nothing waits for it, and it waits for nothing
            return
        size = len(payload) + REQUEST_BYTES
        if self.waiting is not None or not self._begin(request, size):
            if self.waiting is None:
                self.waiting = deque()
            self.waiting.append((request, size))
            self.waiting_bytes += size
            if not self.reading_paused and (
                len(self.waiting) > MAX_WAITING or self.waiting_bytes > MAX_WAITING_BYTES
            ):
                self.reading_paused = True
                self.pause_reading()

    def sequence_acked(self, sequence_id: int) -> None:
        """Only clients of reliable subprotocols have something to acknowledge (4.8)."""

    def _decode(self, payload: bytes, binary: bool) -> Request:
        codec = self.codec
        if codec.name:
            if binary != codec.binary:
                kinds = ("text", "binary") if codec.binary else ("binary", "text")
                raise ProtocolViolation(f"A {kinds[0]} frame, where {codec.name} has {kinds[1]} ones.", 1003)
            return codec.decode(payload)
        if not binary:
            try:
                payload.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ProtocolViolation("A text frame that is not UTF-8.", 1007) from error
        data_type = DataType.BINARY if binary else DataType.TEXT
        if self.mode.group is None:
            return ClientEvent("message", None, data_type, payload, None)
        return SendToGroup(self.mode.group, None, self.mode.no_echo, data_type, payload, 0, None)

    def serve_first(self, payload: bytes) -> bool:
        if not (self.busy or self.in_flight or self.waiting):
            return False
        if self.waiting is None:
            self.waiting = deque()
        self.waiting.append((_Goodbye(payload), 0))
        return True

    def _begin(self, request: Request | _Goodbye, size: int) -> bool:
        """Start on a request of `size` bytes; False when it must wait for those before it."""
        if self.busy:
            return False
        if isinstance(request, _Goodbye):
            if not self.in_flight:
                self.answer_close(request.payload)
            return not self.in_flight
        publishes = type(request) is SendToGroup
        if self.in_flight and (
            not publishes
            or self.in_flight >= MAX_IN_FLIGHT
            or self.in_flight_bytes + size > MAX_IN_FLIGHT_BYTES
        ):
            return False
        decision = decide(request, self.permissions, self.window)
        verdict = decision.verdict
        if verdict == "wait" or (self.bounds.paced and not self._takes_its_turn(size)):
            return False
        if verdict != "execute":
            if self.simple and type(request) is SendToGroup:
                self.close(1008, f"No permission to send to group '{request.group}'.", "Unauthorized")  # 6.3
            elif verdict == "ack":
                ack_id = getattr(request, "ack_id", None)
                self._send_payload(self.codec.ack(ack_id or 0, decision.error_name, decision.error_message))
            return True
        self._execute(request, size if publishes else 0)
        return True

    def _execute(self, request: Request, publish_size: int) -> None:
        ack_id: int | None = getattr(request, "ack_id", None)
        if ack_id is not None:
            self.window.begin(ack_id)
        done = partial(self._executed, ack_id, publish_size)
        if isinstance(request, SendToGroup):
            self.in_flight += 1
            self.in_flight_bytes += publish_size
            self._executor.publish(self, request, done)
            return
        self.busy = True
        if isinstance(request, JoinGroup):
            self._executor.join(self, request.group, done)
        elif isinstance(request, LeaveGroup):
            self._executor.leave(self, request.group, done)
        else:
            assert isinstance(request, ClientEvent)
            self._executor.event(self, request, done)

    def _executed(self, ack_id: int | None, publish_size: int, error: HubwireError | None) -> None:
        if publish_size:
            self.in_flight -= 1
            self.in_flight_bytes -= publish_size
            if error is not None and not isinstance(error, Conflict):
                self._publish_failed(error)
        else:
            self.busy = False
        done_before = isinstance(error, Conflict)  # by a request with this id that another gateway took
        if ack_id is not None:
            self.window.end(ack_id, error is None or done_before)
        if self.closing:
            return
        try:
            if ack_id is not None:
                if error is None:
                    self._send_payload(self.codec.ack(ack_id))
                elif done_before:
                    self._send_payload(self.codec.ack(ack_id, "Duplicate", str(error)))
                elif isinstance(error, PermissionDenied):
                    self._send_payload(self.codec.ack(ack_id, "Forbidden", str(error)))
                else:
                    self._send_payload(self.codec.ack(ack_id, "InternalServerError", "Internal server error"))
            self._go_on()
        except Exception:
            log.exception("connection_failed", connection_id=self.id, hub=self.hub)
            self.close(1011, "Internal error.", "ServiceTransientError")

    def _publish_failed(self, error: HubwireError) -> None:
        tally = self.bounds.tally
        if tally.fails(asyncio.get_running_loop().time()):
            log.warning("publish_failed", hub=self.hub, failed=tally.failed, error=str(error))

    def _takes_its_turn(self, size: int) -> bool:
        """Whether the pace of the hub lets a message begin now. If not, `_go_on` is called when it does."""
        throttle = self._throttle
        if throttle is None:
            throttle = self._throttle = Throttle()
        loop = asyncio.get_running_loop()
        now = loop.time()
        seconds = throttle.take(now, self.bounds, size - REQUEST_BYTES)
        if seconds and throttle.timer is None:
            if throttle.holds_another() and self.bounds.tally.holds_up(now):
                log.info("clients_held_up", hub=self.hub, held=self.bounds.tally.held)
            throttle.timer = loop.call_later(min(seconds, LOOK_AGAIN_SECONDS), self._turn_came, throttle)
        return not seconds

    def _turn_came(self, throttle: Throttle) -> None:
        throttle.timer = None
        if self.closing:
            return
        try:
            self._go_on()
        except Exception:
            log.exception("connection_failed", connection_id=self.id, hub=self.hub)
            self.close(1011, "Internal error.", "ServiceTransientError")

    def _go_on(self) -> None:
        """Begin what waited and may begin now."""
        if self._going_on:
            return  # a request that was executed at once called us from within the loop below
        self._going_on = True
        try:
            while self.waiting and self._begin(*self.waiting[0]):
                if self.waiting is None:
                    return
                self.waiting_bytes -= self.waiting.popleft()[1]
        finally:
            self._going_on = False
        if self.waiting is not None and not self.waiting:
            self.waiting = None
        if self.reading_paused and (
            self.waiting is None
            or (len(self.waiting) <= MAX_WAITING // 4 and self.waiting_bytes <= MAX_WAITING_BYTES // 4)
        ):
            self.reading_paused = False
            self.resume_reading()

    # -- closing -----------------------------------------------------------------------------------

    def close_administratively(
        self,
        message: str,
        code: int = 1000,
        category: str = "ClosedByAppServer",
        reason: str | None = None,
    ) -> None:
        """Close for an administrative reason: a `disconnected` message, then the close frame (1.11).
        `reason` is what event handlers are told."""
        last = b""
        if not self.simple:
            last = frame(BINARY if self.codec.binary else TEXT, self.codec.disconnected(message))
        self.close(code, "", category, last=last, told=reason)
