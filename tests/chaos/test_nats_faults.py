"""NATS is restarted, loses its memory, is away for long, hangs, or loses the node that leads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import nats as nats_client
import pytest
from support.members import HUB, Member, assert_all_arrive, until
from support.nats import NatsCluster, NatsServer
from support.observer import Observer, observe
from support.processes import Fleet, Role
from support.traffic import GROUPS, Traffic

from controlplane.ports import Target
from hubwire.bus.subjects import LEASES_BUCKET, OWNERS_BUCKET

ON_THEIR_WAY_SECONDS = 1.0
"""What was published so shortly before a cut may have been on its way when it came."""


async def assert_membership_is_right(observer: Observer, traffic: Traffic) -> None:
    """Joins, leaves, newcomers and existence, all after the fault, on every gateway."""
    for number, member in enumerate(traffic.members):
        group, mark = f"after-{number}", f"after-{number} 0"
        assert await member.join(group)
        assert await traffic.publishers[0].publish(group, mark)
        await assert_all_arrive(member, group, [mark])
        assert await member.leave(group)
        assert await observer.cluster.exists(HUB, Target("user", member.user))

    async def nobody() -> bool:
        return not any([await observer.cluster.exists(HUB, Target("group", f"after-{n}")) for n in range(2)])

    end = time.monotonic() + 5
    while not await nobody():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
    assert not await observer.cluster.exists(HUB, Target("user", "nobody"))


@asynccontextmanager
async def under_fault(
    fleet: Fleet, fault: Callable[[], Awaitable[None]], *, seconds: float = 30.0
) -> AsyncIterator[tuple[Observer, Traffic]]:
    """Messages flow, the fault happens, messages flow again; afterwards everything is looked over."""
    _, _, here, there = fleet.start_all("router", "router", "gateway", "gateway")
    async with observe(fleet.config) as observer:
        traffic = await Traffic.start(here, there)
        await traffic.flow(50)
        cut = time.monotonic()
        await fault()
        await traffic.flow(50, seconds)
        back = time.monotonic()
        assert all(member.open for member in [*traffic.members, *traffic.publishers]), (
            "clients stay connected"
        )
        yield observer, traffic
        await assert_membership_is_right(observer, traffic)
        await traffic.flow(20)
        await traffic.stop()
        print("longest outage in seconds:", max(traffic.longest_outages.values()))
        await traffic.assert_nothing_lost(except_within=[(cut - ON_THEIR_WAY_SECONDS, back)])
        await traffic.close()


async def test_nats_is_restarted_and_everything_reconnects_by_itself(fleet: Fleet, nats: NatsServer) -> None:
    async def restart() -> None:
        await asyncio.to_thread(nats.kill)
        await asyncio.to_thread(nats.start)

    async with under_fault(fleet, restart) as (observer, _):
        owners = observer.owners_named()
        assert len(owners) == 2
        assert "" not in owners


async def test_clients_stay_connected_while_nats_is_away_for_longer_than_every_lease(
    fleet: Fleet, nats: NatsServer
) -> None:
    names: set[str] = set()

    async def away() -> None:
        await asyncio.to_thread(nats.kill)
        await asyncio.sleep(2 * fleet.config.lease_seconds)  # the fault itself
        await asyncio.to_thread(nats.start)

    async with under_fault(fleet, away) as (observer, _):
        names |= observer.gateways.alive
        assert len(names) == 2
    lost = [line for service in fleet.services for line in service.lines() if "lease_lost" in line]
    assert not lost, "nobody could have ended a lease, so nobody took a new name"


async def test_a_memory_mode_nats_that_restarts_gets_settings_owners_and_leases_back(tmp_path: Path) -> None:
    with (
        NatsServer(tmp_path) as nats,
        Fleet(tmp_path, [nats.url], durability="memory") as fleet,
    ):

        async def forget() -> None:
            await asyncio.to_thread(nats.kill)
            await asyncio.to_thread(nats.start)

        async with under_fault(fleet, forget) as (observer, traffic):
            js = observer.bus.js
            await until(lambda: "" not in observer.owners_named(), 5)
            for bucket in (OWNERS_BUCKET, LEASES_BUCKET, "hw_settings"):
                assert (await (await js.key_value(bucket)).status()).values > 0
            # The keys came back: a client whose token they verify is let in, by either gateway.
            for service in fleet.services[2:]:
                async with await Member.connect(service, "newcomer") as newcomer:
                    assert await newcomer.join(GROUPS[0])
                    mark = f"new-{service.port} 0"
                    assert await traffic.publishers[3].publish(GROUPS[0], mark)
                    await assert_all_arrive(newcomer, GROUPS[0], [mark])


@pytest.mark.parametrize("role", ["router", "gateway"])
async def test_what_starts_before_nats_waits_for_it_and_stops_when_it_is_told(
    fleet: Fleet, nats: NatsServer, role: Role
) -> None:
    await asyncio.to_thread(nats.kill)
    waiting, told = fleet.make(role).launch(), fleet.make(role).launch()
    for service in (waiting, told):
        await until(lambda one=service: any("nats_not_reached_yet" in line for line in one.lines()), 20)
    assert await asyncio.to_thread(told.stop) == 0
    await asyncio.to_thread(nats.start)
    await asyncio.to_thread(waiting.wait_ready)


async def test_nats_hangs_for_a_while_and_goes_on(fleet: Fleet, nats: NatsServer) -> None:
    async def hang() -> None:
        nats.pause()
        await asyncio.sleep(fleet.config.lease_seconds + 1)  # the fault itself
        nats.resume()

    async with under_fault(fleet, hang):
        pass


@pytest.mark.parametrize("stream", [f"KV_{LEASES_BUCKET}", f"KV_{OWNERS_BUCKET}"])
async def test_the_leader_of_a_three_node_nats_is_killed(tmp_path: Path, stream: str) -> None:
    with (
        NatsCluster(tmp_path) as cluster,
        Fleet(tmp_path, cluster.urls, durability="replicated") as fleet,
    ):

        async def kill_leader() -> None:
            connection = await nats_client.connect(cluster.urls)
            info = await connection.jetstream().stream_info(stream)
            assert info.cluster is not None
            await connection.close()
            leader = next(node for node in cluster.nodes if node.settings.name == info.cluster.leader)
            await asyncio.to_thread(leader.kill)

        async with under_fault(fleet, kill_leader) as (observer, _):
            assert "" not in observer.owners_named()


@pytest.mark.parametrize("leads", [False, True])
async def test_a_node_that_hangs_is_left_for_another_and_clients_stay_connected(
    tmp_path: Path, leads: bool
) -> None:
    # Nothing is told: the sockets stay open, and nothing is answered. (With the default lease.)
    with (
        NatsCluster(tmp_path) as cluster,
        Fleet(tmp_path, cluster.urls, durability="replicated", lease_seconds=5.0) as fleet,
    ):
        _, _, here, there = fleet.start_all("router", "router", "gateway", "gateway")
        async with observe(fleet.config) as observer:
            traffic = await Traffic.start(here, there)
            await traffic.flow(30)
            leaders = []
            for bucket in (LEASES_BUCKET, OWNERS_BUCKET):
                info = await observer.bus.js.stream_info(f"KV_{bucket}")
                assert info.cluster is not None
                leaders.append(info.cluster.leader)
            # When it led, nothing can be stored until NATS has elected another, up to ten seconds.
            hung = next(
                node
                for node in cluster.nodes
                if (node.settings.name == leaders[0] if leads else node.settings.name not in leaders)
            )
            cut = time.monotonic()
            hung.pause()
            try:
                await traffic.flow(30, 40)
                await assert_membership_is_right(observer, traffic)  # so everybody has left it
                back = time.monotonic()
            finally:
                hung.resume()
            await traffic.flow(30)
        await traffic.stop()
        print("longest outage in seconds:", max(traffic.longest_outages.values()))
        assert all(member.open for member in [*traffic.members, *traffic.publishers])
        assert not [line for one in (here, there) for line in one.lines() if "lease_lost" in line]
        await traffic.assert_nothing_lost(except_within=[(cut - ON_THEIR_WAY_SECONDS, back)])
        await traffic.close()
