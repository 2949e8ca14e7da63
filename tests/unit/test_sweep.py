"""Which gateway a router asks to work off an outbox, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from support.virtual_time import run

from hubwire.bus.envelopes import VERSION, pack, unpack
from hubwire.model.errors import Unavailable
from router.sweep import LOOK_SECONDS, Sweep


class Leases:
    complete = True

    def __init__(self) -> None:
        self.alive: set[str] = set()
        self.ended: set[str] = set()
        self.on_trial: set[str] = set()
        self._listeners: list[Callable[[str, bool], None]] = []

    def on_change(self, listener: Callable[[str, bool], None]) -> None:
        self._listeners.append(listener)

    def certainly_ended(self, name: str) -> bool:
        self.on_trial.add(name)
        return name in self.ended

    def end(self, name: str) -> None:
        self.alive.discard(name)
        self.ended.add(name)
        for listener in self._listeners:
            listener(name, False)


class World:
    connected = True

    def __init__(self) -> None:
        self.gateways = Leases()
        self.held: dict[str, tuple[str, int]] = {}
        self.asked: list[tuple[str, str, int]] = []
        self.left: set[str] = set()
        self.mine = True
        self.away = False
        parts: Any = (self, self, self.gateways)
        self.sweep = Sweep(*parts, lambda _partition: self.mine, self.inboxes, choose=lambda names: names[0])

    async def outboxes(self) -> list[str]:
        if self.away:
            raise Unavailable("timeout")
        return [*self.held]

    async def inboxes(self) -> set[str]:
        return self.left

    async def holder(self, outbox: str) -> tuple[str, int] | None:
        return self.held.get(outbox)

    async def ask(self, subject: str, payload: bytes, _timeout: float) -> bytes:
        _, _, operation, arguments = unpack(payload)
        if operation == "sweep_inbox":
            self.asked.append((subject.removeprefix("hw.gw."), arguments[0], 0))
            return pack([VERSION, "ok", True])
        assert operation == "sweep"
        outbox, revision = arguments
        self.asked.append((subject.removeprefix("hw.gw."), outbox, revision))
        return pack([VERSION, "ok", True])


def in_a_world(body: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
    async def whole() -> None:
        world = World()
        task = asyncio.create_task(world.sweep.run())
        try:
            await body(world)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def test() -> None:
        run(whole())

    return test


@in_a_world
async def test_outboxes_of_living_gateways_are_theirs(world: World) -> None:
    world.gateways.alive = {"g1"}
    world.held = {"g1": ("g1", 5)}
    await asyncio.sleep(10)
    assert world.asked == []


@in_a_world
async def test_a_gateway_that_has_ended_is_noticed_at_once(world: World) -> None:
    world.gateways.alive = {"g1", "g2"}
    world.held = {"g1": ("g1", 5)}
    await asyncio.sleep(LOOK_SECONDS * 1.5)
    world.gateways.end("g1")
    await asyncio.sleep(0.01)
    assert world.asked == [("g2", "g1", 5)]


@in_a_world
async def test_who_is_not_certainly_gone_is_put_on_trial_and_waited_for(world: World) -> None:
    world.gateways.alive = {"g2"}
    world.held = {"g1": ("g1", 5)}
    await asyncio.sleep(10)
    assert world.asked == []
    assert world.gateways.on_trial == {"g1"}
    world.gateways.end("g1")
    await asyncio.sleep(0.01)
    assert world.asked == [("g2", "g1", 5)]


@in_a_world
async def test_who_works_an_outbox_off_is_reminded_and_nobody_else_is_asked(world: World) -> None:
    world.gateways.alive = {"g2", "g3"}
    world.gateways.ended = {"g1"}
    world.held = {"g1": ("g3", 9)}
    await asyncio.sleep(LOOK_SECONDS * 2.5)
    assert set(world.asked) == {("g3", "g1", 9)}


@in_a_world
async def test_when_that_one_has_gone_too_another_is_asked(world: World) -> None:
    world.gateways.alive = {"g2", "g3"}
    world.gateways.ended = {"g1"}
    world.held = {"g1": ("g3", 9)}
    await asyncio.sleep(0.01)
    world.gateways.end("g3")
    await asyncio.sleep(0.01)
    assert world.asked[-1] == ("g2", "g1", 9)


@in_a_world
async def test_an_outbox_that_belongs_to_nobody_goes_to_any(world: World) -> None:
    world.gateways.alive = {"g2"}
    world.held = {"retry-1": ("", 3)}
    await asyncio.sleep(LOOK_SECONDS)
    assert world.asked[0] == ("g2", "retry-1", 3)


@in_a_world
async def test_other_routers_partitions_and_a_cluster_without_gateways_are_left_alone(world: World) -> None:
    world.gateways.ended = {"g1"}
    world.held = {"g1": ("g1", 5)}
    await asyncio.sleep(LOOK_SECONDS * 2)
    world.gateways.alive = {"g2"}
    world.mine = False
    await asyncio.sleep(LOOK_SECONDS * 2)
    assert world.asked == []
    world.mine = True
    await asyncio.sleep(LOOK_SECONDS)
    assert world.asked == [("g2", "g1", 5)]


@in_a_world
async def test_a_nats_that_does_not_answer_is_asked_again(world: World) -> None:
    world.gateways.alive = {"g2"}
    world.gateways.ended = {"g1"}
    world.held = {"g1": ("g1", 5)}
    world.away = True
    await asyncio.sleep(LOOK_SECONDS * 2)
    world.away = False
    await asyncio.sleep(LOOK_SECONDS)
    assert world.asked == [("g2", "g1", 5)]


@in_a_world
async def test_the_inbox_of_a_lost_gateway_is_always_given_to_the_same_living_one(world: World) -> None:
    world.gateways.alive |= {"g2", "g3", "g4"}
    world.gateways.ended.add("g1")
    world.left = {"g1", "g2"}
    world.gateways.end("g9")
    await asyncio.sleep(30)
    asked = {gateway for gateway, _, _ in world.asked}
    assert len(world.asked) > 3
    assert len(asked) == 1
    assert {lost for _, lost, _ in world.asked} == {"g1"}
