"""The first keys of a cluster: two are in force from the start, however many were given."""

from __future__ import annotations

import asyncio
from pathlib import Path

from support.nats import NatsServer

from hubwire.bus.client import BusClient
from hubwire.runtime.nats_options import nats_options
from hubwire.runtime.process import ProcessConfig
from hubwire.runtime.seeding import open_settings
from hubwire.runtime.service import Stop

GIVEN = "given-access-key-0123456789-0123456789"


async def test_a_cluster_that_is_given_one_key_makes_the_other_and_all_agree(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as nats:
        config = ProcessConfig(nats_servers=(nats.url,), durability="memory", access_key=GIVEN)
        buses = [await BusClient.connect(nats_options(config, name=f"seeding-{n}")) for n in range(3)]
        try:
            stores = await asyncio.gather(*(open_settings(bus, config, Stop()) for bus in buses))
            assert {store.keys.primary for store in stores} == {GIVEN}
            assert len({store.keys for store in stores}) == 1
            assert len(stores[0].keys.secondary) >= 32
            assert stores[0].keys.salt
            for store in stores:
                await store.close()
        finally:
            for bus in buses:
                await bus.close()
