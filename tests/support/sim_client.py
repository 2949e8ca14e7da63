"""A client of reliable sessions in simulated time, and the socket between it and a gateway.

The client follows client-protocols.md 9.3: it acknowledges what it gets, comes back at any gateway with its
connection id, and sends again under the same ack ids what was not answered. It writes down what it sees.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from support.history import OK, End, Frame, Request, Session, Socket

from gateway.reliable.connection import ReliableConnection

if TYPE_CHECKING:
    from support.reliable_simulation import GatewayNode, ReliableWorld

TRY_SECONDS = 30.0
ANSWER_SECONDS = 6.0
"""How long a client waits for `connected`, before it tries elsewhere."""
GROUPS = ("g0", "g1", "g2", "g3")
TEXT, CLOSE, PING = 1, 8, 9


class SimSocket:
    """One socket: what the gateway's side takes for a transport, and the client's end of it. In order in both
    directions; what is on its way when it is dropped is lost."""

    def __init__(self, client: SimClient, node: GatewayNode) -> None:
        self.client = client
        self.node = node
        self.world = node.world
        self.connection: ReliableConnection | None = None
        self.number = -1  # of the session's sockets, once `connected` came
        self.gone = False  # for the client
        self._closing = False  # for the gateway
        self._to_client = self._to_gateway = 0.0
        node.sockets.add(self)

    # -- the gateway's side: asyncio.Transport ---------------------------------------------------------

    def write(self, data: bytes) -> None:
        self._down(partial(self.client.bytes_came, self, data))

    def _down(self, call: Any) -> None:
        self._to_client = max(self._to_client, self.world.now + self.world.delay())

        def arrive() -> None:
            if not self.gone:
                call()

        self.world.at(self._to_client, arrive)

    def abort(self) -> None:
        if not self._closing:
            self._closing = True
            self._down(partial(self.client.socket_lost, self))
            self.lost()

    close = abort

    def is_closing(self) -> bool:
        return self._closing

    def write_eof(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, _name: str) -> SimSocket:
        return self

    def fileno(self) -> int:
        return -1

    # -- the client's side -----------------------------------------------------------------------------

    def send(self, call: Any, *arguments: Any) -> None:
        """Have the gateway's process do something, in its turn."""
        self._to_gateway = max(self._to_gateway, self.world.now + self.world.delay())
        self.world.at(self._to_gateway, partial(self.node.soon, self._in_turn, call, arguments))

    def _in_turn(self, call: Any, arguments: tuple[Any, ...]) -> None:
        if self.connection is not None and not self._closing:
            call(self.connection, *arguments)

    def drop(self, seconds: float) -> None:
        """The network's way of ending it: the gateway sees it after so long."""
        if not self.gone:
            self.gone = True
            self.world.at(self.world.now + seconds, self.lost)

    def lost(self) -> None:
        """Tell the gateway's side that the socket is no more."""
        self._closing = True
        self.node.sockets.discard(self)
        if self.connection is not None:
            self.node.soon(self.connection.lost)

    def accepted(self, connection: ReliableConnection) -> None:
        """The 101, said by the gateway."""
        if self._closing:
            self.node.soon(connection.lost)
        self.connection = connection
        connection.connected(self)  # type: ignore[arg-type]


class SimConnection(ReliableConnection):
    """Writes to a SimSocket."""

    __slots__ = ()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


class _Goodbye:
    """A client's close frame."""

    def get_payload_as_bytes(self) -> bytes:
        return (1000).to_bytes(2, "big")


class SimClient:
    """One client: session after session, until it is told to rest."""

    def __init__(self, world: ReliableWorld, number: int) -> None:
        self.world = world
        self.user = f"u{number}"
        self.session: Session | None = None
        self.socket: SimSocket | None = None
        self.attached = False
        self.closing = False  # it has sent its close frame
        self.finished = False
        self.pending: dict[int, Request] = {}
        self.groups: set[str] = set()
        self._attempt = 0
        self._since = 0.0  # when it began to try
        self._highest = 0
        self._acked = 0
        self._next_ack_id = 0
        self._texts = 0

    def dial(self) -> None:
        """A new session, or the next attempt at one; or at coming back."""
        if self.finished:
            return
        world = self.world
        self._attempt += 1
        nodes = [node for node in world.alive("gateway") if node.service is not None and node.serving]
        session = self.session
        if session is not None and world.now - self._since > TRY_SECONDS:
            self.end("unrecovered")
            return
        if not nodes:
            world.at(world.now + 0.2, partial(self._again, self._attempt))
            return
        node = world.chance.choice(nodes)
        socket = self.socket = SimSocket(self, node)
        if session is None:
            self._since = world.now
        recovers = session.connection_id if session is not None else None
        world.at(world.now + world.delay(), partial(node.soon, node.admit, socket, recovers))
        world.at(world.now + ANSWER_SECONDS, partial(self._give_up, self._attempt))

    def _again(self, attempt: int) -> None:
        if attempt == self._attempt and not self.attached:
            self.dial()

    def _give_up(self, attempt: int) -> None:
        if attempt == self._attempt and not self.attached and self.socket is not None:
            self.socket.drop(0.01)
            self.dial()

    def not_now(self, socket: SimSocket) -> None:
        """503."""
        if socket is self.socket and not self.attached:
            socket.drop(0.0)
            self.world.at(
                self.world.now + 0.1 + self.world.chance.random() * 0.4, partial(self._again, self._attempt)
            )

    def refused(self, socket: SimSocket) -> None:
        """101 and 1008."""
        if socket is self.socket:
            socket.drop(0.0)
            self.end("refused")

    # -- what comes ------------------------------------------------------------------------------------

    def socket_lost(self, socket: SimSocket) -> None:
        socket.gone = True
        if socket is not self.socket:
            return
        if self.closing:
            self.end("closed")
        elif self.attached:
            self.detached()
        else:
            self.dial()

    def detached(self) -> None:
        """The socket is lost: come back, soon."""
        assert self.session is not None
        self.attached = False
        self.session.sockets[-1].lost_at = self._since = self.world.now
        self._attempt += 1
        self.world.at(self.world.now + self.world.chance.random() * 0.3, partial(self._again, self._attempt))

    def end(self, kind: Any) -> None:
        session, self.session = self.session, None
        self.attached = self.closing = False
        self.socket = None
        self.pending.clear()
        self.groups.clear()
        self._highest = self._acked = self._next_ack_id = 0
        if session is not None:
            if session.sockets[-1].lost_at > self.world.now:
                session.sockets[-1].lost_at = self.world.now
            session.end = End(self.world.now, kind)
        self._attempt += 1
        self.world.at(self.world.now + 0.3, partial(self._again, self._attempt))

    def bytes_came(self, socket: SimSocket, data: bytes) -> None:
        while data and not socket.gone:
            opcode, size, at = data[0] & 0x0F, data[1], 2
            if size == 126:
                size, at = int.from_bytes(data[2:4], "big"), 4
            elif size == 127:
                size, at = int.from_bytes(data[2:10], "big"), 10
            payload, data = data[at : at + size], data[at + size :]
            if opcode == TEXT:
                self._frame(socket, json.loads(payload))
            elif opcode == PING:
                socket.send(setattr, "silent", 0)
            elif opcode == CLOSE:
                self._closed(socket, int.from_bytes(payload[:2], "big"))

    def _closed(self, socket: SimSocket, code: int) -> None:
        socket.drop(0.001)
        if socket is not self.socket or self.session is None:
            return
        if self.session.sockets and self.attached:
            self.session.sockets[-1].code = code
        if self.closing:
            self.end("closed")
        elif code == 1008 and self.attached:
            self.end("overflow")
        elif self.attached:
            self.detached()
        else:
            self.dial()

    def _frame(self, socket: SimSocket, message: dict[str, Any]) -> None:
        now, world = self.world.now, self.world
        if message["type"] == "system":
            if message["event"] == "connected" and socket is self.socket:
                self._connected(socket, message)
            return
        session = self.session
        if socket is not self.socket or session is None:
            return
        if message["type"] == "message":
            number = message["sequenceId"]
            session.frames.append(Frame(now, socket.number, number, message["group"], message["data"]))
            self._highest = max(self._highest, number)
            if world.chance.random() < 0.3:
                self.acknowledge()
            return
        assert message["type"] == "ack", message
        request = self.pending.pop(message["ackId"], None)
        outcome = OK if message["success"] else message["error"]["name"]
        if request is None:
            world.history.errors.append(f"{session.connection_id}: an ack for {message['ackId']}")
            return
        request.answers.append((now, outcome))
        if request.kind == "join" and request.executed:
            self.groups.add(request.group)

    def acknowledge(self) -> None:
        if (
            self.attached
            and self.session is not None
            and self.socket is not None
            and self._highest > self._acked
        ):
            self._acked = self._highest
            self.session.acked.append((self.world.now, self._acked))
            self._say({"type": "sequenceAck", "sequenceId": self._acked})

    def _connected(self, socket: SimSocket, message: dict[str, Any]) -> None:
        world = self.world
        if self.session is None:
            self.session = Session(message["connectionId"], self.user, self._since)
            world.history.sessions.append(self.session)
        socket.number = len(self.session.sockets)
        self.session.sockets.append(Socket(world.now, message["connectionId"]))
        self.attached = True
        for request in self.pending.values():
            self._send(request)

    # -- what it does ------------------------------------------------------------------------------------

    def _say(self, message: dict[str, Any]) -> None:
        assert self.socket is not None
        self.socket.send(ReliableConnection.received, json.dumps(message).encode(), False)

    def _send(self, request: Request) -> None:
        request.sent.append(self.world.now)
        head = {"group": request.group, "ackId": request.ack_id}
        if request.kind == "publish":
            body = {"dataType": "text", "data": request.text, "noEcho": request.no_echo}
            self._say({"type": "sendToGroup", **head, **body})
        else:
            self._say({"type": f"{request.kind}Group", **head})

    def request(self, kind: Any, group: str, **more: Any) -> None:
        """Ask for something, now."""
        assert self.session is not None
        self._next_ack_id += 1
        request = Request(kind, group, self._next_ack_id, **more)
        self.session.requests.append(request)
        self.pending[request.ack_id] = request
        self._send(request)

    def act(self, *, calm: bool = False) -> None:
        """Something that clients do."""
        chance = self.world.chance
        if not self.attached or self.closing or self.session is None or self.socket is None:
            return
        self.acknowledge()
        if calm:
            return
        if len(self.pending) > 20:
            return
        what = chance.random()
        if what < 0.70:
            self._texts += 1
            text = f"{self.user}.{self._texts}" + "x" * chance.choice((0, 0, 0, 300))
            self.request("publish", chance.choice(GROUPS), text=text, no_echo=chance.random() < 0.1)
        elif what < 0.93:
            group = chance.choice(GROUPS)
            joins = group not in self.groups or chance.random() < 0.2
            if not joins:
                self.groups.discard(group)
            if not any(one.kind != "publish" and one.group == group for one in self.pending.values()):
                self.request("join" if joins else "leave", group)
        elif what < 0.985:
            self.socket.drop(chance.choice((0.01, 0.01, 0.5, 5.0)))
            self.detached()
        elif what < 0.995 and self.world.ends:
            self.closing = True
            self.socket.send(ReliableConnection._peer_closes, _Goodbye())
