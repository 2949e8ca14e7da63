"""Clients without a subprotocol (client-protocols.md section 6)."""

from __future__ import annotations

import pytest
from support.inventory import CLOSING, SIMPLE
from websockets.exceptions import InvalidStatus

IN_ROOM = "&webpubsub_mode=sendToGroup&group=room"


@pytest.mark.compat(SIMPLE, "receives text", "receives binary")
async def test_payloads_come_bare_and_without_a_greeting(world):
    client = await world.simple("alice")
    for content_type, body in (
        ("text/plain", b"hi"),
        ("application/json", b'{"a": 1}'),
        ("application/octet-stream", b"\0\1"),
    ):
        headers = {"Content-Type": content_type}
        assert (await world.rest("POST", "/users/alice/:send", data=body, headers=headers))[0] == 202
    assert [await client.frame() for _ in range(3)] == ["hi", '{"a": 1}', b"\0\1"]


@pytest.mark.compat(SIMPLE, "sendEvent")
@pytest.mark.compat(CLOSING, "1011")
@pytest.mark.parametrize("frame", ["hello", '{"type":"ping"}', b"\0"])
async def test_a_frame_is_an_event_and_without_a_handler_the_client_is_closed(world, frame):
    client = await world.simple()
    await client.send_frame(frame)
    assert (await client.closed())[0] == 1011


@pytest.mark.compat(SIMPLE, "sendToGroup")
async def test_send_to_group_mode_publishes_each_frame(world):
    member = await world.json(groups=["room"])
    sender = await world.simple("carol", query=IN_ROOM, groups=["room"])
    await sender.send_frame("hi")
    message = await member.message()
    assert (message["fromUserId"], message["dataType"], message["data"]) == ("carol", "text", "hi")
    assert await sender.frame() == "hi"  # it is a member, so it hears itself
    quiet = await world.simple(query=IN_ROOM + "&noEcho=true", groups=["room"])
    await quiet.send_frame(b"\1")
    assert (await member.message())["dataType"] == "binary"  # so it was published before what follows
    await sender.send_frame("loud")
    assert await quiet.frame() == "loud"


@pytest.mark.compat(SIMPLE, "sendToGroup")
@pytest.mark.compat(CLOSING, "1008")
async def test_send_to_group_mode_needs_the_permission(world):
    sender = await world.simple(query=IN_ROOM, roles=["webpubsub.sendToGroup.other"])
    await sender.send_frame("hi")
    assert (await sender.closed())[0] == 1008


@pytest.mark.parametrize(
    "query",
    ["&webpubsub_mode=other", "&webpubsub_mode=sendToGroup", IN_ROOM + "&noEcho=maybe"],
)
async def test_an_illegal_mode_is_refused_with_400(world, query):
    with pytest.raises(InvalidStatus) as refused:
        await world.simple(query=query)
    assert refused.value.response.status_code == 400
