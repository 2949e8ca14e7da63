"""The reliable subprotocols on the wire: ids, acks, replays, duplicates (client-protocols.md 4.1-4.6, 5)."""

from __future__ import annotations

import json

import pytest
from support.inventory import RELIABLE
from support.reliable_world import (
    JSON_RELIABLE,
    KINDS,
    PROTOBUF_RELIABLE,
    recovered,
    recovery_socket,
    reliable,
    verdict,
)
from support.webpubsub_proto import DownstreamMessage

both = pytest.mark.parametrize("subprotocol", KINDS)


def texts(first: int, last: int) -> list[tuple[int, str]]:
    return [(number, f"m{number}") for number in range(first, last + 1)]


async def publish(world, group, first, last):
    """Messages m<first> to m<last>, by a plain client."""
    sender = await world.json("bob")
    for _, text in texts(first, last):
        await sender.publish(group, text, "text")


@pytest.mark.compat(RELIABLE, JSON_RELIABLE)
async def test_messages_are_numbered_whatever_they_are_and_acks_and_pongs_are_not(world):
    client = await reliable(world, "alice")
    assert client.greeting.keys() == {"type", "event", "userId", "connectionId", "reconnectionToken"}
    joined = await client.request("joinGroup", group="room")
    assert joined == {"type": "ack", "ackId": 1, "success": True}
    await client.publish("room", {"n": [1]})
    headers = {"Content-Type": "text/plain"}
    for path in ("/:send", "/users/alice/:send", f"/connections/{client.connection_id}/:send"):
        assert (await world.rest("POST", path, data="hi", headers=headers))[0] == 202
    bob = await world.json("bob")
    await bob.publish("room", "AP8=", "binary")
    group = {"type": "message", "from": "group", "group": "room"}
    server = {"type": "message", "from": "server", "dataType": "text", "data": "hi"}
    assert [await client.message() for _ in range(5)] == [
        {**group, "sequenceId": 1, "fromUserId": "alice", "dataType": "json", "data": {"n": [1]}},
        *({**server, "sequenceId": number} for number in (2, 3, 4)),
        {**group, "sequenceId": 5, "fromUserId": "bob", "dataType": "binary", "data": "AP8="},
    ]
    await client.send(type="ping")
    assert json.loads(await client.frame()) == {"type": "pong"}


@pytest.mark.compat(RELIABLE, PROTOBUF_RELIABLE)
async def test_protobuf_carries_the_same_numbers_in_its_own_field(world):
    client = await reliable(world, "alice", PROTOBUF_RELIABLE, groups=["room"])
    bob = await world.json("bob")
    await bob.publish("room", {"a": 1})
    await world.rest("POST", "/:send", data=b"\0\xff", headers={"Content-Type": "application/octet-stream"})
    await client.publish("room", "own")
    found = [(await client.message()).data_message for _ in range(3)]
    # "from" is a word of Python's.
    assert [(getattr(one, "from"), one.group, one.sequence_id) for one in found] == [
        ("group", "room", 1),
        ("server", "", 2),
        ("group", "room", 3),
    ]
    data = [one.data for one in found]
    assert json.loads(data[0].json_data) == {"a": 1}
    assert (data[1].binary_data, data[2].text_data) == (b"\0\xff", "own")
    await client.send(ping_message={})
    frame = await client.frame()
    assert DownstreamMessage.FromString(frame).WhichOneof("message") == "pong_message"


@both
async def test_numbers_belong_to_the_session_whatever_the_group_and_others_have_their_own(world, subprotocol):
    first = await reliable(world, "alice", subprotocol, groups=["a", "b"])
    second = await reliable(world, "bob", subprotocol, groups=["b"])
    plain = await world.json(groups=["a", "b"])
    for group in ("a", "b", "a", "b"):
        await plain.publish(group, group, "text")
    assert await first.numbered(4) == [(1, "a"), (2, "b"), (3, "a"), (4, "b")]
    assert await second.numbered(2) == [(1, "b"), (2, "b")]
    assert [(await plain.message()).keys() & {"sequenceId"} for _ in range(4)] == [set()] * 4


@pytest.mark.compat(RELIABLE, "replay of what is not acknowledged")
@both
async def test_what_is_not_acknowledged_is_replayed_under_its_own_numbers_before_anything_newer(
    world, subprotocol
):
    client = await reliable(world, "alice", subprotocol, groups=["room"])
    await publish(world, "room", 1, 4)
    assert await client.numbered(2) == texts(1, 2)
    client.cut()
    await publish(world, "room", 5, 6)
    again = await recovered(world, client)
    await publish(world, "room", 7, 7)
    assert await again.numbered(7) == texts(1, 7)
    again.cut()  # nothing was acknowledged
    third = await recovered(world, again)
    assert await third.numbered(7) == texts(1, 7)
    await third.acknowledge(6)
    third.cut()
    await publish(world, "room", 8, 8)
    fourth = await recovered(world, third)
    assert await fourth.fresh(1) == texts(8, 8)


@pytest.mark.compat(RELIABLE, "sequenceAck")
@pytest.mark.parametrize("form", [3, "3", 1_000, 2**64 - 1, "18446744073709551615"])
async def test_acks_release_all_that_was_sent_at_most(world, form):
    gateway = world.topology.gateway()
    client = await reliable(world, gateway=gateway, groups=["room"])
    await publish(world, "room", 1, 3)
    assert await client.numbered(3) == texts(1, 3)
    await client.acknowledge(form)
    await client.acknowledge(0)
    await client.acknowledge(1)  # lower than before: without effect
    client.cut()
    await publish(world, "room", 4, 4)
    again = await recovered(world, client, gateway=gateway)
    if len(world.topology.gateways) > 1:  # `hubwire up` has two behind one port
        assert await again.numbered(1) == texts(4, 4)
    else:
        assert await again.fresh(1) == texts(4, 4)


@pytest.mark.parametrize(
    "sequence_id", ["-1", '"-1"', "1.5", "null", '"x"', '""', "true", "18446744073709551616"]
)
async def test_malformed_acks_close_with_1007_and_end_the_session(world, sequence_id):
    client = await reliable(world)
    await client.send_frame(f'{{"type":"sequenceAck","sequenceId":{sequence_id}}}')
    assert (await client.closed())[0] == 1007
    await world.gone(f"/connections/{client.connection_id}")
    socket = await recovery_socket(world, client.connection_id, client.token, [JSON_RELIABLE])
    assert await verdict(socket) == 1008


async def test_an_ack_without_a_number_is_malformed(world):
    client = await reliable(world)
    await client.send_frame('{"type":"sequenceAck"}')
    assert (await client.closed())[0] == 1007


@pytest.mark.compat(RELIABLE, "recovery on any gateway")
@both
async def test_groups_permissions_and_the_user_come_along_to_every_gateway(world, subprotocol):
    client = await reliable(world, "alice", subprotocol, roles=["webpubsub.joinLeaveGroup"])
    await client.join("room", "left")
    connection = f"/connections/{client.connection_id}"
    granted = await world.rest("PUT", f"/permissions/sendToGroup{connection}", [("targetName", "room")])
    assert granted[0] == 200
    assert (await world.rest("DELETE", f"/groups/left{connection}"))[0] == 204
    for number, gateway in enumerate(world.topology.gateways * 2, 1):
        client.cut()
        client = await recovered(world, client, gateway=gateway)
        if subprotocol == JSON_RELIABLE:
            await client.publish("room", f"m{number}", "text")
        else:
            await client.publish("room", f"m{number}")
        assert await client.fresh(1) == texts(number, number)
        await client.acknowledge(number)
        assert (await world.rest("HEAD", "/users/alice"))[0] == 200
        assert (await world.rest("HEAD", "/groups/left"))[0] == 404
    await publish(world, "left", 1, 1)
    await world.rest("POST", "/users/alice/:send", data="end", headers={"Content-Type": "text/plain"})
    assert (await client.fresh(1))[0] == (number + 1, "end")


@pytest.mark.compat(RELIABLE, "Duplicate for a publish that is sent again")
async def test_a_publish_that_is_sent_again_elsewhere_is_a_duplicate_and_reaches_nobody_twice(world):
    member = await reliable(world, groups=["room"])
    client = await reliable(world, "alice")
    await client.publish("room", "first", "text", ackId=7)
    request = {"type": "sendToGroup", "group": "room", "dataType": "text", "ackId": 8, "data": "second"}
    await client.send(**request)
    await client.settled()
    client.cut()  # whether or not it was answered
    for _ in range(3):
        client = await recovered(world, client)
        again = await client.request("sendToGroup", group="room", data="first", dataType="text", ackId=7)
        assert (again["success"], again["error"]["name"]) == (False, "Duplicate")
        answer = await client.request(**request)
        assert answer["success"] or answer["error"]["name"] == "Duplicate"
        client.cut()
    client = await recovered(world, client)
    await client.publish("room", "end", "text", ackId=9)
    assert await member.numbered(3) == [(1, "first"), (2, "second"), (3, "end")]


async def test_what_was_sent_just_before_the_loss_is_done_once_when_it_is_sent_again(world):
    member = await reliable(world, groups=["room"])
    client = await reliable(world, "alice")
    for number in range(1, 9):
        request = {
            "type": "sendToGroup",
            "group": "room",
            "dataType": "text",
            "ackId": number,
            "data": f"m{number}",
        }
        await client.send(**request)
        client.cut()
        client = await recovered(world, client)
        answer = await client.request(**request)
        assert answer["success"] or answer["error"]["name"] == "Duplicate"
    assert await member.numbered(8) == texts(1, 8)


async def test_every_kind_of_client_hears_every_other(world):
    plain = [await world.json(groups=["room"]), await world.protobuf(groups=["room"])]
    numbered = [await reliable(world, subprotocol=one, groups=["room"]) for one in KINDS]
    await plain[0].publish("room", "m1", "text")
    await plain[1].request("send_to_group_message", group="room", data={"text_data": "m2"})
    await numbered[0].publish("room", "m3", "text")
    await numbered[1].publish("room", "m4")
    for client in numbered:
        assert await client.numbered(4) == texts(1, 4)
    assert [await plain[0].data() for _ in range(4)] == [text for _, text in texts(1, 4)]
    assert [(await plain[1].data()).text_data for _ in range(4)] == [text for _, text in texts(1, 4)]


@both
async def test_no_echo_and_excluded_connections_are_left_out_and_cost_no_number(world, subprotocol):
    client = await reliable(world, "alice", subprotocol, groups=["room"])
    options = {"noEcho": True, "data_type": "text"} if subprotocol == JSON_RELIABLE else {"no_echo": True}
    await client.publish("room", "quiet", **options)
    headers = {"Content-Type": "text/plain"}
    excluded = [("excluded", client.connection_id)]
    for query, data in ((excluded, "not for it"), ([("filter", "userId eq 'bob'")], "nor this"), ([], "m1")):
        assert (await world.rest("POST", "/groups/room/:send", query, data=data, headers=headers))[0] == 202
    assert await client.numbered(1) == texts(1, 1)


@pytest.mark.compat(RELIABLE, "limit of what is not acknowledged")
@pytest.mark.parametrize("attached", [True, False])
async def test_more_than_a_thousand_unacknowledged_messages_end_the_session(world, attached):
    """Whether the client is there and only never acknowledges, or has gone."""
    client = await reliable(world, groups=["room"])
    sender = await world.json()
    if not attached:
        client.cut()
    for number in range(1_100):
        await sender.send(type="sendToGroup", group="room", data=number)
    await sender.publish("room", "end")
    if attached:
        assert (await client.closed())[0] == 1008
    await world.gone(f"/connections/{client.connection_id}")
    socket = await recovery_socket(world, client.connection_id, client.token, [JSON_RELIABLE])
    assert await verdict(socket) == 1008


async def test_a_thousand_of_them_do_not(world):
    client = await reliable(world, groups=["room"])
    sender = await world.json()
    for number in range(1, 1_001):
        await sender.send(type="sendToGroup", group="room", dataType="text", data=f"m{number}")
    assert await client.numbered(1_000) == texts(1, 1_000)
    client.cut()
    again = await recovered(world, client)
    assert await again.numbered(1_000) == texts(1, 1_000)
    await again.acknowledge(1_000)
    await sender.publish("room", "m1001", "text")
    assert await again.numbered(1) == texts(1_001, 1_001)


async def test_a_burst_of_three_thousand_is_borne_until_it_is_acknowledged(world):
    """The SDKs acknowledge once a second, however much comes in between."""
    client = await reliable(world, groups=["room"])
    sender = await world.json()
    for number in range(1, 3_001):
        await sender.send(type="sendToGroup", group="room", dataType="text", data=f"m{number}")
    assert await client.numbered(3_000) == texts(1, 3_000)
    await client.acknowledge(3_000)
    await sender.publish("room", "m3001", "text")
    assert await client.numbered(1) == texts(3_001, 3_001)


async def test_more_than_sixteen_megabytes_unacknowledged_end_the_session(world):
    client = await reliable(world, groups=["room"])
    sender = await world.json()
    for _ in range(16):
        await sender.publish("room", "x" * 1_000_000, "text")
    await client.settled()
    await sender.publish("room", "x" * 100_000, "text")
    assert (await client.closed())[0] == 1008
    await world.gone(f"/connections/{client.connection_id}")
    socket = await recovery_socket(world, client.connection_id, client.token, [JSON_RELIABLE])
    assert await verdict(socket) == 1008
