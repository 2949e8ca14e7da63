"""The subprotocols as `support.reliable_client` speaks them: requests to frames, frames to what was heard.

JSON by `json`, protobuf by the official library with the schema of `support.webpubsub_proto`: nothing of the
gateway's own codecs. Payloads are text.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple, Protocol

from support.history import OK, Request
from support.webpubsub_proto import DownstreamMessage, UpstreamMessage

AnyFrame = str | bytes


class Connected(NamedTuple):
    connection_id: str
    token: str


class Disconnected(NamedTuple):
    reason: str


class Acked(NamedTuple):
    ack_id: int
    outcome: str
    """`OK`, or the name of the error."""


class Message(NamedTuple):
    sequence_id: int | None
    group: str
    text: str


Heard = Connected | Disconnected | Acked | Message | None
"""None is a sign of life and nothing else."""


class Dialect(Protocol):
    """`name` is the subprotocol's; the frames are those of client-protocols.md 3 to 5."""

    name: str
    reliable: bool

    def request(self, request: Request) -> AnyFrame: ...

    def sequence_ack(self, sequence_id: int) -> AnyFrame: ...

    def ping(self) -> AnyFrame: ...

    def read(self, frame: AnyFrame) -> Heard: ...


class Json:
    """json.webpubsub.azure.v1, and its reliable variant."""

    def __init__(self, name: str, reliable: bool) -> None:
        self.name, self.reliable = name, reliable

    def request(self, request: Request) -> AnyFrame:
        kinds = {"join": "joinGroup", "leave": "leaveGroup", "publish": "sendToGroup"}
        message: dict[str, Any] = {
            "type": kinds[request.kind],
            "group": request.group,
            "ackId": request.ack_id,
        }
        if request.kind == "publish":
            text = request.text + request.size * " "
            message |= {"noEcho": request.no_echo, "dataType": "text", "data": text}
        return json.dumps(message)

    def sequence_ack(self, sequence_id: int) -> AnyFrame:
        return json.dumps({"type": "sequenceAck", "sequenceId": sequence_id})

    def ping(self) -> AnyFrame:
        return '{"type":"ping"}'

    def read(self, frame: AnyFrame) -> Heard:
        message = json.loads(frame)
        kind = message["type"]
        if kind == "message":
            return Message(message.get("sequenceId"), message.get("group", ""), message["data"].rstrip())
        if kind == "ack":
            return Acked(message["ackId"], OK if message["success"] else message["error"]["name"])
        if kind == "system" and message["event"] == "connected":
            return Connected(message["connectionId"], message.get("reconnectionToken", ""))
        if kind == "system" and message["event"] == "disconnected":
            return Disconnected(message.get("message", ""))
        assert kind == "pong", frame
        return None


class Protobuf:
    """protobuf.webpubsub.azure.v1, and its reliable variant."""

    def __init__(self, name: str, reliable: bool) -> None:
        self.name, self.reliable = name, reliable

    def request(self, request: Request) -> AnyFrame:
        fields: dict[str, Any] = {"group": request.group, "ack_id": request.ack_id}
        if request.kind == "publish":
            text = request.text + request.size * " "
            fields |= {"data": {"text_data": text}, "no_echo": request.no_echo}
        names = {
            "join": "join_group_message",
            "leave": "leave_group_message",
            "publish": "send_to_group_message",
        }
        return bytes(UpstreamMessage(**{names[request.kind]: fields}).SerializeToString())

    def sequence_ack(self, sequence_id: int) -> AnyFrame:
        message = UpstreamMessage(sequence_ack_message={"sequence_id": sequence_id})
        return bytes(message.SerializeToString())

    def ping(self) -> AnyFrame:
        return bytes(UpstreamMessage(ping_message={}).SerializeToString())

    def read(self, frame: AnyFrame) -> Heard:
        assert isinstance(frame, bytes), frame
        message = DownstreamMessage.FromString(frame)
        kind = message.WhichOneof("message")
        if kind == "data_message":
            data = message.data_message
            number = data.sequence_id if data.HasField("sequence_id") else None
            return Message(number, data.group, data.data.text_data.rstrip())
        if kind == "ack_message":
            ack = message.ack_message
            return Acked(ack.ack_id, OK if ack.success else ack.error.name)
        if kind == "system_message":
            system = message.system_message
            if system.WhichOneof("message") == "connected_message":
                connected = system.connected_message
                return Connected(connected.connection_id, connected.reconnection_token)
            return Disconnected(system.disconnected_message.reason)
        assert kind == "pong_message", frame
        return None


JSON_PLAIN: Final = Json("json.webpubsub.azure.v1", False)
JSON_RELIABLE: Final = Json("json.reliable.webpubsub.azure.v1", True)
PROTOBUF_PLAIN: Final = Protobuf("protobuf.webpubsub.azure.v1", False)
PROTOBUF_RELIABLE: Final = Protobuf("protobuf.reliable.webpubsub.azure.v1", True)
