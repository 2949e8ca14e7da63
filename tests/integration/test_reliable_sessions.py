"""Reliable sessions on real gateways, a router and a nats-server: opened, changed, moved, lost and ended."""

from __future__ import annotations

import asyncio

import pytest
from support.reliable_stack import HUB, ReliableStack, until

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
async def one(tmp_path):
    async with ReliableStack(tmp_path) as stack:
        yield stack


@pytest.fixture
async def two(tmp_path):
    async with ReliableStack(tmp_path, gateways=2) as stack:
        yield stack


async def test_a_session_outlives_its_socket_and_ends_with_a_close_frame(one):
    here = one.places[0]
    alice = await one.reliable("alice", groups=["room"])
    bob = await one.json("bob")
    bob.say({"type": "sendToGroup", "ackId": 1, "group": "room", "dataType": "text", "data": "1"})
    await alice.has("1")
    alice.cut()
    await until(lambda: alice.session(here).connection is None)
    bob.say({"type": "sendToGroup", "ackId": 2, "group": "room", "dataType": "text", "data": "2"})
    await alice.recover(here)
    await alice.join("other")
    await alice.publish("other", "3")
    await alice.has("2", "3")
    assert alice.got == [1, 2, 3]
    alice.close()
    await alice.is_told(1000)
    assert await alice.try_to_recover(here) == 1008
    await here.leaves_nothing()


async def test_requests_that_were_under_way_are_answered_on_the_next_socket(one):
    """Sent, lost with the socket, and sent again under the same id while the first is being executed."""
    here = one.places[0]
    alice = await one.reliable("alice", groups=["room"])
    for _ in range(5):
        ids = [alice.ask("joinGroup", group="other")]
        ids += [alice.ask("sendToGroup", group="room", dataType="text", data=f"m{alice._ack_id}")]
        await asyncio.sleep(0)
        await alice.raw.writer.drain()
        old = alice.raw
        await alice.recover(here)
        old.close()
        alice.ask("joinGroup", ack_id=ids[0], group="other")
        alice.ask("sendToGroup", ack_id=ids[1], group="room", dataType="text", data=f"m{ids[1]}")
        for number in ids:
            answer = await alice.answer(number)
            assert answer["success"] or answer["error"]["name"] == "Duplicate", answer
        await alice.leave("other")
    await alice.publish("room", "last")
    await alice.has("last")
    assert sorted(alice.texts) == sorted({*alice.texts})


async def test_a_session_moves_there_and_back_while_its_holder_lives(two):
    first, second = two.places
    alice = await two.reliable("alice", at=first, groups=["room"])
    bob = await two.reliable("bob", at=second)
    here, there = first, second
    for number in range(6):
        await bob.publish("room", f"a{number}")
        await alice.recover(there)
        await bob.publish("room", f"b{number}")
        await alice.join(f"group-{number}")
        await bob.publish(f"group-{number}", f"c{number}")
        await alice.has(f"a{number}", f"b{number}", f"c{number}")
        here, there = there, here
    assert len(alice.got) == 18
    alice.close()
    bob.close()
    await first.leaves_nothing()
    await second.leaves_nothing()


async def test_two_gateways_that_want_it_at_once_get_it_one_after_the_other(tmp_path):
    async with ReliableStack(tmp_path, gateways=3) as stack:
        first, second, third = stack.places
        alice = await stack.reliable("alice", at=first, groups=["room"])
        bob = await stack.reliable("bob", at=first)
        for number in range(8):
            await bob.publish("room", f"x{number}")
            await asyncio.gather(
                *(alice.try_to_recover(place) for place in (second, third, second, third)),
                return_exceptions=True,
            )
            await alice.recover(stack.places[number % 3])
            await alice.has(f"x{number}")
        holders = [place for place in stack.places if alice.session(place) is not None]
        await until(lambda: sum(alice.session(place) is not None for place in stack.places) == 1)
        assert len(holders) >= 1
        alice.close()
        bob.close()
        for place in stack.places:
            await place.leaves_nothing()
        assert HUB
