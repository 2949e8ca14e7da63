"""protobuf.webpubsub.azure.v1 over real sockets: the official library, and the documents' bytes
(client-protocols.md section 5)."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf import any_pb2, wrappers_pb2
from support.inventory import PROTOBUF
from support.webpubsub_proto import DownstreamMessage, MessageData
from support.world import PROTOBUF_V1, Client

ANY = any_pb2.Any()
ANY.Pack(wrappers_pb2.StringValue(value="hi"))
MEBIBYTE_LESS_HEAD = 1_048_576 - 64


@pytest.mark.compat(PROTOBUF, "connected")
async def test_connected_names_user_and_connection(world):
    client = await world.protobuf("u1")
    assert client.user_id == "u1"
    assert client.connection_id
    assert (await world.protobuf()).user_id is None


@pytest.mark.compat(PROTOBUF, "joinGroup", "leaveGroup", "sendToGroup", "ack", "message from group")
async def test_members_of_a_group_get_what_is_sent_to_it_until_they_leave(world):
    alice, bob = await world.protobuf("alice"), await world.protobuf("bob")
    ack = await alice.request("join_group_message", group="room")
    assert (ack.ack_id, ack.success, ack.HasField("error")) == (1, True, False)
    sent = await bob.request("send_to_group_message", group="room", data={"text_data": "hi"})
    assert sent.success
    message = (await alice.message()).data_message
    assert (getattr(message, "from"), message.group, message.data.text_data) == ("group", "room", "hi")
    assert (await alice.request("leave_group_message", group="room")).success
    await bob.request("send_to_group_message", group="room", data={"text_data": "not for alice"})
    await alice.join("other")
    await bob.request("send_to_group_message", group="other", data={"text_data": "for alice"})
    assert (await alice.data()).text_data == "for alice"


@pytest.mark.parametrize(
    "data",
    [
        {"text_data": "é😀"},
        {"text_data": ""},
        {"binary_data": b"\x00\xff"},
        {"json_data": '{"a": 1.50}'},
        {"protobuf_data": {"type_url": ANY.type_url, "value": ANY.value}},
    ],
    ids=["text", "empty text", "binary", "json", "any"],
)
@pytest.mark.compat(PROTOBUF, "sendToGroup", "message from group")
async def test_every_kind_of_data_arrives_as_it_was_sent(world, data):
    sender, member = await world.protobuf(), await world.protobuf(groups=["room"])
    assert (await sender.request("send_to_group_message", group="room", data=data)).success
    got = await member.data()
    (name,) = data
    assert got.WhichOneof("message") == name
    assert got == MessageData(**data)


@pytest.mark.compat(PROTOBUF, "ack")
async def test_refused_and_repeated_requests_are_told_by_name(world):
    client = await world.protobuf(roles=[])
    refused = await client.request("join_group_message", group="room")
    assert (refused.success, refused.error.name) == (False, "Forbidden")
    able = await world.protobuf()
    assert (await able.request("join_group_message", group="room", ack_id=0)).success  # 0 is an id, too
    assert (await able.request("join_group_message", group="room", ack_id=0)).error.name == "Duplicate"


@pytest.mark.compat(PROTOBUF, "sendToGroup")
async def test_no_echo_spares_the_sender(world):
    client = await world.protobuf(groups=["room"])
    for text, quiet in (("quiet", True), ("loud", False)):
        await client.request("send_to_group_message", group="room", data={"text_data": text}, no_echo=quiet)
    assert (await client.data()).text_data == "loud"


@pytest.mark.compat(PROTOBUF, "event")
async def test_an_event_without_a_handler_fails_and_the_connection_stays(world):
    client = await world.protobuf()
    ack = await client.request("event_message", event="order", data={"text_data": "hi"})
    assert (ack.success, ack.error.name) == (False, "InternalServerError")
    await client.send(ping_message={})
    assert (await client.message()).WhichOneof("message") == "pong_message"


@pytest.mark.compat(PROTOBUF, "message from server")
async def test_what_the_server_sends_has_no_group(world):
    client = await world.protobuf()
    headers = {"Content-Type": "application/json"}
    assert (await world.rest("POST", "/:send", data=b'{"a":1}', headers=headers))[0] == 202
    # client-protocols.md 5.7
    assert await client.frame() == bytes.fromhex("12130a067365727665721a0922077b2261223a317d")


@pytest.mark.compat(PROTOBUF, "disconnected")
async def test_a_client_that_is_closed_by_rest_is_told_why(world):
    client = await world.protobuf()
    await world.rest("DELETE", f"/connections/{client.connection_id}", [("reason", "bye")])
    told = (await client.message()).system_message.disconnected_message
    assert told.reason == "Application server closed the connection. Reason: bye"
    assert await client.closed() == (1000, "")


# client-protocols.md 5.7: what goes up, and what comes down.
VECTORS = [
    ("join, ack 300", "320b0a06726f6f6d2d3110ac02", "0a0508ac021001"),
    ("leave, ack 2", "3a0a0a06726f6f6d2d311002", "0a0408021001"),
    ("text, ack 1, no echo", "0a120a06726f6f6d2d3110011a040a0268692001", "0a0408011001"),
    ("ping", "4a00", "2200"),
    ("text", "0a0e0a06726f6f6d2d311a040a026869", "12150a0567726f75701206726f6f6d2d311a040a026869"),
    (
        "bytes",
        "0a0e0a06726f6f6d2d311a0412020102",
        "12150a0567726f75701206726f6f6d2d311a0412020102",
    ),
]


@pytest.mark.parametrize(("up", "down"), [pytest.param(u, d, id=name) for name, u, d in VECTORS])
@pytest.mark.compat(PROTOBUF, "joinGroup", "leaveGroup", "sendToGroup", "ping", "pong", "ack")
async def test_the_documents_bytes_are_understood_and_answered_byte_for_byte(world, up, down):
    client = await world.protobuf(groups=["room-1"])
    await client.send_frame(bytes.fromhex(up))
    assert (await client.frame()) == bytes.fromhex(down)


@pytest.mark.compat(PROTOBUF, "sequenceAck")
@pytest.mark.parametrize("frame", ["42020805", "420b08ffffffffffffffffff01"])
async def test_sequence_acks_are_ignored_without_the_reliable_protocol(world, frame):
    client = await world.protobuf()
    await client.send_frame(bytes.fromhex(frame))
    await client.send_frame(bytes.fromhex("4a00"))
    assert await client.frame() == bytes.fromhex("2200")


@pytest.mark.compat(PROTOBUF, "sendToGroup", "message from group")
async def test_a_mebibyte_of_bytes_arrives_whole(world):
    sender, member = await world.protobuf(), await world.protobuf(groups=["room"])
    payload = bytes(range(256)) * 4095
    assert (
        await sender.request("send_to_group_message", group="room", data={"binary_data": payload})
    ).success
    assert (await member.data()).binary_data == payload


async def test_the_greeting_is_a_binary_frame(world):
    socket = await world.open(world.client_url(user_id="u1"), [PROTOBUF_V1])
    async with asyncio.timeout(10):
        frame = await Client(socket).frame()
    assert isinstance(frame, bytes)
    assert DownstreamMessage.FromString(frame).system_message.connected_message.user_id == "u1"
    await socket.close()
