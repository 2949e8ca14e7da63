"""What is left at another gateway of a session that has moved: nobody counts on it, no answer comes from it.

`exists` is asked right behind the answer to a leave. That the gateway of before has not noticed yet what has
become of the session is held fast, not hoped for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from support.observer import Observer, observe
from support.reliable_stack import HUB, Client, Place, ReliableStack, until

from controlplane.ports import Target
from gateway.reliable.session import Session
from hubwire.model.errors import Unavailable

ROOM = Target("group", "room")


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[ReliableStack]:
    async with ReliableStack(tmp_path, gateways=2) as stack:
        yield stack


@pytest.fixture
async def observer(stack: ReliableStack) -> AsyncIterator[Observer]:
    async with observe(stack._config) as observer:
        yield observer


def unnoticing(place: Place) -> None:
    """The gateway does not look at records by itself, as between two of its looks."""

    async def watch(_session: Session) -> None: ...

    place.sessions.holder.ends.watch = watch  # type: ignore[method-assign]


class Behind:
    """A gateway that does not get what comes into its own log, from here until `goes_on`; in order then."""

    def __init__(self, place: Place) -> None:
        self._log = place.sessions.holder.log
        assert self._log._tail is not None
        self._tail = self._log._tail
        self._handler = self._tail._handler
        self._held: list[tuple[int, float, bytes]] = []
        self._tail._handler = lambda *message: self._held.append(message)

    def goes_on(self) -> None:
        self._tail._handler = self._handler
        for message in self._held:
            self._handler(*message)

    async def until_something_waits(self) -> None:
        """What this gateway itself has written is stored, behind the mark."""
        await until(lambda: self._log._waiting)


async def moved(client: Client, there: Place) -> Client:
    client.cut()
    return await client.recover(there)


async def leaves(client: Client, _observer: Observer) -> None:
    await client.leave("room")


async def is_removed(client: Client, observer: Observer) -> None:
    await observer.cluster.remove_connection_from_group(HUB, "room", client.id)


async def is_removed_from_all(client: Client, observer: Observer) -> None:
    await observer.cluster.remove_connection_from_all_groups(HUB, client.id)


@pytest.mark.parametrize("leave", [leaves, is_removed, is_removed_from_all])
async def test_a_group_that_was_left_after_a_move_is_gone_at_once(
    stack: ReliableStack, observer: Observer, leave: Callable
) -> None:
    here, there = stack.places
    client = await stack.reliable("ada", at=here, groups=["room"])
    unnoticing(here)
    await moved(client, there)
    assert await observer.cluster.exists(HUB, ROOM)
    await leave(client, observer)
    assert not await observer.cluster.exists(HUB, ROOM)
    assert not here.sessions.holder.sessions
    await until(lambda: not any("room" in key for place in stack.places for key in place.reliable_keys()))


async def test_rest_takes_nobody_out_of_groups_where_a_session_has_gone_from(
    stack: ReliableStack, observer: Observer
) -> None:
    """Its first gateway, which is asked first, knows it still, and as one without a group."""
    here, there = stack.places
    client = await stack.reliable("ada", at=here)
    unnoticing(here)
    await moved(client, there)
    await client.join("room")
    await observer.cluster.remove_connection_from_all_groups(HUB, client.id)
    assert not await observer.cluster.exists(HUB, ROOM)


@pytest.mark.parametrize("leave", [is_removed, is_removed_from_all])
async def test_a_gateway_that_has_not_read_that_a_session_has_gone_answers_nothing_for_it(
    stack: ReliableStack, observer: Observer, leave: Callable
) -> None:
    here, there = stack.places
    client = await stack.reliable("ada", at=here)
    behind = Behind(here)
    await moved(client, there)
    await client.join("room")
    leaving = asyncio.create_task(leave(client, observer))
    await behind.until_something_waits()
    behind.goes_on()
    await leaving
    assert not await observer.cluster.exists(HUB, ROOM)


async def test_a_join_that_comes_to_the_gateway_of_before_leaves_nothing_there(
    stack: ReliableStack, observer: Observer
) -> None:
    """The group is taken back there, and its owner counts that gateway until then."""
    here, there = stack.places
    client = await stack.reliable("ada", at=here)
    behind = Behind(here)
    await moved(client, there)
    joining = asyncio.create_task(here.rest("join", HUB, "connection", client.id, ["room"], None))
    await behind.until_something_waits()
    assert await observer.cluster.exists(HUB, ROOM)
    await client.join("room")
    leaving = client.ask("leaveGroup", group="room")
    await until(lambda: here.worker.gateway._command_tasks)  # it asks the gateway of before
    behind.goes_on()
    assert (await client.answer(leaving))["success"]
    assert not await observer.cluster.exists(HUB, ROOM)
    with pytest.raises(Unavailable, match="on its way"):
        await joining


async def test_a_gateway_that_does_not_answer_keeps_nobody_in_a_group(
    stack: ReliableStack, observer: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leave is acked all the same, and its owner hears the rest of it later."""
    monkeypatch.setattr("gateway.reliable.leftovers.WAIT_SECONDS", 0.2)
    here, there = stack.places
    client = await stack.reliable("ada", at=here, groups=["room"])
    behind = Behind(here)
    await moved(client, there)
    await client.leave("room")
    assert await observer.cluster.exists(HUB, ROOM)
    behind.goes_on()
    await until(lambda: not here.reliable_keys() and not here.worker.gateway.registrar._leaving)
    assert not await observer.cluster.exists(HUB, ROOM)


async def test_sessions_that_have_not_moved_ask_nobody(stack: ReliableStack) -> None:
    here, there = stack.places
    ada = await stack.reliable("ada", at=here, groups=["room"])
    bob = await stack.reliable("bob", at=there, groups=["room"])
    asked: list[str] = []
    there.worker.gateway.commands.add({"let_go": lambda *_: asked.append("let_go")})
    await ada.leave("room")
    assert not asked
    await bob.leave("room")
