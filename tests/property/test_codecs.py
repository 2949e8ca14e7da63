"""Whatever bytes a client sends, a codec answers with a request or a ProtocolViolation; round trips."""

from __future__ import annotations

import base64
import json

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from support.webpubsub_proto import DownstreamMessage, UpstreamMessage

from gateway.protocol.json_reliable_v1 import JSON_RELIABLE_V1
from gateway.protocol.json_v1 import JSON_V1
from gateway.protocol.protobuf_reliable_v1 import PROTOBUF_RELIABLE_V1
from gateway.protocol.protobuf_v1 import PROTOBUF_V1
from gateway.protocol.requests import (
    ClientEvent,
    JoinGroup,
    LeaveGroup,
    Ping,
    Request,
    SendToGroup,
    SequenceAck,
)
from hubwire.model.errors import ProtocolViolation
from hubwire.model.message import DataType, Message
from hubwire.model.payload import is_valid

REQUESTS = (JoinGroup, LeaveGroup, SendToGroup, ClientEvent, Ping, SequenceAck)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
group_names = text.filter(lambda g: g.strip() != "")
ack_ids = st.none() | st.integers(0, 2**64 - 1)
metadata = st.none() | st.dictionaries(
    st.from_regex(r"[a-zA-Z!#-]{1,8}", fullmatch=True),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8),
    min_size=1,
    max_size=3,
)
json_values = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: (
        st.lists(inner | st.none(), max_size=3) | st.dictionaries(text, inner | st.none(), max_size=3)
    ),
    max_leaves=6,
)


def payloads(draw: st.DrawFn) -> tuple[DataType, bytes]:
    data_type = draw(st.sampled_from(DataType))
    if data_type is DataType.JSON:
        return data_type, json.dumps(draw(json_values), ensure_ascii=draw(st.booleans())).encode()
    if data_type is DataType.TEXT:
        return data_type, draw(text).encode()
    if data_type is DataType.PROTOBUF:
        return data_type, b"\x0a\x03a/b\x12\x02hi" * draw(st.integers(0, 2))
    return data_type, draw(st.binary(max_size=20))


@st.composite
def sends(draw: st.DrawFn) -> SendToGroup:
    data_type, data = payloads(draw)
    return SendToGroup(
        draw(group_names),
        draw(ack_ids),
        draw(st.booleans()),
        data_type,
        data,
        draw(st.integers(0, 300)),
        draw(metadata),
    )


@st.composite
def messages(draw: st.DrawFn) -> Message:
    data_type, data = payloads(draw)
    group = draw(st.none() | group_names)
    return Message(data_type, data, group, draw(st.none() | text) if group else None, draw(metadata))


def as_json(request: SendToGroup) -> bytes:
    names = {
        DataType.JSON: "json",
        DataType.TEXT: "text",
        DataType.BINARY: "binary",
        DataType.PROTOBUF: "protobuf",
    }
    data = request.data.decode() if request.data_type is DataType.JSON else None
    if request.data_type is DataType.TEXT:
        data = json.dumps(request.data.decode())
    elif data is None:
        data = json.dumps(base64.b64encode(request.data).decode())
    members = {
        "type": "sendToGroup",
        "group": request.group,
        "dataType": names[request.data_type],
        "ackId": request.ack_id,
        "noEcho": request.no_echo,
        "ttlSeconds": request.ttl_seconds,
        "metadata": request.metadata,
    }
    return (json.dumps(members)[:-1] + ', "data": ' + data + "}").encode()


def as_upstream(request: SendToGroup) -> bytes:
    message = UpstreamMessage()
    send = message.send_to_group_message
    send.group = request.group
    if request.ack_id is not None:
        send.ack_id = request.ack_id
    send.no_echo = request.no_echo
    send.ttl_seconds = request.ttl_seconds
    if request.metadata:
        send.metadata.update(request.metadata)
    if request.data_type is DataType.BINARY:
        send.data.binary_data = request.data
    elif request.data_type is DataType.PROTOBUF:
        send.data.protobuf_data.ParseFromString(request.data)
    elif request.data_type is DataType.TEXT:
        send.data.text_data = request.data.decode()
    else:
        send.data.json_data = request.data.decode()
    return message.SerializeToString()


def decoded(codec, payload: bytes) -> Request | None:
    """The request, checked for what every session relies on; None after a ProtocolViolation."""
    try:
        request = codec.decode(payload)
    except ProtocolViolation as violation:
        return None if violation.close_code == 1007 else pytest.fail(f"closed with {violation.close_code}")
    assert isinstance(request, REQUESTS)
    if isinstance(request, SendToGroup | ClientEvent):
        assert is_valid(request.data_type, request.data)
        assert request.metadata != {}
    return request


@st.composite
def mangled(draw: st.DrawFn, source: st.SearchStrategy[bytes]) -> bytes:
    payload = bytearray(draw(source))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(payload)))
        payload[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(payload)


@settings(deadline=None)
@pytest.mark.parametrize(
    "codec", [JSON_V1, PROTOBUF_V1, JSON_RELIABLE_V1, PROTOBUF_RELIABLE_V1], ids=lambda c: c.name
)
@given(payload=st.binary(max_size=60))
def test_any_bytes(codec, payload):
    decoded(codec, payload)


@settings(deadline=None)
@given(mangled(sends().map(as_json)))
def test_nearly_right_json(payload):
    decoded(JSON_V1, payload)


_json_words = st.sampled_from(
    [
        '{"type":',
        '"event"',
        '"sendToGroup"',
        ",",
        ":",
        '"group":',
        '"g"',
        '"data":',
        "[",
        "]",
        "{",
        "}",
        "null",
        '"ackId":',
        "1",
        "-",
        "e9",
        '"',
        "\\",
        "\\ud800",
        "é",
        " ",
        '"event":',
        '"metadata":',
        '"dataType":',
        '"text"',
    ]
)


@settings(deadline=None)
@given(st.lists(_json_words, max_size=25).map("".join))
def test_json_from_its_words(payload):
    decoded(JSON_V1, payload.encode())


@settings(deadline=None)
@given(mangled(sends().map(as_upstream)))
def test_nearly_right_protobuf_is_read_as_the_official_library_reads_it(payload):
    request = decoded(PROTOBUF_V1, payload)
    if isinstance(request, SendToGroup):
        try:
            official = UpstreamMessage.FromString(payload)
        except DecodeError:
            return  # a kind that a later one displaced may be broken: we do not look at it
        send = official.send_to_group_message
        assert request.group == send.group
        assert request.ack_id == (send.ack_id if send.HasField("ack_id") else None)
        assert request.no_echo == send.no_echo
        assert request.ttl_seconds == send.ttl_seconds
        assert (request.metadata or {}) == dict(send.metadata)


@settings(deadline=None)
@given(sends())
def test_a_request_survives_both_subprotocols(request):
    assert JSON_V1.decode(as_json(request)) == request
    if request.data_type is not DataType.PROTOBUF:  # the library writes a repeated Any as one
        assert PROTOBUF_V1.decode(as_upstream(request)) == request


@settings(deadline=None)
@given(group_names, ack_ids, st.sampled_from([("joinGroup", JoinGroup), ("leaveGroup", LeaveGroup)]))
def test_joins_and_leaves_survive_both_subprotocols(group, ack_id, kind):
    name, request = kind
    frame = json.dumps({"type": name, "group": group, "ackId": ack_id}).encode()
    assert JSON_V1.decode(frame) == request(group, ack_id)
    field = "join_group_message" if request is JoinGroup else "leave_group_message"
    upstream = UpstreamMessage(**{field: {"group": group, "ack_id": ack_id}})
    assert PROTOBUF_V1.decode(upstream.SerializeToString()) == request(group, ack_id)


@settings(deadline=None)
@given(messages())
def test_a_message_can_be_read_by_any_receiver(message):
    frame = json.loads(JSON_V1.message(message))
    assert frame.get("group") == message.group
    assert frame.get("fromUserId") == message.from_user
    assert frame.get("metadata") == message.metadata
    if message.data_type is DataType.JSON:
        assert frame["data"] == json.loads(message.data)
    elif message.data_type is DataType.TEXT:
        assert frame["data"] == message.data.decode()
    else:
        assert base64.b64decode(frame["data"], validate=True) == message.data

    data = DownstreamMessage.FromString(PROTOBUF_V1.message(message)).data_message
    assert data.group == (message.group or "")
    assert dict(data.metadata) == (message.metadata or {})
    kind = data.data.WhichOneof("message")
    if kind == "binary_data":
        assert data.data.binary_data == message.data
    elif kind != "protobuf_data":
        assert getattr(data.data, kind).encode() == message.data


@settings(deadline=None)
@given(text, st.none() | text, st.integers(0, 2**64 - 1), text, text)
def test_control_frames_can_be_read(connection_id, user_id, ack_id, name, reason):
    assert json.loads(JSON_V1.connected(connection_id, user_id)) == {
        "type": "system",
        "event": "connected",
        "userId": user_id,
        "connectionId": connection_id,
    }
    assert json.loads(JSON_V1.disconnected(reason))["message"] == reason
    assert json.loads(JSON_V1.ack(ack_id, name, reason)) == {
        "type": "ack",
        "ackId": ack_id,
        "success": False,
        "error": {"name": name, "message": reason},
    }
    system = DownstreamMessage.FromString(PROTOBUF_V1.connected(connection_id, user_id)).system_message
    assert system.connected_message.connection_id == connection_id
    assert system.connected_message.user_id == (user_id or "")
    system = DownstreamMessage.FromString(PROTOBUF_V1.disconnected(reason)).system_message
    assert system.disconnected_message.reason == reason
    ack = DownstreamMessage.FromString(PROTOBUF_V1.ack(ack_id, name, reason)).ack_message
    assert (ack.ack_id, ack.success, ack.error.name, ack.error.message) == (ack_id, False, name, reason)


@settings(deadline=None)
@given(messages(), st.lists(st.integers(1, 2**64 - 1), min_size=1, max_size=3))
def test_a_numbered_message_is_the_plain_one_and_its_number(message, numbers):
    as_text = JSON_RELIABLE_V1.numbered(message)
    as_bytes = PROTOBUF_RELIABLE_V1.numbered(message)
    for number in numbers:  # of one encoding
        frame = json.loads(JSON_RELIABLE_V1.frame_with_id(as_text, number))
        assert frame.pop("sequenceId") == number
        assert frame == json.loads(JSON_V1.message(message))

        official = DownstreamMessage.FromString(PROTOBUF_RELIABLE_V1.frame_with_id(as_bytes, number))
        assert official.data_message.sequence_id == number
        official.data_message.ClearField("sequence_id")
        assert official == DownstreamMessage.FromString(PROTOBUF_V1.message(message))


@settings(deadline=None)
@given(text, st.none() | text, text)
def test_a_reconnection_token_arrives_as_it_is(connection_id, user_id, token):
    frame = json.loads(JSON_RELIABLE_V1.connected(connection_id, user_id, token))
    assert (frame["connectionId"], frame["userId"], frame["reconnectionToken"]) == (
        connection_id,
        user_id,
        token,
    )
    frame = PROTOBUF_RELIABLE_V1.connected(connection_id, user_id, token)
    connected = DownstreamMessage.FromString(frame).system_message.connected_message
    assert connected.connection_id == connection_id
    assert connected.user_id == (user_id or "")
    assert connected.reconnection_token == token
