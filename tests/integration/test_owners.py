"""The ownership table in its bucket (hubwire.bus.owners), with a real nats-server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.members import until
from support.nats import NatsServer

from hubwire.bus.client import BusClient
from hubwire.bus.keys import PARTITIONS
from hubwire.bus.owners import EMPTY_TABLE, OwnersStore, OwnersTable, OwnersView
from hubwire.bus.subjects import OWNERS_BUCKET, OWNERS_CHANGED, OWNERS_KEY
from hubwire.model.errors import InvalidRequest, Unavailable

NOW_MS = 1_700_000_000_000


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path) as server:
        yield server


@pytest.fixture
async def bus(nats: NatsServer) -> AsyncIterator[BusClient]:
    bus = await BusClient.connect(
        {"servers": [nats.url], "max_reconnect_attempts": -1, "reconnect_time_wait": 0.05}
    )
    yield bus
    await bus.close()


@pytest.fixture
def store(bus: BusClient) -> OwnersStore:
    return OwnersStore(bus, memory=True, replicas=1)


def table_of(router: str, before: OwnersTable = EMPTY_TABLE) -> OwnersTable:
    return before.with_changes(dict.fromkeys(range(PARTITIONS), router), NOW_MS)


async def test_there_is_no_table_at_first(store: OwnersStore) -> None:
    assert await store.read() == (EMPTY_TABLE, 0)


async def test_what_is_written_is_read(store: OwnersStore) -> None:
    table = table_of("a")
    assert await store.write(table, 0)
    assert (await store.read())[0] == table


async def test_of_two_writers_of_one_revision_one_succeeds(bus: BusClient, store: OwnersStore) -> None:
    other = OwnersStore(bus, memory=True, replicas=1)
    results = await asyncio.gather(store.write(table_of("a"), 0), other.write(table_of("b"), 0))
    assert sorted(results) == [False, True]
    table, revision = await store.read()
    assert await store.write(table_of("c", table), revision)
    assert not await other.write(table_of("d", table), revision)
    assert (await store.read())[0].owners[0].router == "c"


async def test_many_writers_that_repeat_lose_no_change(bus: BusClient) -> None:
    async def claim(partition: int) -> None:
        store = OwnersStore(bus, memory=True, replicas=1)
        while True:
            table, revision = await store.read()
            if await store.write(table.with_changes({partition: f"r{partition}"}, NOW_MS), revision):
                return

    await asyncio.gather(*(claim(partition) for partition in range(8)))
    table, _ = await OwnersStore(bus, memory=True, replicas=1).read()
    assert [table.owners[p].router for p in range(8)] == [f"r{p}" for p in range(8)]
    assert len({table.owners[p].epoch for p in range(8)}) == 8


async def test_the_bucket_is_made_again_when_it_was_lost(bus: BusClient, store: OwnersStore) -> None:
    assert await store.write(table_of("a"), 0)
    await bus.js.delete_key_value(OWNERS_BUCKET)
    assert await store.read() == (EMPTY_TABLE, 0)
    assert await store.write(table_of("b"), 0)


async def test_without_nats_reading_and_writing_are_unavailable_at_once(
    nats: NatsServer, bus: BusClient, store: OwnersStore
) -> None:
    await asyncio.to_thread(nats.kill)
    await until(lambda: not bus.connected)
    async with asyncio.timeout(1):
        with pytest.raises(Unavailable):
            await store.read()
        with pytest.raises(Unavailable):
            await store.write(table_of("a"), 0)


async def test_what_is_no_table_is_told_and_not_overwritten(bus: BusClient, store: OwnersStore) -> None:
    await store.read()
    bucket = await bus.js.key_value(OWNERS_BUCKET)
    await bucket.put(OWNERS_KEY, b"from another version")
    with pytest.raises(InvalidRequest):
        await store.read()
    assert not await store.write(table_of("a"), 0)


async def test_a_view_hears_of_a_change_at_once(bus: BusClient, store: OwnersStore) -> None:
    view = OwnersView(bus, store)
    seen: list[int] = []
    view.on_change(lambda table: seen.append(table.version))
    running = asyncio.create_task(view.run())
    await until(lambda: OWNERS_CHANGED in [s._subject for s in bus.nats._subs.values()])
    await bus.synchronize()
    table = table_of("a")
    await store.write(table, 0)
    await until(lambda: view.table == table, 1)  # by the announcement: the next reading is 2 s away
    bus.publish(OWNERS_CHANGED, b"nonsense")
    await store.write(table_of("b", table), (await store.read())[1])
    await until(lambda: view.owner(0).router == "b")
    assert seen == sorted(set(seen)), "each newer table once"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_view_finds_what_was_never_announced(bus: BusClient, store: OwnersStore) -> None:
    view = OwnersView(bus, store)
    running = asyncio.create_task(view.run())
    table, revision = await store.read()
    newer = table_of("a", table)
    bucket = await bus.js.key_value(OWNERS_BUCKET)
    from hubwire.bus.owners import pack_table

    await bucket.update(OWNERS_KEY, pack_table(newer), last=revision)
    view.refresh()
    await until(lambda: view.table == newer, 5)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_an_older_table_is_not_taken() -> None:
    view = OwnersView(None, None)  # type: ignore[arg-type]
    newer = table_of("b", table_of("a"))
    view.offer(newer)
    view.offer(table_of("a"))
    assert view.table == newer
