"""Gateways that want the same reliable session at the same time, one held up where it hurts."""

from __future__ import annotations

import asyncio

import pytest
from support.reliable_stack import ReliableStack, until


@pytest.mark.timeout(60)
async def test_who_finds_the_session_gone_from_its_log_looks_where_it_went_before_it_gives_a_verdict(
    tmp_path,
):
    """The third gateway has read the first one's log, and marks it only when the second has the session and
    the first has forgotten it."""
    async with ReliableStack(tmp_path, gateways=3) as stack:
        first, second, third = stack.places
        alice = await stack.reliable("alice", at=first, groups=["room"])
        moves = third.sessions.moves
        confirmed, arrived, go_on = moves._confirmed_again, asyncio.Event(), asyncio.Event()

        async def held_up(keys: list[str]) -> None:
            await confirmed(keys)
            arrived.set()
            await go_on.wait()

        moves._confirmed_again = held_up
        late = asyncio.create_task(moves.bring(alice.session(first).hub, alice.session(first).id))
        await arrived.wait()
        await alice.recover(second)
        await until(lambda: alice.session(first) is None)
        moves._confirmed_again = confirmed
        go_on.set()
        session = await late
        assert session.generation == 2
        assert session is alice.session(third)
        await alice.recover(third)
        bob = await stack.reliable("bob", at=first)
        await bob.publish("room", "m1")
        await alice.has("m1")
        alice.close()
        bob.close()
        for place in stack.places:
            await place.leaves_nothing()
