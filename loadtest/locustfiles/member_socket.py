"""One client's WebSocket: the three ways to speak JSON or nothing, and coming back after a loss.

It blocks, and so needs a thread or, under locust, a greenlet of its own that reads. What it costs is said in
docs/load-testing.md: websocket-client is plain Python.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import msgspec
import websocket

SILENCE_SECONDS = 150.0
"""The service pings within two minutes; who hears nothing for longer has lost it."""
CONNECT_SECONDS = 20.0
RECOVER_SECONDS = 30.0
NOT_RECOVERABLE = (1008).to_bytes(2, "big")
ACK_EVERY_SECONDS, ACK_EVERY_MESSAGES = 1.0, 100

_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Gone(Exception):
    """The connection has ended, or could not be made."""


class MemberSocket:
    """`url_of` gives the address with a fresh token. `on_data` gets the data of each message that is new to
    this client, `on_ack` the number and whether the service did it.

    `read` and the senders may run in different greenlets; `connect` and `recover` only where `read` does.
    """

    def __init__(
        self,
        url_of: Callable[[], str],
        subprotocol: str,
        on_data: Callable[[str], None],
        on_ack: Callable[[int, bool], None],
    ) -> None:
        self._url_of, self._subprotocol = url_of, subprotocol
        self._on_data, self._on_ack = on_data, on_ack
        self.reliable = ".reliable." in subprotocol
        self.resent = 0
        self._socket: websocket.WebSocket | None = None
        self._place = self._token = ""  # connection id and reconnection token, of reliable clients
        self._highest = self._told = 0
        self._told_at = 0.0

    def connect(self) -> None:
        """A new connection. Raises Gone."""
        self._place = ""
        self._highest = self._told = 0
        self._open(self._url_of(), fresh=True)

    def recover(self) -> bool:
        """The old connection on a new socket, within half a minute: only that of a reliable client, and only
        as long as the service did not say by a close with 1008 or a status that it is no more."""
        if not self.reliable or not self._place:
            return False
        url = self._url_of().partition("?")[0] + "?"
        url += urlencode({"awps_connection_id": self._place, "awps_reconnection_token": self._token})
        deadline = time.monotonic() + RECOVER_SECONDS
        while time.monotonic() < deadline:
            try:
                self._open(url, fresh=False)
                return True
            except Gone as fault:
                if isinstance(
                    fault.__cause__, websocket.WebSocketBadStatusException | ConnectionAbortedError
                ):
                    return False
                time.sleep(0.5)
        return False

    def _open(self, url: str, fresh: bool) -> None:
        try:
            self._socket = websocket.create_connection(
                url,
                timeout=CONNECT_SECONDS,
                subprotocols=[self._subprotocol] if self._subprotocol else None,
                enable_multithread=True,  # a greenlet that answers a ping must not cut into another's frame
                skip_utf8_validation=True,
            )
            if self._subprotocol and fresh:  # after a recovery there is no such message
                self._until_connected()
            self._socket.settimeout(SILENCE_SECONDS)
        except (OSError, websocket.WebSocketException) as fault:
            self.close()
            raise Gone(f"no connection: {fault}") from fault

    def _until_connected(self) -> None:
        assert self._socket is not None
        opcode, data = self._socket.recv_data()
        frame = _decode(data) if opcode == websocket.ABNF.OPCODE_TEXT else {}
        if frame.get("event") != "connected":
            raise ConnectionAbortedError(f"the service said {data[:125]!r}")
        self._place, self._token = frame["connectionId"], frame.get("reconnectionToken", self._token)

    def send(self, text: str) -> None:
        """Raises Gone."""
        one = self._socket
        if one is None:
            raise Gone("not connected")
        try:
            one.send(text)
        except (OSError, websocket.WebSocketException) as fault:
            raise Gone(f"the connection was lost: {fault}") from fault

    def read(self) -> None:
        """Hands over what comes until the connection ends. Raises Gone then."""
        one = self._socket
        if one is None:
            raise Gone("not connected")
        try:
            while True:
                opcode, data = one.recv_data()
                if opcode == websocket.ABNF.OPCODE_CLOSE:
                    if data[:2] == NOT_RECOVERABLE:
                        self._place = ""
                    raise Gone(f"the service closed the connection: {data[:125]!r}")
                self._heard(data)
        except (OSError, websocket.WebSocketException) as fault:
            raise Gone(f"the connection was lost: {fault}") from fault

    def _heard(self, data: bytes) -> None:
        if not self._subprotocol:
            self._on_data(data.decode())
            return
        frame = _decode(data)
        kind = frame["type"]
        if kind == "message":
            if "sequenceId" not in frame or self._is_next(frame["sequenceId"]):
                self._on_data(frame["data"])
        elif kind == "ack":
            done = frame["success"] or frame.get("error", {}).get("name") == "Duplicate"
            self._on_ack(frame["ackId"], done)

    def _is_next(self, number: int) -> bool:
        """Acknowledges now and then, and drops what the service sends again after a recovery, as the SDKs
        do."""
        if number <= self._highest:
            self.resent += 1
            return False
        self._highest = number
        now = time.monotonic()
        if number - self._told >= ACK_EVERY_MESSAGES or now - self._told_at >= ACK_EVERY_SECONDS:
            self._told, self._told_at = number, now
            self.send(_encode({"type": "sequenceAck", "sequenceId": number}).decode())
        return True

    def close(self) -> None:
        """At once, without the closing handshake; the second call does nothing."""
        one, self._socket = self._socket, None
        if one is not None:
            one.shutdown()


def _is_final(fault: BaseException | None) -> bool:
    """Whether the service refused, rather than was away."""
    if isinstance(fault, websocket.WebSocketBadStatusException):
        return 400 <= fault.status_code < 500
    return isinstance(fault, ConnectionAbortedError)


def join(group: str, number: int) -> str:
    return _encode({"type": "joinGroup", "group": group, "ackId": number}).decode()


def send_to_group(group: str, data: str, number: int) -> str:
    frame = {"type": "sendToGroup", "group": group, "dataType": "text", "data": data, "ackId": number}
    return _encode(frame).decode()


def event(name: str, data: str, number: int) -> str:
    frame = {"type": "event", "event": name, "dataType": "text", "data": data, "ackId": number}
    return _encode(frame).decode()
