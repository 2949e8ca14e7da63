"""Gateways that want the same reliable session at the same time, one held up where it hurts."""

from __future__ import annotations

import asyncio

import pytest
from support.reliable_stack import ReliableStack, until

import gateway.reliable.moves
from gateway.reliable.logs import MOVES_AT_ONCE


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


@pytest.mark.timeout(120)
async def test_who_waits_for_its_turn_has_all_of_its_time_yet(tmp_path, monkeypatch):
    """Else thousands that come back at once run out of it one after another, each with its work half done."""
    async with ReliableStack(tmp_path, gateways=2) as stack:
        first, second = stack.places
        alice = await stack.reliable("alice", at=first, groups=["room"])
        moves = second.sessions.moves
        turns = second.sessions._logs.of(first.name).moves
        for _ in range(MOVES_AT_ONCE):
            await turns.acquire()
        monkeypatch.setattr(gateway.reliable.moves, "MOVE_SECONDS", 3.0)
        session = alice.session(first)
        coming = asyncio.create_task(moves.bring(session.hub, session.id))
        await until(lambda: bool(turns._waiters) or coming.done())
        assert not coming.done()
        monkeypatch.setattr(gateway.reliable.moves, "MOVE_SECONDS", 30.0)
        await asyncio.wait((coming,), timeout=3.2)  # all of the time that it had at first
        for _ in range(MOVES_AT_ONCE):
            turns.release()
        assert await coming is alice.session(second)
        await alice.recover(second)
        alice.close()
        for place in stack.places:
            await place.leaves_nothing()
