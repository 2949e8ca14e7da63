"""Client-protocols.md 3.10: what each kind of client gets of each data type."""

import base64
import json

import pytest
from google.protobuf import any_pb2, wrappers_pb2
from support.webpubsub_proto import DownstreamMessage, MessageData

from gateway.protocol.json_v1 import JSON_V1
from gateway.protocol.protobuf_v1 import PROTOBUF_V1
from gateway.protocol.simple import SIMPLE
from hubwire.model.message import DataType, Message

_any = any_pb2.Any()
_any.Pack(wrappers_pb2.StringValue(value="hi"))
ANY = _any.SerializeToString()

TABLE = [
    # data type, data, simple frame (binary?), JSON members, protobuf member
    (DataType.TEXT, b"hi", False, ("text", "hi"), {"text_data": "hi"}),
    (DataType.TEXT, b'{"a":1}', False, ("text", '{"a":1}'), {"text_data": '{"a":1}'}),
    (DataType.TEXT, b"", False, ("text", ""), {"text_data": ""}),
    (DataType.JSON, b'{"a":1}', False, ("json", {"a": 1}), {"json_data": '{"a":1}'}),
    (DataType.JSON, b'"x"', False, ("json", "x"), {"json_data": '"x"'}),
    (DataType.BINARY, b"\x00\xff", True, ("binary", "AP8="), {"binary_data": b"\x00\xff"}),
    (
        DataType.PROTOBUF,
        ANY,
        True,
        ("protobuf", base64.b64encode(ANY).decode()),
        {"protobuf_data": {"type_url": _any.type_url, "value": _any.value}},
    ),
]


@pytest.mark.parametrize("group", [None, "room"])
@pytest.mark.parametrize(("data_type", "data", "binary", "json_members", "protobuf_member"), TABLE)
def test_each_kind_of_client_gets_each_data_type(
    group, data_type, data, binary, json_members, protobuf_member
):
    message = Message(data_type, data, group, "alice" if group else None, {"k": "v"})

    assert SIMPLE.message(message) == data
    assert SIMPLE.is_binary(message) is binary

    frame = json.loads(JSON_V1.message(message))
    assert JSON_V1.is_binary(message) is False
    assert (frame["dataType"], frame["data"]) == json_members
    assert frame["metadata"] == {"k": "v"}
    if group:
        assert (frame["from"], frame["group"], frame["fromUserId"]) == ("group", "room", "alice")
    else:
        assert frame["from"] == "server"
        assert "group" not in frame
        assert "fromUserId" not in frame

    got = DownstreamMessage.FromString(PROTOBUF_V1.message(message)).data_message
    assert PROTOBUF_V1.is_binary(message) is True
    assert got.data == MessageData(**protobuf_member)
    assert got.data.WhichOneof("message") == next(iter(protobuf_member))
    assert dict(got.metadata) == {"k": "v"}
    assert (getattr(got, "from"), got.HasField("group")) == (("group", True) if group else ("server", False))
    assert not got.HasField("sequence_id")
