"""Puts a router together (composition root), and its order of stopping."""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from hubwire.bus.event_log import EventLog
from hubwire.bus.inbox import list_inboxes
from hubwire.runtime.bus_meters import BusWatch
from hubwire.runtime.health import Health, bus_check, lease_check
from hubwire.runtime.leases import Lease, LeaseWatch
from hubwire.runtime.observed import Insight, run_observed
from hubwire.runtime.process import ProcessConfig
from hubwire.runtime.service import (
    Stop,
    connect_bus,
    end_tasks,
    new_run_name,
    open_owners,
    tell_ready,
    wait_unless_told,
)
from hubwire.runtime.status import StatusTeller
from router.meters import readers
from router.ownership import Ownership
from router.service import RouterService
from router.sweep import Sweep

log = structlog.get_logger(__name__)

LEASE_SECONDS = 1.2
"""A router's lease: short, since a group whose owner died waits for it. With its margin (a sixth), the
look-out every 50 ms and one compare-and-set, a takeover is done 1.6 s after the last renewal."""

HAND_OVER_SECONDS = 5.0


async def serve(config: ProcessConfig, stop: Stop, insight: Insight | None = None) -> None:
    """Run one router until told to stop, or until its lease is lost (this run's name is used up then)."""
    name = new_run_name()
    insight = insight or Insight.unseen()
    health, meters, traces = insight
    health.begin()
    log.info("router_starting", router=name)
    bus = await connect_bus(config, f"router-{name}", stop)
    memory, replicas = config.in_memory, config.replicas
    store, owners = open_owners(bus, config)
    lease = Lease(bus, "router", name, LEASE_SECONDS, memory=memory, replicas=replicas, strict=True)
    lease.on_lost = lambda: stop.now("the lease was lost")
    routers = LeaseWatch(bus, "router", default_ttl=LEASE_SECONDS, judges=True, own=name)
    gateways = LeaseWatch(bus, "gateway", default_ttl=config.lease_seconds, judges=True)
    ownership = Ownership(bus, lease, owners, store, routers, gateways, sole_router=config.sole_router)
    service = RouterService(bus, lease, ownership, gateways, traces)
    events = EventLog(bus, memory=memory, replicas=replicas)
    sweep = Sweep(
        bus,
        events,
        gateways,
        lambda p: lease.valid and ownership.speaks_for(p) is not None,
        partial(list_inboxes, bus),
    )
    watch = BusWatch(bus, lease=lease)
    unbind = meters.bind(readers(service, ownership, gateways) | watch.readers)
    try:
        await lease.prepare(lambda: stop.told)
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(owners.run(), name="owners"),
                tasks.create_task(watch.run(), name="bus watch"),
                tasks.create_task(StatusTeller(bus, config, name, insight).run(), name="status"),
                tasks.create_task(routers.run(), name="router leases"),
                tasks.create_task(gateways.run(), name="gateway leases"),
                tasks.create_task(service.run(), name="router"),
                tasks.create_task(service.inboxes.run(), name="inboxes"),
            ]
            try:
                # The others give us partitions as soon as they see our lease: everything else stands first.
                await wait_unless_told(stop, routers.ready(), gateways.ready())
                await lease.acquire(lambda: stop.told)
                health.check(bus_check(bus), lease_check(lease))
                running += [
                    tasks.create_task(lease.run(), name="lease"),
                    tasks.create_task(ownership.run(), name="ownership"),
                    tasks.create_task(sweep.run(), name="sweep"),
                    tasks.create_task(_tell_ready(config, ownership, health), name="readiness"),
                ]
                await stop.wait()
                health.leaves(stop.reason)
                log.info("router_stopping", router=name, reason=stop.reason)
                if lease.valid:
                    await ownership.hand_over(HAND_OVER_SECONDS)
            finally:
                await end_tasks(running)
                service.close()
        await lease.release()
    finally:
        unbind()
        await bus.close()
    log.info("router_stopped", router=name)


async def _tell_ready(config: ProcessConfig, ownership: Ownership, health: Health) -> None:
    await ownership.ready()
    tell_ready(config)
    health.serves()


def run(config: ProcessConfig) -> None:
    """Blocking entry point of the process. A lost lease starts over under a new name."""

    async def until_stopped(stop: Stop, insight: Insight) -> None:
        while True:
            await serve(config, stop.for_one_run(), insight)
            if stop.told:
                return

    run_observed(config, until_stopped, config.ready_fd)
