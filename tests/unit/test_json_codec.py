import json

import pytest

from gateway.protocol.json_reliable_v1 import JSON_RELIABLE_V1
from gateway.protocol.json_v1 import JSON_V1
from gateway.protocol.requests import ClientEvent, JoinGroup, LeaveGroup, Ping, SendToGroup, SequenceAck
from hubwire.model.errors import ProtocolViolation
from hubwire.model.message import DataType, Message

codec = JSON_V1
ANY = bytes.fromhex(
    "0a2f747970652e676f6f676c65617069732e636f6d2f676f6f676c652e70726f746f6275662e537472696e6756616c7565"
    "12040a026869"
)


def send(**properties):
    return codec.decode(json.dumps({"type": "sendToGroup", "group": "g", "data": "x", **properties}).encode())


# --- requests ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "request_"),
    [
        ('{"type":"joinGroup","group":"room-1","ackId":1}', JoinGroup("room-1", 1)),
        ('{"type":"joinGroup","group":"room-1"}', JoinGroup("room-1", None)),
        ('{"ackId":null,"group":"é/*","type":"JOINGROUP"}', JoinGroup("é/*", None)),
        ('{"type":"leaveGroup","group":"room-1","ackId":0}', LeaveGroup("room-1", 0)),
        (
            '{"type":"sendToGroup","group":"room-1","dataType":"text","data":"hi","ackId":3,"noEcho":true}',
            SendToGroup("room-1", 3, True, DataType.TEXT, b"hi", 0, None),
        ),
        (
            '{"type":"event","event":"order","dataType":"json","data":{"id":7},"ackId":4}',
            ClientEvent("order", 4, DataType.JSON, b'{"id":7}', None),
        ),
        ('{"type":"ping"}', Ping()),
        ('{"type":"ping","group":5,"ackId":"no matter"}', Ping()),
        ('{"type":"sequenceAck","sequenceId":5}', SequenceAck(5)),
        ('{"type":"sequenceAck","sequenceId":"5"}', SequenceAck(5)),
        ('{"type":"sequenceAck","sequenceId":0}', SequenceAck(0)),
        ('{"type":"sequenceAck","sequenceId":18446744073709551615}', SequenceAck(2**64 - 1)),
        (' \n{"type" : "ping" , "unknown" : [1, {}]}\n', Ping()),
        ('{"type":"pong","type":"ping"}', Ping()),
    ],
)
def test_requests_are_read(frame, request_):
    assert codec.decode(frame.encode()) == request_


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "x",
        "null",
        "1",
        '"ping"',
        "[]",
        "{}",
        '{"type":null}',
        '{"type":1}',
        '{"type":"unknown"}',
        '{"Type":"ping"}',
        '{"type":"ping"} {}',
        '{"type":"ping",}',
        '{"type":"joinGroup"}',
        '{"type":"joinGroup","group":null}',
        '{"type":"joinGroup","group":1}',
        '{"type":"joinGroup","group":""}',
        '{"type":"joinGroup","group":" \\t"}',
        '{"type":"event","data":1}',
        '{"type":"event","event":"1a","data":1}',
        '{"type":"event","event":"a b","data":1}',
        '{"type":"sequenceAck"}',
        '{"type":"sequenceAck","sequenceId":null}',
        '{"type":"sequenceAck","sequenceId":"-5"}',
        '{"type":"sequenceAck","sequenceId":"٣"}',
        '{"type":"sequenceAck","sequenceId":-1}',
        '{"type":"sequenceAck","sequenceId":1.5}',
        '{"type":"sequenceAck","sequenceId":18446744073709551616}',
        '{"type":"sequenceAck","sequenceId":"' + "9" * 5000 + '"}',
        '{"type":"invoke","invocationId":"1","target":"event","event":"e","data":1}',
        '{"type":"streamData","streamId":"s"}',
        '{"type":"setGroupState","group":"g"}',
        '{"type":"sendToGroup","group":"g","stream":{"streamId":"s"}}',
        '{"type":"sendToGroup","group":"g","data":1,"stream":{"streamId":"s"}}',
    ],
)
def test_malformed_messages_close_with_1007(frame):
    with pytest.raises(ProtocolViolation) as caught:
        codec.decode(frame.encode())
    assert caught.value.close_code == 1007


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xed\xa0\x80"])
def test_what_is_not_utf8_is_malformed_also_where_nobody_looks(bad):
    for frame in (
        b'{"type":"ping","x":"' + bad + b'"}',
        b'{"type":"ping","' + bad + b'":1}',
        b'{"type":"sendToGroup","group":"g","data":"' + bad + b'"}',
        b'{"type":"sendToGroup","group":"' + bad + b'","data":1}',
    ):
        with pytest.raises(ProtocolViolation):
            codec.decode(frame)


@pytest.mark.parametrize(
    "ack_id", ["-1", "1.5", "1.0", "1e2", '"1"', "true", "false", "[]", str(2**64), "9" * 999]
)
def test_an_ack_id_is_an_unsigned_64_bit_number_or_nothing(ack_id):
    for kind in (
        '"joinGroup","group":"g"',
        '"sendToGroup","group":"g","data":1',
        '"event","event":"e","data":1',
    ):
        with pytest.raises(ProtocolViolation):
            codec.decode(f'{{"type":{kind},"ackId":{ack_id}}}'.encode())


@pytest.mark.parametrize("ack_id", [0, 1, 2**53 + 1, 2**63, 2**64 - 1])
def test_ack_ids_lose_nothing(ack_id):
    assert send(ackId=ack_id).ack_id == ack_id
    assert codec.ack(ack_id) == b'{"type":"ack","ackId":%d,"success":true}' % ack_id


@pytest.mark.parametrize("no_echo", [None, 0, 1, "true", []])
def test_no_echo_is_a_boolean(no_echo):
    with pytest.raises(ProtocolViolation):
        send(noEcho=no_echo)


@pytest.mark.parametrize("ttl", [-1, 301, 1.5, "1", True, 10**30])
def test_a_ttl_out_of_range_is_malformed(ttl):
    with pytest.raises(ProtocolViolation):
        send(ttlSeconds=ttl)


@pytest.mark.parametrize("ttl", [0, 300])
def test_a_ttl_in_range(ttl):
    assert send(ttlSeconds=ttl).ttl_seconds == ttl


# --- data -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "1.0",
        "1e5",
        "-0",
        "9" * 5000,
        '"x"',
        "true",
        "[ ]",
        '{ "b" : 1,\n"a":"\\u00e9\\/" , "a":2}',
        '"é😀"',
        "1e999",
    ],
)
def test_json_data_keeps_its_text_byte_for_byte(value):
    for middle in ("", '"dataType":"JSON",'):
        frame = f'{{"type":"sendToGroup",{middle}"group":"g","data": {value} }}'
        request = codec.decode(frame.encode())
        assert request.data_type is DataType.JSON
        assert request.data == value.encode()


@pytest.mark.parametrize(
    "value", ["null", "NaN", "01", "1.", "'a'", "{a:1}", '"\\q"', '"\t"', "[1,]", "tru", ""]
)
def test_json_data_that_is_null_or_not_json(value):
    with pytest.raises(ProtocolViolation):
        codec.decode(f'{{"type":"sendToGroup","group":"g","data":{value}}}'.encode())


@pytest.mark.parametrize(("open_", "close"), [("[", "]"), ('{"a":', "}")])
def test_deep_nesting_is_malformed_not_fatal(open_, close):
    for data in (open_ * 200_000, open_ * 100_000 + "1" + close * 100_000):
        for frame in (f'{{"type":"event","event":"e","data":{data}}}', f'{{"type":"ping","x":{data}}}', data):
            with pytest.raises(ProtocolViolation):
                codec.decode(frame.encode())


@pytest.mark.parametrize(
    ("text", "data"), [("hi", b"hi"), ("", b""), ('é😀"\\\n\x00', 'é😀"\\\n\x00'.encode())]
)
def test_text_data(text, data):
    assert send(dataType="text", data=text)[3:5] == (DataType.TEXT, data)
    assert send(dataType="Text", data=text)[3:5] == (DataType.TEXT, data)


@pytest.mark.parametrize(
    ("text", "data"), [("", b""), ("AQI=", b"\1\2"), ("AQID", b"\1\2\3"), ("+/8=", b"\xfb\xff")]
)
def test_binary_data(text, data):
    assert send(dataType="binary", data=text)[3:5] == (DataType.BINARY, data)


@pytest.mark.parametrize("text", ["AQI", "AQI==", "A", "=", "AQ I=", "AQI=\n", "-_8=", "é", "AQI=AQI="])
def test_bad_base64_is_malformed(text):
    for data_type in ("binary", "protobuf"):
        with pytest.raises(ProtocolViolation):
            send(dataType=data_type, data=text)


def test_protobuf_data_is_a_serialised_any_and_stays_as_it_is():
    text = "Ci90eXBlLmdvb2dsZWFwaXMuY29tL2dvb2dsZS5wcm90b2J1Zi5TdHJpbmdWYWx1ZRIECgJoaQ=="
    assert send(dataType="protobuf", data=text)[3:5] == (DataType.PROTOBUF, ANY)


@pytest.mark.parametrize("text", ["/w==", "CgL/", "CgH/"])
def test_protobuf_data_that_would_break_protobuf_receivers_is_malformed(text):
    with pytest.raises(ProtocolViolation):
        send(dataType="protobuf", data=text)


@pytest.mark.parametrize("data_type", ["text", "binary", "protobuf"])
@pytest.mark.parametrize("data", [None, 1, True, [], {}])
def test_data_of_the_wrong_kind_is_malformed(data_type, data):
    with pytest.raises(ProtocolViolation):
        send(dataType=data_type, data=data)


@pytest.mark.parametrize("data_type", [None, "", "xml", 1, "json "])
def test_an_unknown_data_type_is_malformed(data_type):
    with pytest.raises(ProtocolViolation):
        send(dataType=data_type)


def test_half_a_character_becomes_a_replacement_character():
    # What JSON.stringify makes of a string that was cut in the middle of an emoji.
    frame = rb'{"type":"event","event":"e","dataType":"%b","data":"\\\ud83d \ud83d\ude00 \uDE00"}'
    assert codec.decode(frame % b"text").data == "\\\ufffd 😀 \ufffd".encode()
    assert codec.decode(frame % b"json").data == rb'"\\\ufffd \ud83d\ude00 \ufffd"'


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        (rb"\ud800\ud83d\ude00", rb"\ufffd\ud83d\ude00"),
        (rb"\ud83d\ude00\ude00", rb"\ud83d\ude00\ufffd"),
        (rb"\\\\\ud83d\\\ude00", rb"\\\\\ufffd\\\ufffd"),
        (rb"\ud83d\\ude00", rb"\ufffd\\ude00"),
        (rb"\ude00\ud83d", rb"\ufffd\ufffd"),
    ],
)
def test_only_halves_that_stand_alone_are_replaced(text, mended):
    assert codec.decode(b'{"type":"event","event":"e","data":"' + text + b'"}').data == b'"' + mended + b'"'


def test_data_may_be_missing_only_beside_metadata():
    for request in ('"sendToGroup","group":"g"', '"event","event":"e"'):
        with_it = codec.decode(f'{{"type":{request},"metadata":{{"k":"v"}}}}'.encode())
        assert (with_it.data_type, with_it.data, with_it.metadata) == (DataType.TEXT, b"", {"k": "v"})
        for metadata in ("", ',"metadata":null', ',"metadata":{}'):
            with pytest.raises(ProtocolViolation):
                codec.decode(f'{{"type":{request}{metadata}}}'.encode())


# --- metadata ---------------------------------------------------------------------------------------------


def test_metadata_is_read_and_nothing_is_never_empty():
    assert send(metadata={"a": "1", "A": "", "!#$%&'*+-.^_`|~9": "~ x"}).metadata == {
        "a": "1",
        "A": "",
        "!#$%&'*+-.^_`|~9": "~ x",
    }
    assert send(metadata=None).metadata is None
    assert send(metadata={}).metadata is None


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        "x",
        1,
        {"a": 1},
        {"a": None},
        {"": "x"},
        {"a b": "x"},
        {"é": "x"},
        {"a:": "x"},
        {"a": "é"},
        {"a": "x\r\ny: z"},
        {"a\n": "x"},
        {"a": "x\n"},
        {"k" * 257: "x"},
        {"k": "v" * 1025},
        {f"k{i}": "v" * 1024 for i in range(8)},
    ],
)
def test_illegal_metadata_is_malformed(metadata):
    with pytest.raises(ProtocolViolation):
        send(metadata=metadata)


def test_metadata_at_its_limits():
    full = {f"{i}": "v" * 1023 for i in range(8)}
    assert send(metadata=full).metadata == full
    assert send(metadata={"k" * 256: "v" * 1024}).metadata is not None


def test_the_same_metadata_key_twice_is_malformed():
    with pytest.raises(ProtocolViolation):
        codec.decode(b'{"type":"event","event":"e","metadata":{"a":"1","b":"2","\\u0061":"1"}}')


# --- what the service sends -------------------------------------------------------------------------------


def test_control_frames_are_azures_byte_for_byte():
    assert codec.connected("b_AH6qt8DPYPujEQv4ytoAc82b04d71", "alice") == (
        b'{"type":"system","event":"connected","userId":"alice","connectionId":"b_AH6qt8DPYPujEQv4ytoAc82b04d71"}'
    )
    assert (
        codec.connected("c1", None)
        == b'{"type":"system","event":"connected","userId":null,"connectionId":"c1"}'
    )
    assert codec.disconnected("Application server closed the connection.") == (
        b'{"type":"system","event":"disconnected","message":"Application server closed the connection."}'
    )
    assert codec.ack(1) == b'{"type":"ack","ackId":1,"success":true}'
    assert codec.ack(5, "Forbidden", "No permission to send to group 'room-9'.") == (
        b'{"type":"ack","ackId":5,"success":false,"error":{"name":"Forbidden",'
        b'"message":"No permission to send to group \'room-9\'."}}'
    )
    assert codec.pong() == b'{"type":"pong"}'


def test_a_failed_ack_always_has_both_members_of_its_error():
    assert json.loads(codec.ack(5, "InternalServerError"))["error"] == {
        "name": "InternalServerError",
        "message": "",
    }


@pytest.mark.parametrize(
    ("message", "frame"),
    [
        (
            Message(DataType.TEXT, b"hi", "room-1", "alice"),
            '{"type":"message","from":"group","fromUserId":"alice","group":"room-1","dataType":"text","data":"hi"}',
        ),
        (
            Message(DataType.JSON, b'{"a":1}', "room-1"),
            '{"type":"message","from":"group","fromUserId":null,"group":"room-1","dataType":"json","data":{"a":1}}',
        ),
        (
            Message(DataType.BINARY, b"\1\2", "room-1", "bob"),
            '{"type":"message","from":"group","fromUserId":"bob","group":"room-1","dataType":"binary","data":"AQI="}',
        ),
        (
            Message(DataType.JSON, b'{"message":"Hello world!"}'),
            '{"type":"message","from":"server","dataType":"json","data":{"message":"Hello world!"}}',
        ),
        (
            Message(DataType.TEXT, b"hi", metadata={"a": "b"}),
            '{"type":"message","from":"server","dataType":"text","data":"hi","metadata":{"a":"b"}}',
        ),
        (
            Message(DataType.PROTOBUF, b"", "g", None, {"a": "b"}),
            '{"type":"message","from":"group","fromUserId":null,"group":"g","dataType":"protobuf","data":"",'
            '"metadata":{"a":"b"}}',
        ),
    ],
)
def test_messages_are_azures_byte_for_byte(message, frame):
    assert codec.message(message).decode() == frame
    assert not codec.is_binary(message)


def test_text_is_escaped_and_non_ascii_is_not():
    frame = codec.message(Message(DataType.TEXT, 'é😀"\\\n\x01/'.encode(), 'g"', "ü\\"))
    assert frame.decode() == (
        '{"type":"message","from":"group","fromUserId":"ü\\\\","group":"g\\"","dataType":"text",'
        '"data":"é😀\\"\\\\\\n\\u0001/"}'
    )


def test_broken_text_does_not_stop_a_fan_out():
    assert json.loads(codec.message(Message(DataType.TEXT, b"a\xff")))["data"] == "a\ufffd"


# --- the reliable subprotocol -----------------------------------------------------------------------------


def test_connected_has_the_reconnection_token_where_azure_has_it():
    assert JSON_RELIABLE_V1.connected("LW61bMG2VQLIMYIVBMmyXgb3c418200", "alice", "a.b.c") == (
        b'{"type":"system","event":"connected","userId":"alice",'
        b'"connectionId":"LW61bMG2VQLIMYIVBMmyXgb3c418200","reconnectionToken":"a.b.c"}'
    )
    assert JSON_RELIABLE_V1.connected("c1", None, "t").endswith(
        b'"connectionId":"c1","reconnectionToken":"t"}'
    )


@pytest.mark.parametrize(
    ("message", "sequence_id", "frame"),
    [
        (
            Message(DataType.TEXT, b"hi", "room-1", "bob"),
            1,
            b'{"sequenceId":1,"type":"message","from":"group","fromUserId":"bob","group":"room-1",'
            b'"dataType":"text","data":"hi"}',
        ),
        (
            Message(DataType.JSON, b'{"a":1}'),
            2**64 - 1,
            b'{"sequenceId":18446744073709551615,"type":"message","from":"server","dataType":"json",'
            b'"data":{"a":1}}',
        ),
    ],
)
def test_numbered_messages_are_azures_byte_for_byte(message, sequence_id, frame):
    assert JSON_RELIABLE_V1.frame_with_id(JSON_RELIABLE_V1.numbered(message), sequence_id) == frame


def test_what_has_no_number_is_the_same_on_both():
    assert JSON_RELIABLE_V1.ack(7) == JSON_V1.ack(7)
    assert JSON_RELIABLE_V1.pong() == JSON_V1.pong()
    assert JSON_RELIABLE_V1.disconnected("x") == JSON_V1.disconnected("x")


@pytest.mark.parametrize(
    "sequence_id",
    [
        "-1",
        "18446744073709551616",
        '"18446744073709551616"',
        '"-1"',
        '"x"',
        '""',
        '" 5"',
        '"5.0"',
        '"0x5"',
        '"\u0665"',
        "1.5",
        "1e30",
        "true",
        "null",
        "[5]",
        "{}",
    ],
)
def test_a_sequence_id_that_is_no_unsigned_64_bit_number_is_malformed(sequence_id):
    with pytest.raises(ProtocolViolation) as caught:
        JSON_RELIABLE_V1.decode(b'{"type":"sequenceAck","sequenceId":%b}' % sequence_id.encode())
    assert caught.value.close_code == 1007
    with pytest.raises(ProtocolViolation):
        JSON_RELIABLE_V1.decode(b'{"type":"sequenceAck"}')


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ('"0"', 0), ('"5"', 5), ('"18446744073709551615"', 2**64 - 1)]
)
def test_a_sequence_id_may_be_a_number_in_quotes(text, number):
    frame = b'{"type":"sequenceAck","sequenceId":%b}' % text.encode()
    assert JSON_RELIABLE_V1.decode(frame) == SequenceAck(number)
