"""Gateways die, are believed dead, and lose requests and answers at random: who is told what, how often."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.event_world import Gateway, World
from support.virtual_time import run

STEPS = 120
LONG_ENOUGH = 20.0
"""Seconds after which what a gateway was told of is stored for certain."""


async def _live(world: World) -> tuple[dict[str, float], dict[str, float], dict[str, tuple[str, float]]]:
    """Random lives of gateways and clients. When each connection was announced and closed by its client; and
    which gateway it was at, with the time at which that died."""
    chance, loop = world.chance, asyncio.get_running_loop()
    opened: dict[str, float] = {}
    closed: dict[str, float] = {}
    home: dict[str, Gateway] = {}
    died: dict[str, float] = {}
    names = 0
    for _ in range(2):
        names += 1
        world.gateway(f"g{names}")
    world.faults = chance.choice((0.0, 0.02, 0.2))
    for _ in range(STEPS):
        await asyncio.sleep(chance.choice((0.0, 0.01, 0.1, 1.0)))
        gateway = chance.choice(world.alive())
        step = chance.random()
        if step < 0.5:
            connection = f"c{len(opened)}"
            opened[connection] = loop.time()
            home[connection] = gateway
            gateway.open(connection)
        elif step < 0.6 and gateway.clients:
            gateway.join(chance.choice([*gateway.clients]), "room")
        elif step < 0.85 and gateway.clients:
            connection = chance.choice([*gateway.clients])
            closed[connection] = loop.time()
            gateway.close(connection, "bye")
        elif step < 0.92:
            names += 1
            world.gateway(f"g{names}")
        elif len(world.alive()) > 1:
            died[gateway.name] = loop.time()
            if chance.random() < 0.5:
                await gateway.kill()
            else:
                gateway.valid = False  # its lease was ended, and it does not know yet
                for connection in [*gateway.clients]:
                    if chance.random() < 0.5:
                        gateway.close(connection, "It is going away.")
    world.faults = 0.0
    for gateway in world.alive():
        for connection in [*gateway.clients]:
            closed[connection] = loop.time()
            gateway.close(connection, "bye")
    never = float("inf")
    return opened, closed, {c: (g.name, died.get(g.name, never)) for c, g in home.items()}


def simulate(body: Callable[[World], Awaitable[None]], seed: int) -> None:
    async def whole() -> None:
        world = World(seed)
        try:
            await body(world)
        finally:
            await world.close()

    run(whole())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
@example(518648076)  # `joined` was stored, and the gateway died before `connected` was
def test_connected_and_disconnected_are_told_once_and_in_order_whatever_dies(seed: int) -> None:
    async def body(world: World) -> None:
        opened, closed, home = await _live(world)
        await world.until(world.settled)
        assert world.letters.kept == []
        for connection, at in opened.items():
            told = world.once(connection)
            names = [each.name for each in told]
            numbers = [each.number for each in told]
            assert numbers == sorted(numbers), told
            assert names[:1] in ([], ["connected"]), told
            assert names.count("disconnected") == names.count("connected"), told
            assert "disconnected" not in names[:-1], told
            _, death = home[connection]
            if death - at > LONG_ENOUGH:
                assert names[:1] == ["connected"], (connection, told)
            if told and closed.get(connection, death) < death - LONG_ENOUGH:
                assert told[-1].reason == "bye"

    simulate(body, seed)
