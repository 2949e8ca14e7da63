"""What clients and control planes are told when owners do not answer or the bus takes nothing.

Client-protocols.md 3.3, 3.8.
"""

import asyncio

import pytest
import uvloop
from support.stack import SECONDS, Stack, on_uvloop

from controlplane.cluster import result_of
from hubwire.bus.envelopes import WHO, command_to_gateway
from hubwire.bus.keys import group_key, hub_key, partition_of
from hubwire.bus.subjects import gateway_subject
from hubwire.model.errors import InternalError

pytestmark = on_uvloop


@pytest.fixture
def event_loop_policy():
    return uvloop.EventLoopPolicy()  # as in production


@pytest.fixture
async def stack(tmp_path):
    async with Stack(tmp_path) as one:
        yield one


async def acks(client, count):
    found = [await client.hear() for _ in range(count)]
    assert all(one["type"] == "ack" for one in found), found
    return found


async def join_at_last(client):
    """A join until there is an owner; an id whose request failed may be used again (3.8)."""
    async with asyncio.timeout(SECONDS):
        while True:
            client.say({"type": "joinGroup", "group": "h", "ackId": 2})
            if (await acks(client, 1))[0]["success"]:
                return


async def test_without_an_owner_a_leave_is_acked_in_its_time_and_a_join_fails(stack, monkeypatch):
    monkeypatch.setattr("gateway.registrar.JOIN_SECONDS", 0.3)
    async with await stack.json("alice", groups=["g"]) as alice, await stack.json("bob") as bob:
        await stack.stop_router()
        alice.say({"type": "leaveGroup", "group": "g", "ackId": 1})
        alice.say({"type": "joinGroup", "group": "h", "ackId": 2})
        alice.say({"type": "ping"})
        assert (await alice.hear())["type"] == "pong"  # while the leave waits
        bob.say({"type": "leaveGroup", "group": "g", "ackId": 1})  # it has been in no group, but it was left
        assert not stack.service.hubs.has(group_key("chat", "g"))
        left, joined = await acks(alice, 2)
        assert left == {"type": "ack", "ackId": 1, "success": True}
        assert (joined["ackId"], joined["error"]["name"]) == (2, "InternalServerError")
        assert (await acks(bob, 1))[0]["success"]
        stack.start_router()
        await join_at_last(alice)
        key = group_key("chat", "g")
        partition = partition_of(key)
        assert await stack.worker.dispatcher.ask(partition, [WHO, partition, key]) == [[], [], [], []]


async def test_a_client_that_asks_while_the_gateway_stops_is_answered(stack):
    """Leaving a group raised once, when nothing could be sent any more: the client lost its connection."""
    async with await stack.json(groups=["g"]) as client:
        stack.worker.dispatcher.close()
        client.say({"type": "leaveGroup", "group": "g", "ackId": 1})
        client.say({"type": "joinGroup", "group": "h", "ackId": 2})
        client.say({"type": "sendToGroup", "group": "h", "dataType": "text", "data": "x", "ackId": 3})
        left, *failed = await acks(client, 3)
        assert left == {"type": "ack", "ackId": 1, "success": True}
        assert [(ack["ackId"], ack["error"]["name"]) for ack in failed] == [
            (2, "InternalServerError"),
            (3, "InternalServerError"),
        ]
        assert stack.service.hubs.keys() == {hub_key("chat")}


async def test_who_asks_for_what_cannot_be_sent_is_told_so_at_once(stack):
    bus = stack.worker.bus

    async def huge():
        return b"x" * (bus.max_payload + 1)

    async def strange():
        return object()

    stack.service.commands.add({"huge": huge, "strange": strange})
    for operation in ("huge", "strange"):
        command = command_to_gateway(operation, [])
        with pytest.raises(InternalError):
            result_of(await bus.ask(gateway_subject(stack.service.name), command, 10))
