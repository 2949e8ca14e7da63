"""The control plane as a process of its own: REST over a cluster, and its order of stopping."""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from controlplane.app import create_app
from controlplane.cluster import Cluster
from controlplane.events import Events
from controlplane.http import RestRunner, RestSite
from controlplane.meters import RequestTimes, readers
from controlplane.oidc.tokens import Issuers
from controlplane.settings import ControlPlaneConfig, ManagementConfig
from hubwire.bus.client import BusClient
from hubwire.bus.dead_letters import DeadLetters
from hubwire.bus.dispatcher import Dispatcher
from hubwire.bus.session_records import SessionRecords
from hubwire.bus.settings import SettingsStore
from hubwire.runtime.bus_meters import BusWatch
from hubwire.runtime.certificates import ServedCertificate, around
from hubwire.runtime.key_age import keep_reconnection_keys_young
from hubwire.runtime.leases import LeaseWatch
from hubwire.runtime.listen import open_listener
from hubwire.runtime.observed import Insight, run_observed
from hubwire.runtime.process import ProcessConfig
from hubwire.runtime.seeding import open_settings
from hubwire.runtime.service import (
    Stop,
    connect_bus,
    end_tasks,
    new_run_name,
    open_owners,
    tell_ready,
)
from hubwire.runtime.status import StatusTeller
from hubwire.runtime.store_check import StoreCheck

log = structlog.get_logger(__name__)

SHUTDOWN_SECONDS = 5.0
"""How long requests in progress have at a stop."""


def rest_config(config: ProcessConfig) -> ControlPlaneConfig:
    """What the process itself knows of the REST API; all else is the cluster's, and watched."""
    # Known where REST is served by a gateway's process; for a control plane of its own the cluster says it.
    identity = bool(config.upstream_token_url or config.upstream_token_file)
    return ControlPlaneConfig(
        public_endpoints=config.public_endpoints, management=ManagementConfig(upstream_identity=identity)
    )


def store_check(bus: BusClient, config: ProcessConfig) -> StoreCheck:
    return StoreCheck(bus, "rest", memory=config.in_memory, replicas=config.replicas)


async def make_runner(
    config: ProcessConfig,
    bus: BusClient,
    dispatcher: Dispatcher,
    settings: SettingsStore,
    gateways: LeaseWatch,
    store: StoreCheck,
    insight: Insight,
) -> RestRunner:
    """The REST application, ready to be served: by a site, or connection by connection. The caller runs
    `gateways` and `store`, and cleans the runner up."""
    records = SessionRecords(bus, memory=config.in_memory, replicas=config.replicas)
    cluster = Cluster(bus, dispatcher, gateways, records, store)
    letters = DeadLetters(bus, memory=config.in_memory, replicas=config.replicas)
    times = RequestTimes()
    insight.meters.bind(readers(times))
    events = Events(bus, gateways, letters)
    own, traces = rest_config(config), insight.traces
    issuers = Issuers.of(config)
    if issuers is not None:
        insight.meters.bind(issuers.readers)
    app = create_app(cluster, settings, own, events=events, times=times, traces=traces, issuers=issuers)
    runner = RestRunner(app, shutdown_timeout=SHUTDOWN_SECONDS, handle_signals=False)
    await runner.setup()
    return runner


async def serve(
    config: ProcessConfig,
    stop: Stop,
    insight: Insight | None = None,
    *,
    certificate: ServedCertificate | None = None,
) -> None:
    """Serve REST until told to stop, over TLS when there is a `certificate`. It holds no lease: nothing
    depends on its being alive."""
    name = new_run_name()
    insight = insight or Insight.unseen()
    health, meters, _ = insight
    health.begin()
    log.info("controlplane_starting", controlplane=name)
    bus = await connect_bus(config, f"controlplane-{name}", stop)
    dispatcher: Dispatcher | None = None
    settings: SettingsStore | None = None
    try:
        _, owners = open_owners(bus, config)
        dispatcher = Dispatcher(bus, owners, name)
        gateways = LeaseWatch(bus, "gateway", default_ttl=config.lease_seconds)
        settings = await open_settings(bus, config, stop)
        store = store_check(bus, config)
        health.check(store.trouble)
        runner = await make_runner(config, bus, dispatcher, settings, gateways, store, insight)
        watch = BusWatch(bus, dispatcher=dispatcher)
        meters.bind(watch.readers)
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(owners.run(), name="owners"),
                tasks.create_task(watch.run(), name="bus watch"),
                tasks.create_task(StatusTeller(bus, config, name, insight).run(), name="status"),
                tasks.create_task(gateways.run(), name="gateway leases"),
                tasks.create_task(store.run(), name="store check"),
                # Gateways do so too, unless NATS lets only the control plane write settings.
                tasks.create_task(keep_reconnection_keys_young(settings), name="reconnection keys"),
            ]
            if certificate is not None:
                meters.bind(certificate.readers)
                background.append(tasks.create_task(certificate.run(), name="certificate"))
            try:
                listener = open_listener(config.host, config.port)
                await RestSite(runner, listener, around(certificate)).start()
                log.info(
                    "controlplane_listening",
                    controlplane=name,
                    host=config.host,
                    port=listener.getsockname()[1],
                )
                tell_ready(config)
                health.serves()
                await stop.wait()
                health.leaves(stop.reason)
                log.info("controlplane_stopping", controlplane=name, reason=stop.reason)
            finally:
                await runner.cleanup()  # no new requests; those in progress are finished
                await dispatcher.drain(2.0)
                await end_tasks(background)
    finally:
        if dispatcher is not None:
            dispatcher.close()
        if settings is not None:
            await settings.close()
        await bus.close()
    log.info("controlplane_stopped", controlplane=name)


def run(config: ProcessConfig) -> None:
    """Blocking entry point of the process. Raises InvalidRequest when the certificate cannot be used."""
    run_observed(config, partial(serve, config, certificate=ServedCertificate.of(config)))
