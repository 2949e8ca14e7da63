"""Whether JetStream stores, found out over a real nats-server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from nats.js.api import DiscardPolicy, StreamConfig
from support.members import until
from support.nats import NatsServer

from hubwire.bus.client import BusClient
from hubwire.bus.subjects import LEASES_BUCKET
from hubwire.model.errors import NotFound, Unavailable
from hubwire.runtime import store_check
from hubwire.runtime.lease_bucket import open_leases
from hubwire.runtime.store_check import StoreCheck, try_store


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path) as server:
        yield server


@pytest.fixture
async def bus(nats: NatsServer) -> AsyncIterator[BusClient]:
    options = {"servers": [nats.url], "max_reconnect_attempts": -1, "reconnect_time_wait": 0.05}
    bus = await BusClient.connect(options)
    yield bus
    await bus.close()


@pytest.fixture
async def check(bus: BusClient, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StoreCheck]:
    monkeypatch.setattr(store_check, "EVERY_SECONDS", 0.1)
    monkeypatch.setattr(store_check, "TROUBLE_SECONDS", 0.5)
    check = StoreCheck(bus, "test", memory=False, replicas=1)
    running = asyncio.create_task(check.run())
    yield check
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def refuse(bus: BusClient) -> None:
    """The bucket is there, and takes nothing: it is full."""
    subjects = [f"$KV.{LEASES_BUCKET}.>"]
    full = StreamConfig(f"KV_{LEASES_BUCKET}", subjects=subjects, max_msgs=1, discard=DiscardPolicy.NEW)
    await bus.js.add_stream(full)
    await bus.js.publish(f"$KV.{LEASES_BUCKET}.one", b"")


async def test_what_is_stored_is_stored_and_what_is_not_says_why(bus: BusClient) -> None:
    with pytest.raises(NotFound):
        await try_store(bus, "test", 2)
    await open_leases(bus, memory=False, replicas=1, timeout=5)
    await try_store(bus, "test", 2)
    await bus.js.delete_stream(f"KV_{LEASES_BUCKET}")
    await refuse(bus)
    with pytest.raises(Unavailable, match=r"it stores nothing \(maximum messages exceeded\)"):
        await try_store(bus, "test", 2)


async def test_a_check_without_a_bucket_makes_it(bus: BusClient, check: StoreCheck) -> None:
    await asyncio.sleep(1.0)  # twice as long as trouble takes
    assert check.trouble() == ""
    await try_store(bus, "test", 2)


async def test_a_server_that_stores_nothing_is_trouble_until_it_stores(
    bus: BusClient, check: StoreCheck
) -> None:
    await until(lambda: check.trouble() == "", 5)
    await open_leases(bus, memory=False, replicas=1, timeout=5)
    await bus.js.delete_stream(f"KV_{LEASES_BUCKET}")
    await refuse(bus)
    await until(lambda: "it stores nothing (maximum messages exceeded)" in check.trouble(), 5)
    await bus.js.purge_stream(f"KV_{LEASES_BUCKET}")
    await until(lambda: check.trouble() == "", 5)


async def test_a_server_that_is_away_is_trouble_at_once(
    nats: NatsServer, bus: BusClient, check: StoreCheck
) -> None:
    await asyncio.to_thread(nats.kill)
    await until(lambda: check.trouble() == "NATS is not connected.", 5)
    await asyncio.to_thread(nats.start)
    await until(lambda: check.trouble() == "", 5)
