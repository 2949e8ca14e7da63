"""A process of the cluster inside the test: asks and publishes as a control plane does, sees the table."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from controlplane.cluster import Cluster
from hubwire.bus.client import BusClient
from hubwire.bus.dispatcher import Dispatcher
from hubwire.bus.owners import OwnersView
from hubwire.bus.session_records import SessionRecords
from hubwire.runtime.leases import LeaseWatch
from hubwire.runtime.nats_options import nats_options
from hubwire.runtime.process import ProcessConfig
from hubwire.runtime.service import new_run_name, open_owners


@dataclass(frozen=True)
class Observer:
    bus: BusClient
    owners: OwnersView
    dispatcher: Dispatcher
    gateways: LeaseWatch
    routers: LeaseWatch
    cluster: Cluster

    def owners_named(self) -> set[str]:
        """The routers that the table names; "" when a partition has none."""
        return {owner.router if owner else "" for owner in self.owners.table.owners}


@contextlib.asynccontextmanager
async def observe(config: ProcessConfig, *, deadline_seconds: float = 10.0) -> AsyncIterator[Observer]:
    bus = await BusClient.connect(nats_options(config, name="observer"))
    try:
        _, owners = open_owners(bus, config)
        dispatcher = Dispatcher(bus, owners, new_run_name())
        gateways = LeaseWatch(bus, "gateway", default_ttl=config.lease_seconds)
        routers = LeaseWatch(bus, "router", default_ttl=1.2)
        records = SessionRecords(bus, memory=config.in_memory, replicas=config.replicas)
        cluster = Cluster(bus, dispatcher, gateways, records, deadline_seconds=deadline_seconds)
        tasks = [asyncio.create_task(work.run(), name="observer") for work in (owners, gateways, routers)]
        try:
            await asyncio.gather(gateways.ready(), routers.ready())
            yield Observer(bus, owners, dispatcher, gateways, routers, cluster)
        finally:
            dispatcher.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        await bus.close()
