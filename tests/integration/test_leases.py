"""Leases over a real nats-server: what the simulated one of tests/unit/test_leases.py assumes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.members import until
from support.nats import NatsCluster, NatsServer

from hubwire.bus.client import BusClient
from hubwire.bus.owners import open_bucket
from hubwire.bus.subjects import LEASES_BUCKET, lease_subject
from hubwire.model.errors import Unavailable
from hubwire.runtime.lease_bucket import (
    NOTHING,
    LeaseMessage,
    list_entries,
    margin_of,
    read_entry,
    read_leases,
    store_if,
)
from hubwire.runtime.leases import Lease, LeaseWatch

TTL = 3.0
"""Nobody's lease may end here because the machine stood still for a moment."""


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path) as server:
        yield server


async def connect(*urls: str) -> BusClient:
    return await BusClient.connect(
        {"servers": list(urls), "max_reconnect_attempts": -1, "reconnect_time_wait": 0.05}
    )


@pytest.fixture
async def bus(nats: NatsServer) -> AsyncIterator[BusClient]:
    bus = await connect(nats.url)
    yield bus
    await bus.close()


async def on_server(bus: BusClient, node: NatsServer, cluster: NatsCluster) -> None:
    """Have a connection go to this one of the servers."""
    for _ in range(30 * len(cluster.nodes)):  # it goes to any of the others
        if bus.server == node.url.removeprefix("nats://"):
            return
        back = asyncio.Event()
        bus.on_reconnect(back.set)
        await bus.nats._process_op_err(ConnectionError("the test wants another server"))
        async with asyncio.timeout(30):
            await back.wait()
    raise AssertionError(f"never on {node.url}")


@asynccontextmanager
async def running(*work: Awaitable[None]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def lease_of(bus: BusClient, name: str, *, memory: bool = True, replicas: int = 1) -> Lease:
    return Lease(bus, "router", name, TTL, memory=memory, replicas=replicas)


async def stored_renewal(bus: BusClient, lease: Lease) -> int:
    """The number of the renewal that the bucket holds; 0 when there is none, or no answer."""
    try:
        return (await read_entry(bus, lease.role, lease.name)).renewal
    except Unavailable:
        return 0


async def until_renewed(bus: BusClient, lease: Lease, after: int = 0) -> None:
    """Wait until the bucket holds a renewal with a higher number."""
    async with asyncio.timeout(30):
        while await stored_renewal(bus, lease) <= after:  # noqa: ASYNC110 - the bucket is asked
            await asyncio.sleep(0.02)


async def test_compare_and_set_of_an_entry(bus: BusClient) -> None:
    await open_bucket(bus.js, LEASES_BUCKET, memory=True, replicas=1)
    subject = lease_subject("router", "a")
    assert await read_entry(bus, "router", "a") is NOTHING
    first = await store_if(bus, subject, LeaseMessage(1, TTL).pack(), 0, 2)
    assert first
    assert await store_if(bus, subject, LeaseMessage(2, TTL).pack(), 0, 2) is None
    second = await store_if(bus, subject, LeaseMessage(2, TTL).pack(), first, 2)
    assert second
    assert second > first
    assert await read_entry(bus, "router", "a") == (second, 2, TTL, False)
    assert await store_if(bus, subject, LeaseMessage(2, 0.0, ending=True).pack(), first, 2) is None
    ended = await store_if(bus, subject, LeaseMessage(2, 0.0, ending=True).pack(), second, 2)
    assert await read_entry(bus, "router", "a") == (ended, 2, 0.0, True)


async def test_without_a_bucket_everything_says_so(bus: BusClient) -> None:
    with pytest.raises(Unavailable):
        await read_entry(bus, "router", "a")
    with pytest.raises(Unavailable):
        await store_if(bus, lease_subject("router", "a"), b"", 0, 0.3)
    assert await list_entries(bus, "router") == ({}, 0.0, 0.0)


async def test_all_entries_of_a_role_are_listed_with_their_age(bus: BusClient) -> None:
    leases = [lease_of(bus, f"r{number}") for number in range(120)]
    await leases[0].acquire()
    await asyncio.gather(*(lease.acquire() for lease in leases[1:]))
    await Lease(bus, "gateway", "g", TTL, memory=True, replicas=1).acquire()
    listing = await list_entries(bus, "router")
    assert set(listing.entries) == {f"r{number}" for number in range(120)}
    assert all(0 <= age < 10 and entry.renewal == 1 for entry, age in listing.entries.values())
    assert 0 <= listing.bucket_age < 10
    assert set(await read_leases(bus)) == {f"router.r{n}" for n in range(120)} | {"gateway.g"}


async def test_a_name_that_could_break_the_subject_is_none_of_ours(bus: BusClient) -> None:
    await open_bucket(bus.js, LEASES_BUCKET, memory=True, replicas=1)
    bucket = await bus.js.key_value(LEASES_BUCKET)
    await bucket.put("router.a.b", LeaseMessage(1, TTL).pack())
    await bucket.put("router.deleted", LeaseMessage(1, TTL).pack())
    await bucket.delete("router.deleted")
    listing = await list_entries(bus, "router")
    assert set(listing.entries) == {"deleted"}
    assert listing.entries["deleted"][0].ended


async def test_holders_and_readers_over_a_real_bucket(nats: NatsServer, bus: BusClient) -> None:
    reader = await connect(nats.url)
    lease, watch = lease_of(bus, "a"), LeaseWatch(reader, "router", default_ttl=TTL, judges=True)
    await lease.acquire()
    async with running(watch.run()):
        await watch.ready()
        assert watch.alive == {"a"}
        async with running(lease.run()):
            await until_renewed(reader, lease, 4)  # three quarters of it and more have passed
            assert lease.valid
            assert watch.alive == {"a"}
            await lease.leave()
            assert watch.leaving == {"a"}
        begin = asyncio.get_running_loop().time()
        await until(lambda: watch.certainly_ended("a"), 30)
        assert not lease.valid
        assert asyncio.get_running_loop().time() - begin > TTL / 2
        assert (await read_entry(bus, "router", "a")).ended
        # It comes back, and finds out.
        lost = asyncio.Event()
        lease.on_lost = lost.set
        async with running(lease.run()), asyncio.timeout(30):
            await lost.wait()
        assert not lease.valid
    await reader.close()


async def test_the_bucket_of_a_memory_mode_server_is_made_again(nats: NatsServer, bus: BusClient) -> None:
    lease = lease_of(bus, "a")
    watch = LeaseWatch(bus, "router", default_ttl=TTL, judges=True)
    lost: list[str] = []
    lease.on_lost = lambda: lost.append("a")
    await lease.acquire()
    async with running(lease.run(), watch.run()):
        await watch.ready()
        for _ in range(2):
            await asyncio.to_thread(nats.kill)
            await asyncio.to_thread(nats.start)
            await until(lambda: bus.connected, 30)
            await until_renewed(bus, lease, 1)
            await until(lambda: lease.valid and watch.complete, 30)
        assert watch.alive == {"a"}
    assert not lost


async def test_a_bucket_that_somebody_deletes_is_made_again_although_readers_listen(bus: BusClient) -> None:
    # Their subscription hides from the holder that no stream listens: its renewal just gets no answer.
    lease, watch = lease_of(bus, "a"), LeaseWatch(bus, "router", default_ttl=TTL)
    await lease.acquire()
    async with running(lease.run(), watch.run()):
        await watch.ready()
        await bus.js.delete_key_value(LEASES_BUCKET)
        await until_renewed(bus, lease)
        await until(lambda: lease.valid, 30)


async def test_leases_on_three_nodes_survive_the_loss_of_one(tmp_path: Path) -> None:
    with NatsCluster(tmp_path) as cluster:
        buses = [await connect(*cluster.urls[n:], *cluster.urls[:n]) for n in range(3)]
        leases = [lease_of(bus, f"r{n}", memory=False, replicas=3) for n, bus in enumerate(buses)]
        lost: list[str] = []
        for lease in leases:
            lease.on_lost = lambda name=lease.name: lost.append(name)  # type: ignore[misc]
        for lease in leases:
            await lease.acquire()
        watches = [LeaseWatch(bus, "router", default_ttl=TTL, judges=True) for bus in buses]
        async with running(*(one.run() for one in [*leases, *watches])):
            await asyncio.gather(*(watch.ready() for watch in watches))
            info = await buses[0].js.stream_info(f"KV_{LEASES_BUCKET}")
            assert info.cluster is not None
            leader = next(node for node in cluster.nodes if node.settings.name == info.cluster.leader)
            await asyncio.to_thread(leader.kill)
            # Servers wait for four seconds and more before they elect another leader.
            await until(lambda: not all(lease.valid for lease in leases), 30)
            await until(lambda: all(lease.valid for lease in leases), 40)
            assert not lost, "while nothing could be stored, nobody was believed dead"
            await until(lambda: all(len(watch.alive) == 3 for watch in watches), 30)
        for bus in buses:
            await bus.close()


async def test_a_server_that_hangs_is_left_for_another_before_the_lease_can_be_ended(tmp_path: Path) -> None:
    # Without the holder's own suspicion only the pings tell, after three of them: minutes here. With it, a
    # quarter of the lease passes before the next renewal, and it takes two seconds.
    with NatsCluster(tmp_path) as cluster:
        bus, reader = await connect(*cluster.urls), await connect(*cluster.urls)
        ttl = 12.0
        lease = Lease(bus, "gateway", "a", ttl, memory=False, replicas=3)
        lost: list[str] = []
        lease.on_lost = lambda: lost.append("a")
        await lease.acquire()
        info = await reader.js.stream_info(f"KV_{LEASES_BUCKET}")
        assert info.cluster is not None
        hung = next(node for node in cluster.nodes if node.settings.name != info.cluster.leader)
        await on_server(bus, hung, cluster)
        await on_server(reader, next(node for node in cluster.nodes if node is not hung), cluster)
        watch = LeaseWatch(reader, "gateway", default_ttl=ttl, judges=True)
        heard: list[tuple[str, bool]] = []
        watch.on_change(lambda name, alive: heard.append((name, alive)))
        async with running(lease.run(), watch.run()):
            await watch.ready()
            await until_renewed(reader, lease, 1)  # through the server that will hang
            before = await stored_renewal(reader, lease)
            hung.pause()
            try:
                await until(lambda: bus.connected and bus.server != hung.url.removeprefix("nats://"), 30)
                await until_renewed(reader, lease, before)
                await until(lambda: lease.valid, 30)
                assert watch.alive == {"a"}
                assert ("a", False) not in heard
                assert not lost
            finally:
                hung.resume()
        await bus.close()
        await reader.close()


def test_the_margin_leaves_room_on_both_sides() -> None:
    for ttl in (0.6, 1.2, 5.0):
        assert 0 < margin_of(ttl) < ttl / 4
