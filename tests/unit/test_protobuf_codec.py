import time

import pytest
from support.webpubsub_proto import DownstreamMessage, UpstreamMessage

from gateway.protocol.protobuf_reliable_v1 import PROTOBUF_RELIABLE_V1
from gateway.protocol.protobuf_v1 import PROTOBUF_V1
from gateway.protocol.requests import ClientEvent, JoinGroup, LeaveGroup, Ping, SendToGroup, SequenceAck
from hubwire.model.errors import ProtocolViolation
from hubwire.model.message import DataType, Message
from hubwire.model.protowire import encode_varint

ANY = (
    "0a2f747970652e676f6f676c65617069732e636f6d2f676f6f676c652e70726f746f6275662e537472696e6756616c7565"
    "12040a026869"
)
ANY_FIELDS = {"type_url": "type.googleapis.com/google.protobuf.StringValue", "value": b"\n\x02hi"}

codec = PROTOBUF_V1
reliable = PROTOBUF_RELIABLE_V1

# Client-protocols.md 5.7, as (what it is by the official library, hex, what we read).
UPSTREAM = [
    ({"join_group_message": {"group": "room-1"}}, "32080a06726f6f6d2d31", JoinGroup("room-1", None)),
    (
        {"join_group_message": {"group": "room-1", "ack_id": 300}},
        "320b0a06726f6f6d2d3110ac02",
        JoinGroup("room-1", 300),
    ),
    (
        {"leave_group_message": {"group": "room-1", "ack_id": 2}},
        "3a0a0a06726f6f6d2d311002",
        LeaveGroup("room-1", 2),
    ),
    (
        {"send_to_group_message": {"group": "room-1", "data": {"text_data": "hi"}}},
        "0a0e0a06726f6f6d2d311a040a026869",
        SendToGroup("room-1", None, False, DataType.TEXT, b"hi", 0, None),
    ),
    (
        {
            "send_to_group_message": {
                "group": "room-1",
                "data": {"text_data": "hi"},
                "ack_id": 1,
                "no_echo": True,
            }
        },
        "0a120a06726f6f6d2d3110011a040a0268692001",
        SendToGroup("room-1", 1, True, DataType.TEXT, b"hi", 0, None),
    ),
    (
        {"send_to_group_message": {"group": "room-1", "data": {"json_data": '{"a":1}'}, "ack_id": 1}},
        "0a150a06726f6f6d2d3110011a0922077b2261223a317d",
        SendToGroup("room-1", 1, False, DataType.JSON, b'{"a":1}', 0, None),
    ),
    (
        {"send_to_group_message": {"group": "room-1", "data": {"binary_data": b"\1\2"}}},
        "0a0e0a06726f6f6d2d311a0412020102",
        SendToGroup("room-1", None, False, DataType.BINARY, b"\1\2", 0, None),
    ),
    (
        {
            "send_to_group_message": {
                "group": "room-1",
                "data": {"protobuf_data": ANY_FIELDS},
            }
        },
        "0a430a06726f6f6d2d311a391a37" + ANY,
        SendToGroup("room-1", None, False, DataType.PROTOBUF, bytes.fromhex(ANY), 0, None),
    ),
    (
        {"event_message": {"event": "order", "data": {"text_data": "hi"}, "ack_id": 7}},
        "2a0f0a056f7264657212040a0268691807",
        ClientEvent("order", 7, DataType.TEXT, b"hi", None),
    ),
    ({"sequence_ack_message": {"sequence_id": 5}}, "42020805", SequenceAck(5)),
    (
        {"sequence_ack_message": {"sequence_id": 2**64 - 1}},
        "420b08ffffffffffffffffff01",
        SequenceAck(2**64 - 1),
    ),
    ({"ping_message": {}}, "4a00", Ping()),
]
DOWNSTREAM = [
    (codec.ack(1), "0a0408011001", {"ack_message": {"ack_id": 1, "success": True}}),
    (
        codec.ack(1, "Forbidden", "no"),
        "0a1308011a0f0a09466f7262696464656e12026e6f",
        {"ack_message": {"ack_id": 1, "error": {"name": "Forbidden", "message": "no"}}},
    ),
    (
        codec.connected("c1", "u1"),
        "1a0a0a080a02633112027531",
        {"system_message": {"connected_message": {"connection_id": "c1", "user_id": "u1"}}},
    ),
    (
        codec.connected("c1", None),
        "1a060a040a026331",
        {"system_message": {"connected_message": {"connection_id": "c1"}}},
    ),
    (
        codec.disconnected("bye"),
        "1a0712051203627965",
        {"system_message": {"disconnected_message": {"reason": "bye"}}},
    ),
    (
        codec.message(Message(DataType.TEXT, b"hi", "room-1", "nobody sees this")),
        "12150a0567726f75701206726f6f6d2d311a040a026869",
        {"data_message": {"from": "group", "group": "room-1", "data": {"text_data": "hi"}}},
    ),
    (
        codec.message(Message(DataType.JSON, b'{"a":1}')),
        "12130a067365727665721a0922077b2261223a317d",
        {"data_message": {"from": "server", "data": {"json_data": '{"a":1}'}}},
    ),
    (codec.pong(), "2200", {"pong_message": {}}),
    (
        reliable.connected("c1", "u1", "tok"),
        "1a0f0a0d0a026331120275311a03746f6b",
        {
            "system_message": {
                "connected_message": {"connection_id": "c1", "user_id": "u1", "reconnection_token": "tok"}
            }
        },
    ),
    (
        reliable.frame_with_id(reliable.numbered(Message(DataType.TEXT, b"hi", "room-1", "nobody")), 1),
        "12170a0567726f75701206726f6f6d2d311a040a0268692001",
        {
            "data_message": {
                "from": "group",
                "group": "room-1",
                "data": {"text_data": "hi"},
                "sequence_id": 1,
            }
        },
    ),
]


@pytest.mark.parametrize(("fields", "vector", "request_"), UPSTREAM)
def test_upstream_vectors(fields, vector, request_):
    assert UpstreamMessage(**fields).SerializeToString() == bytes.fromhex(vector)
    assert codec.decode(bytes.fromhex(vector)) == request_


@pytest.mark.parametrize(("frame", "vector", "fields"), DOWNSTREAM)
def test_downstream_vectors(frame, vector, fields):
    assert frame.hex() == vector
    assert DownstreamMessage.FromString(frame) == DownstreamMessage(**fields)


@pytest.mark.parametrize(
    "vector",
    [
        "520f0a046563686f1201311a040a026869",
        "5a030a0131",
        "0a120a06726f6f6d2d313a080a02733110e0d403",
        "6a0c0a02733110011a040a026869",
        "6a040a027331",
        "72040a027331",
    ],
)
def test_preview_kinds_are_malformed(vector):
    with pytest.raises(ProtocolViolation) as caught:
        codec.decode(bytes.fromhex(vector))
    assert caught.value.close_code == 1007


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "32",
        "3208",
        "32080a06726f6f6d2d",
        "1200",  # a field number that is not in use
        "3200",  # no group
        "32020a00",
        "32030a0120",  # a blank group
        "32030a01ff",  # not UTF-8
        "0a030a0161",  # no data
        "0a050a01611a00",  # data with nothing in it
        "2a070a01311202" + "0a00",  # an illegal event name
        "00",
        "0f",
        "34",
        "3300",
        "ffffffffffffffffffff01",
        "3280808080808080808080808000",
    ],
)
def test_malformed_bytes_close_with_1007(payload):
    with pytest.raises(ProtocolViolation) as caught:
        codec.decode(bytes.fromhex(payload))
    assert caught.value.close_code == 1007


def send(**fields):
    message = {"group": "g", "data": {"text_data": "x"}, **fields}
    return codec.decode(UpstreamMessage(send_to_group_message=message).SerializeToString())


@pytest.mark.parametrize("data", [{"json_data": "{"}, {"json_data": ""}, {"json_data": "1 2"}, {}])
def test_data_that_is_not_there_or_not_json_is_malformed(data):
    with pytest.raises(ProtocolViolation):
        send(data=data)


def test_an_explicitly_empty_payload_is_fine():
    assert send(data={"text_data": ""}).data_type is DataType.TEXT
    assert send(data={"binary_data": b""}).data_type is DataType.BINARY
    assert send(data={"protobuf_data": {}}).data_type is DataType.PROTOBUF


def test_the_presence_of_an_ack_id_decides_not_its_value():
    assert send(ack_id=0).ack_id == 0
    assert send().ack_id is None
    assert send(ack_id=2**64 - 1).ack_id == 2**64 - 1


def test_ttl_and_metadata_have_the_limits_of_json():
    assert send(ttl_seconds=300, metadata={"a": "1", "b": ""})[5:] == (300, {"a": "1", "b": ""})
    for metadata in ({"a b": ""}, {"": "x"}, {"a": "é"}):
        with pytest.raises(ProtocolViolation):
            send(metadata=metadata)
    with pytest.raises(ProtocolViolation):
        send(ttl_seconds=301)


def test_data_may_be_missing_beside_metadata():
    for fields in (
        {"send_to_group_message": {"group": "g", "metadata": {"a": "b"}}},
        {"event_message": {"event": "e", "data": {}, "metadata": {"a": "b"}}},
    ):
        request = codec.decode(UpstreamMessage(**fields).SerializeToString())
        assert (request.data_type, request.data, request.metadata) == (DataType.TEXT, b"", {"a": "b"})


def test_unknown_fields_of_every_wire_type_are_skipped():
    unknown = bytes.fromhex(
        "98017f"  # field 19 as a varint,
        "99010000000000000000"  # with eight bytes,
        "9d0100000000"  # with four,
        "9a0103616263"  # with a length,
        "9b01080113149c01"  # and as a group that holds a number and a group
    )
    inner = bytes.fromhex("0a06726f6f6d2d311002") + unknown
    assert codec.decode(b"\x32" + encode_varint(len(inner)) + inner + unknown) == JoinGroup("room-1", 2)


@pytest.mark.parametrize("group", ["9b01", "9b01a401", "9c01", "9b01" * 200_000, "9b01" * 200 + "9c01" * 200])
def test_broken_or_endless_groups_are_malformed(group):
    with pytest.raises(ProtocolViolation):
        codec.decode(bytes.fromhex("4a00" + group))


def test_the_last_kind_wins_and_the_same_kind_twice_is_merged():
    join, leave = bytes.fromhex("32080a06726f6f6d2d31"), bytes.fromhex("3a0a0a06726f6f6d2d311002")
    assert codec.decode(join + leave) == LeaveGroup("room-1", 2)
    assert codec.decode(leave + join) == JoinGroup("room-1", None)
    assert codec.decode(join + bytes.fromhex("32021005")) == JoinGroup("room-1", 5)
    with pytest.raises(ProtocolViolation):
        codec.decode(join + bytes.fromhex("5a030a0131"))


def test_many_parts_of_one_field_take_linear_time():
    parts = (b"\x1a\x82\x80\x02\x12\xfe\xff\x01" + b"x" * 0x7FFE) * 30 + b"\x1a\x00" * 9000
    inner = b"\x0a\x01g" + parts
    assert codec.decode(b"\x0a" + encode_varint(len(inner)) + inner).group == "g"


@pytest.mark.parametrize("part", [b"\x98\x01\x01", b"\x32\x04\x0a\x02aa", b"\x32\x80\x01" + b"\x18\x01" * 64])
def test_a_megabyte_of_tiny_fields_is_refused_early(part):
    inner = b"\x0a\x01g\x1a\x02\x0a\x00" + part * (1_000_000 // len(part))
    started = time.perf_counter()
    with pytest.raises(ProtocolViolation):
        codec.decode(b"\x0a" + encode_varint(len(inner)) + inner)
    assert time.perf_counter() - started < 1  # a tenth of that would be slow; the machine may be busy


def test_metadata_reaches_the_receiver():
    frame = codec.message(Message(DataType.BINARY, b"\0" * 300, "g" * 200, None, {"a": "1", "b": ""}))
    data = DownstreamMessage.FromString(frame).data_message
    assert dict(data.metadata) == {"a": "1", "b": ""}
    assert data.data.binary_data == b"\0" * 300
    assert data.group == "g" * 200


def test_an_ack_of_id_0_is_still_an_ack():
    ack = DownstreamMessage.FromString(codec.ack(0)).ack_message
    assert (ack.ack_id, ack.success) == (0, True)
    failed = DownstreamMessage.FromString(codec.ack(0, "Forbidden"))
    assert failed.ack_message.error.name == "Forbidden"
