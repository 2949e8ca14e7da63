"""Notifications to application servers while gateways, routers, upstreams and NATS fail.

What must be true afterwards: everything was told, `disconnected` once for every connection that was
announced, never before its `connected`, and nothing waits any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from support.members import Member, until
from support.nats import NatsServer
from support.notified import Application, Cluster, application, behind, visitors
from support.processes import Fleet, Service

GATEWAYS = 2


@pytest.fixture
def fleet(tmp_path: Path, nats: NatsServer) -> Iterator[Fleet]:
    with Fleet(tmp_path, [nats.url], lease_seconds=1.0) as fleet:
        fleet.config = fleet.config.replace(upstream_addresses="any")
        yield fleet
        print(fleet.logs())


@pytest_asyncio.fixture
async def app() -> AsyncIterator[Application]:
    async with application() as app:
        yield app


@pytest_asyncio.fixture
async def cluster(fleet: Fleet) -> AsyncIterator[Cluster]:
    async with behind(fleet.config) as cluster:
        yield cluster


async def start(fleet: Fleet, cluster: Cluster, app: Application, routers: int = 1) -> list[Service]:
    """Routers, then two gateways, which know the handler before the first client comes."""
    services = fleet.start_all(*["router"] * routers, *["gateway"] * GATEWAYS)
    await cluster.handle(app.url, presence=True)
    return services


@pytest_asyncio.fixture
async def gateways(fleet: Fleet, cluster: Cluster, app: Application) -> list[Service]:
    """Two, and a router; all know the handler."""
    return (await start(fleet, cluster, app))[1:]


async def connect_all(gateway: Service, count: int, name: str = "client") -> list[Member]:
    return list(await asyncio.gather(*(Member.connect(gateway, f"{name}-{n}") for n in range(count))))


async def close_all(members: list[Member]) -> None:
    await asyncio.gather(*(member.close() for member in members))


def ids(members: list[Member]) -> set[str]:
    return {member.connection_id for member in members}


def told_ids(app: Application, name: str) -> set[str]:
    return {each.connection_id for each in app.of(name)}


async def test_every_connection_is_announced_and_its_end_is_told_once(
    gateways: list[Service], cluster: Cluster, app: Application
) -> None:
    here, there = gateways
    members = [*await connect_all(here, 20), *await connect_all(there, 20)]
    assert await members[0].join("room")
    assert await members[0].leave("room")
    await until(lambda: told_ids(app, "connected") == ids(members), 10, "all are announced")
    await close_all(members)
    await until(lambda: told_ids(app, "disconnected") == ids(members), 10, "all ends are told")
    first = [each for each in app.told if each.connection_id == members[0].connection_id]
    assert [(each.name, each.number) for each in first] == [
        ("connected", 1),
        ("joined", 2),
        ("left", 3),
        ("disconnected", 4),
    ]
    app.assert_in_order()
    await cluster.until_empty(GATEWAYS)


async def test_the_clients_of_a_gateway_that_is_killed_are_told_to_be_gone_once_each(
    gateways: list[Service], cluster: Cluster, app: Application
) -> None:
    victim, here = gateways
    ghosts, staying = await connect_all(victim, 40, "ghost"), await connect_all(here, 5, "stays")
    await until(lambda: told_ids(app, "connected") == ids(ghosts) | ids(staying), 10)
    await cluster.until_nothing_waits()
    await asyncio.to_thread(victim.kill)
    await until(lambda: told_ids(app, "disconnected") == ids(ghosts), 15, "all ghosts are told")
    assert {each.body["reason"] for each in app.of("disconnected")} == {
        "The gateway of the connection was lost."
    }
    await cluster.until_empty(1 + len(staying))
    app.assert_in_order()
    await close_all(staying)
    await until(lambda: told_ids(app, "disconnected") == ids(ghosts) | ids(staying), 10)
    app.assert_in_order()
    await cluster.until_empty(1)
    await close_all(ghosts)


async def test_events_that_a_killed_gateway_had_on_their_way_are_sent_by_another(
    gateways: list[Service], cluster: Cluster, app: Application
) -> None:
    victim, _ = gateways
    gate = asyncio.Event()

    async def after_the_death(_name: str, _connection: str) -> int:
        await gate.wait()
        return 204

    app.answer = after_the_death
    ghosts = await connect_all(victim, 40, "ghost")
    assert await ghosts[0].join("room")
    await ghosts[1].close()
    await until(lambda: len(app.in_progress) == 32, 10, "as many as go out at a time")
    await asyncio.to_thread(victim.kill)
    app.told.clear()
    app.in_progress.clear()  # whoever asked does not hear the answer
    app.overlaps.clear()
    gate.set()
    await until(lambda: told_ids(app, "disconnected") == ids(ghosts), 20)
    assert told_ids(app, "connected") == ids(ghosts)
    assert [each.connection_id for each in app.of("joined")] == [ghosts[0].connection_id]
    app.overlaps.clear()  # a request of before the death may still be answered
    app.assert_in_order(repeats=32)
    await cluster.until_empty(1)
    await close_all(ghosts)


async def test_an_upstream_that_was_down_gets_everything_when_it_is_back_and_delays_nobody_else(
    gateways: list[Service], cluster: Cluster, app: Application
) -> None:
    here, there = gateways
    await app.stop()
    members = [*await connect_all(here, 20), *await connect_all(there, 20)]
    assert await members[0].join("room")
    await close_all(members)
    async with application() as other:
        await cluster.handle(other.url, "other")
        async with visitors(here, "other", 3):
            await until(lambda: len(other.of("connected")) == 3, 5, "another upstream's are not delayed")
        await until(lambda: len(other.of("disconnected")) == 3, 5)
        other.assert_in_order()
    # Long enough for every attempt of a turn (9 s) to fail, and the circuit to open.
    await asyncio.sleep(10)
    assert await cluster.letters.list() == []
    await app.start()
    await until(lambda: told_ids(app, "disconnected") == ids(members), 60)
    assert told_ids(app, "connected") == ids(members)
    app.assert_in_order()
    await cluster.until_empty(GATEWAYS)


async def test_an_upstream_that_hangs_costs_its_own_events_time_and_loses_none(
    fleet: Fleet, cluster: Cluster, app: Application
) -> None:
    fleet.config = fleet.config.replace(upstream_seconds=1.0)
    _, here, _ = await start(fleet, cluster, app)
    gate = asyncio.Event()

    async def hang(_name: str, _connection: str) -> int:
        await gate.wait()
        return 204

    app.answer = hang
    members = await connect_all(here, 100)
    await until(lambda: len(app.in_progress) == 32, 5, "as many as go out at a time, and no more")
    await close_all(members)
    async with application() as other:
        await cluster.handle(other.url, "other")
        async with visitors(here, "other", 3):
            await until(lambda: len(other.of("connected")) == 3, 5, "another upstream's are not delayed")
        await until(lambda: len(other.of("disconnected")) == 3, 5)
    await asyncio.sleep(2)  # for the circuit to open
    gate.set()
    await until(lambda: told_ids(app, "disconnected") == ids(members), 40)
    assert told_ids(app, "connected") == ids(members)
    app.overlaps.clear()  # the one that hung is still here when it is asked again
    app.assert_in_order(repeats=200)
    assert await cluster.letters.list() == []
    await cluster.until_empty(GATEWAYS)


async def test_events_are_told_though_the_router_dies_while_another_gateway_takes_over(
    fleet: Fleet, cluster: Cluster, app: Application
) -> None:
    first, second, victim, _ = await start(fleet, cluster, app, routers=2)
    ghosts = await connect_all(victim, 60, "ghost")
    await until(lambda: told_ids(app, "connected") == ids(ghosts), 10)
    await cluster.until_nothing_waits()

    async def slowly(_name: str, _connection: str) -> int:
        await asyncio.sleep(0.3)
        return 204

    app.answer = slowly
    await asyncio.to_thread(victim.kill)
    await until(lambda: len(app.of("disconnected")) > 3, 15, "the take-over has begun")
    await asyncio.to_thread(first.kill)
    await until(lambda: told_ids(app, "disconnected") == ids(ghosts), 20)
    app.assert_in_order()
    await cluster.until_empty(1)
    assert second.running
    await close_all(ghosts)


async def test_when_the_gateway_that_takes_over_dies_too_a_third_one_goes_on(
    gateways: list[Service], cluster: Cluster, app: Application
) -> None:
    victim, heir = gateways
    ghosts = await connect_all(victim, 60, "ghost")
    await until(lambda: told_ids(app, "connected") == ids(ghosts), 10)
    await cluster.until_nothing_waits()

    async def slowly(_name: str, _connection: str) -> int:
        await asyncio.sleep(0.3)
        return 204

    app.answer = slowly
    await asyncio.to_thread(victim.kill)
    await until(lambda: len(app.of("disconnected")) > 3, 15, "the take-over has begun")
    await asyncio.to_thread(heir.kill)
    await asyncio.to_thread(heir.start)
    await until(lambda: told_ids(app, "disconnected") == ids(ghosts), 20)
    app.overlaps.clear()
    app.assert_in_order(repeats=32)  # those that were out when it died
    await cluster.until_empty(1)
    await close_all(ghosts)


async def test_a_restart_of_nats_loses_no_event(
    gateways: list[Service], cluster: Cluster, app: Application, nats: NatsServer
) -> None:
    here, there = gateways
    members = [*await connect_all(here, 10), *await connect_all(there, 10)]
    await asyncio.to_thread(nats.kill)
    await close_all(members)
    await asyncio.to_thread(nats.start)
    await until(lambda: told_ids(app, "disconnected") == ids(members), 20)
    assert told_ids(app, "connected") == ids(members)
    app.assert_in_order()
    await cluster.until_empty(GATEWAYS)


async def test_a_nats_server_that_forgets_everything_is_told_again_who_is_there(
    nats: NatsServer, tmp_path: Path, app: Application
) -> None:
    with Fleet(tmp_path / "memory", [nats.url], durability="memory", lease_seconds=1.0) as fleet:
        fleet.folder.mkdir()
        fleet.config = fleet.config.replace(upstream_addresses="any")
        async with behind(fleet.config) as cluster:
            _, victim, here = await start(fleet, cluster, app)
            ghosts, staying = await connect_all(victim, 10, "ghost"), await connect_all(here, 10, "stays")
            await until(lambda: told_ids(app, "connected") == ids(ghosts) | ids(staying), 10)
            await cluster.until_nothing_waits()
            before = await cluster.records()
            await asyncio.to_thread(nats.restart)
            await cluster.until_records(before)
            await asyncio.to_thread(victim.kill)
            await until(lambda: told_ids(app, "disconnected") == ids(ghosts), 20)
            await close_all([*ghosts, *staying])
            await until(lambda: told_ids(app, "disconnected") == ids(ghosts) | ids(staying), 10)
            app.assert_in_order()
            await cluster.until_empty(1)


async def test_a_gateway_that_was_paused_for_longer_than_its_lease_tells_nothing_twice(
    gateways: list[Service], cluster: Cluster, app: Application
) -> None:
    paused, _ = gateways
    sleepers = await connect_all(paused, 20, "sleeper")
    await until(lambda: told_ids(app, "connected") == ids(sleepers), 10)
    await cluster.until_nothing_waits()
    paused.pause()
    await until(lambda: told_ids(app, "disconnected") == ids(sleepers), 15)
    paused.resume()
    await asyncio.gather(*(member.closed() for member in sleepers))
    again = await connect_all(paused, 5, "again")
    await until(lambda: told_ids(app, "connected") == ids(sleepers) | ids(again), 10)
    await close_all(again)
    await until(lambda: told_ids(app, "disconnected") == ids(sleepers) | ids(again), 10)
    app.assert_in_order()
    await cluster.until_empty(GATEWAYS)
    await close_all(sleepers)


async def test_a_gateway_that_is_stopped_tells_of_its_clients_before_it_goes(
    gateways: list[Service], cluster: Cluster, app: Application
) -> None:
    leaver, _ = gateways
    members = await connect_all(leaver, 20)
    assert await asyncio.to_thread(leaver.stop) == 0
    assert told_ids(app, "disconnected") == ids(members)
    app.assert_in_order()
    await cluster.until_empty(1)
    await close_all(members)


async def test_what_a_stopped_gateway_could_not_tell_is_told_by_another(
    gateways: list[Service], cluster: Cluster, app: Application
) -> None:
    leaver, _ = gateways
    members = await connect_all(leaver, 20)
    await until(lambda: told_ids(app, "connected") == ids(members), 10)
    gate = asyncio.Event()

    async def later(_name: str, _connection: str) -> int:
        await gate.wait()
        return 204

    app.answer = later
    assert await asyncio.to_thread(leaver.stop) == 0
    app.told.clear()
    gate.set()
    await until(lambda: told_ids(app, "disconnected") == ids(members), 15)
    assert {each.number for each in app.of("disconnected")} == {2}
    await cluster.until_empty(1)
    await close_all(members)


async def test_an_event_that_is_refused_for_good_is_a_dead_letter_that_can_be_sent_again(
    gateways: list[Service], cluster: Cluster, app: Application
) -> None:
    here, _ = gateways

    async def no(_name: str, _connection: str) -> int:
        return 404

    yes, app.answer = app.answer, no
    (member,) = await connect_all(here, 1)
    (kept,) = await cluster.dead_letters(1)
    assert (kept.letter.event, kept.letter.status, kept.letter.category) == ("connected", 404, "status")
    assert kept.letter.connection_id == member.connection_id
    assert "404" in kept.letter.reason
    assert app.of("connected") == []

    app.answer = yes
    await cluster.letters.retry(kept.id, now=kept.letter.given_up)
    await until(lambda: told_ids(app, "connected") == ids([member]), 10)
    assert app.of("connected")[0].number == 1
    assert await cluster.letters.list() == []
    await member.close()
    await until(lambda: told_ids(app, "disconnected") == ids([member]), 10)
    await cluster.until_empty(GATEWAYS)
