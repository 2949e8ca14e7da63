"""json.webpubsub.azure.v1 over real sockets (client-protocols.md section 3)."""

from __future__ import annotations

import asyncio
import json

import pytest
from support.inventory import JSON, ROLES
from support.world import EVERYTHING

pytestmark = pytest.mark.compat(JSON, "connected")


async def test_connected_is_the_first_frame_and_names_user_and_connection(world):
    client = await world.json("alice")
    assert list(client.greeting) == ["type", "event", "userId", "connectionId"]
    assert client.greeting["userId"] == "alice"
    assert client.connection_id
    anonymous = await world.json()
    assert anonymous.greeting["userId"] is None


@pytest.mark.compat(JSON, "joinGroup", "leaveGroup", "sendToGroup", "ack", "message from group")
async def test_members_of_a_group_get_what_is_sent_to_it_until_they_leave(world):
    alice, bob = await world.json("alice"), await world.json("bob")
    assert await alice.request("joinGroup", group="room") == {"type": "ack", "ackId": 1, "success": True}
    await bob.publish("room", {"n": 1})
    assert await alice.message() == {
        "type": "message",
        "from": "group",
        "fromUserId": "bob",
        "group": "room",
        "dataType": "json",
        "data": {"n": 1},
    }
    assert (await alice.request("leaveGroup", group="room"))["success"] is True
    await bob.publish("room", "not for alice")
    await alice.join("other")
    await bob.publish("other", "for alice")
    assert await alice.data() == "for alice"


@pytest.mark.parametrize(
    ("data_type", "data"),
    [
        ("json", {"a": [1, 2.5, None, True, "é😀"]}),
        ("json", "a string"),
        ("json", 7),
        ("text", "hi é😀"),
        ("text", ""),
        ("text", '{"looks":"like JSON"}'),
        ("binary", "AAECAwT/"),
        ("protobuf", "Ci90eXBlLmdvb2dsZWFwaXMuY29tL2dvb2dsZS5wcm90b2J1Zi5TdHJpbmdWYWx1ZRIECgJoaQ=="),
    ],
)
@pytest.mark.compat(JSON, "sendToGroup", "message from group")
async def test_every_data_type_arrives_as_it_was_sent(world, data_type, data):
    sender, member = await world.json(), await world.json(groups=["room"])
    await sender.publish("room", data, data_type)
    message = await member.message()
    assert (message["dataType"], message["data"], message["fromUserId"]) == (data_type, data, None)


@pytest.mark.compat(JSON, "sendToGroup")
async def test_json_is_forwarded_byte_for_byte(world):
    sender, member = await world.json(), await world.json(groups=["room"])
    await sender.send_frame('{"type":"sendToGroup","group":"room","data":{"b": 1.50,  "a":1e400}}')
    assert '"data":{"b": 1.50,  "a":1e400}' in str(await member.frame())


@pytest.mark.compat(JSON, "sendToGroup")
async def test_no_echo_spares_the_sending_connection_only(world):
    first, second = await world.several(2, "alice", groups=["room"])
    await first.publish("room", "quiet", noEcho=True)
    await first.publish("room", "loud", noEcho=False)
    assert await first.data() == "loud"
    assert [await second.data(), await second.data()] == ["quiet", "loud"]


@pytest.mark.compat(JSON, "ack")
async def test_a_request_with_an_ack_id_that_was_done_is_a_duplicate(world):
    client = await world.json(groups=["room"])
    await client.publish("room", "once", ackId=7)
    ack = await client.request("sendToGroup", group="room", data="twice", ackId=7)
    assert (ack["ackId"], ack["success"], ack["error"]["name"]) == (7, False, "Duplicate")
    assert ack["error"]["message"] == "Message with ack-id: 7 has been processed"
    # Whatever the kind of the request; and a failed one is not remembered.
    assert (await client.request("joinGroup", group="g", ackId=7))["error"]["name"] == "Duplicate"
    await client.publish("room", "next", ackId=2**64 - 1)
    assert [await client.data(), await client.data()] == ["once", "next"]


@pytest.mark.compat(JSON, "ack")
@pytest.mark.compat(ROLES, "no role")
async def test_a_refused_request_is_forbidden_and_may_be_repeated_with_its_ack_id(world):
    client = await world.json(roles=[])
    for kind, more in (("joinGroup", {}), ("leaveGroup", {}), ("sendToGroup", {"data": 1})):
        ack = await client.request(kind, group="room", ackId=1, **more)
        assert (ack["ackId"], ack["success"], ack["error"]["name"]) == (1, False, "Forbidden")
        assert ack["error"]["message"]
    await client.send(type="sendToGroup", group="room", data="nobody is told")
    await client.send(type="ping")
    assert await client.message() == {"type": "pong"}


@pytest.mark.compat(JSON, "event")
async def test_an_event_without_a_handler_fails_and_the_connection_stays(world):
    client = await world.json()
    ack = await client.request("event", event="order", dataType="json", data={"id": 7})
    assert (ack["success"], ack["error"]["name"]) == (False, "InternalServerError")
    await client.send(type="event", event="order", dataType="text", data="nobody asked for an ack")
    await client.send(type="ping")
    assert await client.message() == {"type": "pong"}


@pytest.mark.compat(JSON, "ping", "pong", "sequenceAck")
async def test_ping_is_answered_and_sequence_ack_is_ignored(world):
    client = await world.json(roles=[])
    await client.send(type="sequenceAck", sequenceId=5)
    await client.send(type="ping")
    assert await client.frame() == '{"type":"pong"}'


@pytest.mark.compat(JSON, "message from server")
async def test_what_the_server_sends_is_exactly_the_recorded_frame(world):
    client = await world.json()
    body = b'{"message":"Hello world!"}'
    status, _, _ = await world.rest("POST", "/:send", data=body, headers={"Content-Type": "application/json"})
    assert status == 202
    assert await client.frame() == (
        '{"type":"message","from":"server","dataType":"json","data":{"message":"Hello world!"}}'
    )


@pytest.mark.compat(JSON, "sendToGroup")
async def test_metadata_travels_with_the_message(world):
    sender, member = await world.json(), await world.json(groups=["room"])
    await sender.publish("room", 1, metadata={"trace": "x1"})
    assert (await member.message())["metadata"] == {"trace": "x1"}
    await sender.publish("room", 2)
    assert "metadata" not in await member.message()


async def test_requests_sent_before_the_greeting_are_done_after_it(world):
    socket = await world.open(world.client_url(groups=["room"]), ["json.webpubsub.azure.v1"])
    await socket.send('{"type":"sendToGroup","group":"room","data":1}')
    assert [json.loads(await socket.recv())["type"] for _ in range(2)] == ["system", "message"]
    await socket.close()


@pytest.mark.compat(JSON, "sendToGroup", "message from group")
@pytest.mark.parametrize("size", [65_535, 65_536, 200_000, 1_048_576])
async def test_messages_up_to_one_mebibyte_arrive_whole(world, size):
    sender, member = await world.json(), await world.json(groups=["room"])
    head = '{"type":"sendToGroup","group":"room","dataType":"text","ackId":1,"data":"'
    text = "x" * (size - len(head) - 2)
    await sender.send_frame(f'{head}{text}"}}')
    assert (await sender.ack())["success"] is True
    assert await member.data() == text


@pytest.mark.compat(JSON, "sendToGroup", "message from group")
async def test_fragments_are_put_together(world):
    sender, member = await world.json(), await world.json(groups=["room"])
    await sender.socket.send(
        iter(['{"type":"sendToGroup",', '"group":"room","dataType":"text",', '"data":"é"}'])
    )
    assert await member.data() == "é"


@pytest.mark.compat(JSON, "sendToGroup", "message from group")
async def test_every_member_gets_two_publishers_messages_in_one_order(world):
    members = await world.several(3, groups=["room"])
    publishers = await world.several(2)

    async def publish(who: int) -> None:
        for number in range(100):
            await publishers[who].send(type="sendToGroup", group="room", data=[who, number])

    await asyncio.gather(publish(0), publish(1))
    seen = [[await member.data() for _ in range(200)] for member in members]
    assert seen[0] == seen[1] == seen[2]
    for who in (0, 1):
        assert [number for one, number in seen[0] if one == who] == list(range(100))


@pytest.mark.compat(JSON, "joinGroup", "sendToGroup")
@pytest.mark.parametrize("group", ["a.b*c?", "ünïcode 😀/%2F", " x ", "g" * 1024])
async def test_any_group_name_works(world, group):
    client = await world.json(roles=EVERYTHING)
    await client.join(group)
    await client.publish(group, 1)
    assert (await client.message())["group"] == group
