"""Listeners of `connected` and `disconnected`: their copies go through the cluster's queue beside the
handler's. In virtual time, with a stream and brokers that are scripted."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable

from support.event_world import World
from support.virtual_time import run

from gateway.upstream.contexts import NotificationContext, NotificationDelivered, NotificationResult
from gateway.upstream.outcome import DeliveryFailure
from hubwire.model.event_handlers import HandlerEvent
from hubwire.model.settings import HubSettings


class Brokers:
    """Endpoints that want all connections' events. What is in `away` takes nothing."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.away: set[str] = set()
        self.got: dict[str, list[NotificationContext]] = defaultdict(list)

    def endpoints(self, hub: str, event: HandlerEvent) -> tuple[str, ...]:
        return self.names if event.kind == "sys" else ()

    async def notify(self, context: NotificationContext) -> NotificationResult:
        await asyncio.sleep(0.01)
        if context.listener in self.away:
            return DeliveryFailure("listener", None, "No stream.", 3, 0.01, context.listener)
        self.got[context.listener].append(context)
        return NotificationDelivered("", ())

    def events(self, name: str, connection: str) -> list[tuple[str, int]]:
        mine = [each for each in self.got[name] if each.source.connection_id == connection]
        return [(each.name, each.event_id) for each in mine]


def with_brokers(*names: str) -> Callable[[Callable[[World, Brokers], Awaitable[None]]], Callable[[], None]]:
    def decorate(body: Callable[[World, Brokers], Awaitable[None]]) -> Callable[[], None]:
        async def whole() -> None:
            world = World(1)
            world.listeners = brokers = Brokers(*names)
            try:
                await body(world, brokers)
            finally:
                await world.close()

        def test() -> None:
            run(whole())

        return test

    return decorate


TWICE = [("connected", 1), ("disconnected", 2)]


@with_brokers("a", "b")
async def test_each_listener_and_the_handler_get_a_copy_of_the_same_number(
    world: World, brokers: Brokers
) -> None:
    gateway = world.gateway("g1")
    gateway.open("c1")
    await asyncio.sleep(1)
    gateway.close("c1", "bye")
    await world.until(world.settled)
    assert [(each.name, each.number) for each in world.told["c1"]] == TWICE
    assert brokers.events("a", "c1") == brokers.events("b", "c1") == TWICE
    assert brokers.got["a"][1].reason == "bye"


@with_brokers("a")
async def test_listeners_are_told_of_the_clients_of_a_gateway_that_was_killed(
    world: World, brokers: Brokers
) -> None:
    """They were not: what a gateway had queued for them died with it, and nobody told of the ends."""
    world.settings = HubSettings()  # no handler
    gateway = world.gateway("g1")
    world.gateway("g2")
    brokers.away.add("a")
    gateway.open("c1")
    await asyncio.sleep(3)
    await gateway.kill()
    brokers.away.clear()
    await world.until(world.settled)
    assert [name for name, _ in brokers.events("a", "c1")] == ["connected", "disconnected"]
    assert world.told == {}


@with_brokers("a", "b")
async def test_a_broker_that_is_away_delays_neither_the_handler_nor_another_broker(
    world: World, brokers: Brokers
) -> None:
    gateway = world.gateway("g1")
    brokers.away.add("a")
    gateway.open("c1")
    gateway.close("c1")
    await world.until(lambda: brokers.events("b", "c1") == TWICE and len(world.told["c1"]) == 2)
    assert brokers.got["a"] == []
    brokers.away.clear()
    await world.until(world.settled)
    assert brokers.events("a", "c1") == TWICE
    assert brokers.events("b", "c1") == TWICE, "no repeat for those who have it"


@with_brokers("a")
async def test_a_copy_for_a_listener_has_no_cookies_of_the_handler(world: World, brokers: Brokers) -> None:
    gateway = world.gateway("g1")
    gateway.open("c1")
    source = gateway.clients["c1"].source
    source.store_cookies("http://app.example/", ["session=secret"], 0.0)
    source.state = "cart=3"
    gateway.close("c1")
    await world.until(world.settled)
    last = brokers.got["a"][1].source
    assert source.cookies != ()
    assert (last.cookies, last.state) == ((), "cart=3")


@with_brokers("a")
async def test_listeners_of_a_gateway_that_is_believed_dead_are_told_once_in_order(
    world: World, brokers: Brokers
) -> None:
    gateway, heir = world.gateway("g1"), world.gateway("g2")
    for number in range(20):
        gateway.open(f"c{number}")
    await asyncio.sleep(3)
    gateway.valid = False
    await world.until(lambda: len(brokers.got["a"]) == 40)
    await world.until(lambda: heir.notifier.waiting == 0)
    for number in range(20):
        assert [name for name, _ in brokers.events("a", f"c{number}")] == ["connected", "disconnected"]
