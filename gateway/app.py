"""Puts a gateway worker together (composition root), and its order of stopping."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import structlog

from gateway import drain
from gateway.front import Front
from gateway.meters import readers
from gateway.reliable.fate import Fates
from gateway.reliable.service import Durability
from gateway.service import GatewayService
from gateway.settings import GatewayLimits, upstream_config
from gateway.upstream.listeners import Endpoint, Listeners, ListenerTarget, MakeTarget
from gateway.upstream.notifier import Notifier
from gateway.upstream.service import UpstreamService
from hubwire.bus.client import BusClient
from hubwire.bus.dead_letters import DeadLetters
from hubwire.bus.dispatcher import Dispatcher
from hubwire.bus.event_log import EventLog
from hubwire.bus.listener_stream import NatsTarget
from hubwire.bus.owners import OwnersView
from hubwire.bus.session_records import SessionRecords
from hubwire.bus.settings import SettingsStore
from hubwire.model.settings import NatsEndpoint
from hubwire.runtime.bus_meters import BusWatch
from hubwire.runtime.certificates import ServedCertificate, around
from hubwire.runtime.health import bus_check, lease_check
from hubwire.runtime.key_age import keep_reconnection_keys_young
from hubwire.runtime.leases import Lease
from hubwire.runtime.listen import BACKLOG, open_listener
from hubwire.runtime.observed import Insight, run_observed
from hubwire.runtime.plain_http import HttpFactory
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

log = structlog.get_logger(__name__)

RELIABLE_SECONDS = 2.0
"""For writing down what clients of reliable sessions have acknowledged."""

NOTIFY_SECONDS = 2.0
"""For telling event handlers of the connections that a stop has ended; others tell of the rest."""


class Worker(NamedTuple):
    """What is shared with who serves plain HTTP on the same port."""

    config: ProcessConfig
    name: str
    bus: BusClient
    owners: OwnersView
    dispatcher: Dispatcher
    settings: SettingsStore
    gateway: GatewayService
    upstream: UpstreamService
    notifier: Notifier
    lost: asyncio.Event  # set with the lease
    insight: Insight


class Http(NamedTuple):
    """The HTTP server behind the gateway: a factory of protocols, and how it is closed. Without a factory
    only client endpoints are served."""

    factory: HttpFactory | None
    close: Callable[[], Awaitable[None]]


MakeHttp = Callable[[Worker], Awaitable[Http]]


async def serve(
    config: ProcessConfig,
    stop: Stop,
    make_http: MakeHttp | None = None,
    insight: Insight | None = None,
    *,
    limits: GatewayLimits = GatewayLimits(),  # noqa: B008 (an immutable tuple)
    certificate: ServedCertificate | None = None,
) -> None:
    """Run one worker until told to stop, with TLS when there is a `certificate`, or until its lease is lost
    (its name is used up then, and its clients are told to go: nobody counts them any more)."""
    name = new_run_name()
    insight = insight or Insight.unseen()
    insight.health.begin()
    log.info("gateway_starting", gateway=name)
    bus = await connect_bus(config, f"gateway-{name}", stop)
    settings: SettingsStore | None = None
    dispatcher: Dispatcher | None = None
    service: GatewayService | None = None
    upstream: UpstreamService | None = None
    unbind: Callable[[], None] = _nothing
    try:
        _, owners = open_owners(bus, config)
        dispatcher = Dispatcher(bus, owners, name)
        memory, replicas = config.in_memory, config.replicas
        lease = Lease(bus, "gateway", name, config.lease_seconds, memory=memory, replicas=replicas)
        lost = asyncio.Event()

        def lease_lost() -> None:
            lost.set()
            stop.now("the lease was lost")

        lease.on_lost = lease_lost
        settings = store = await open_settings(bus, config, stop)
        upstream = UpstreamService(
            store.hub,
            lambda: store.keys,
            upstream_config(config),
            hubs_measured=config.metrics_hubs,
            traces=insight.traces,
        )
        listeners = Listeners(store.hub, _targets(bus, config), upstream.failures)
        events = EventLog(bus, memory=memory, replicas=replicas)
        letters = DeadLetters(bus, memory=memory, replicas=replicas)
        fates = Fates(bus, SessionRecords(bus, memory=memory, replicas=replicas))
        notifier = Notifier(
            name,
            bus,
            upstream,
            store.hub,
            events,
            letters,
            lambda: lease.valid,
            fate_of=fates.of,
            listeners=listeners,
        )
        service = GatewayService(
            name,
            bus,
            owners,
            dispatcher,
            settings,
            public_endpoints=config.public_endpoints,
            limits=limits._replace(metrics_hubs=config.metrics_hubs),
            upstream=upstream,
            listeners=listeners,
            notifications=notifier,
            durability=Durability(memory, replicas),
            traces=insight.traces,
        )
        service.commands.add({"sweep": notifier.sweep})
        worker = Worker(
            config, name, bus, owners, dispatcher, settings, service, upstream, notifier, lost, insight
        )
        insight.health.check(bus_check(bus), lease_check(lease))
        watch = BusWatch(bus, lease=lease, dispatcher=dispatcher)
        unbind = insight.meters.bind(readers(service, upstream, notifier, listeners) | watch.readers)
        await lease.acquire(lambda: stop.told)
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(lease.run(), name="lease"),
                tasks.create_task(owners.run(), name="owners"),
                tasks.create_task(watch.run(), name="bus watch"),
                tasks.create_task(StatusTeller(bus, config, name, insight).run(), name="status"),
                tasks.create_task(service.run(), name="bus"),
                tasks.create_task(service.keepalive.run(), name="keep-alive"),
                tasks.create_task(notifier.run(), name="notifications"),
                tasks.create_task(keep_reconnection_keys_young(settings), name="reconnection keys"),
            ]
            if service.reliable is not None:
                background.append(tasks.create_task(service.reliable.run(), name="reliable sessions"))
            if certificate is not None:
                insight.meters.bind(certificate.readers)
                background.append(tasks.create_task(certificate.run(), name="certificate"))
            try:
                await _listen(worker, stop, make_http, certificate)
            finally:
                await end_tasks(background)
        await lease.release()
    finally:
        unbind()
        if service is not None:
            await service.events.close()
        if upstream is not None:
            await upstream.close()
        if dispatcher is not None:
            dispatcher.close()
        if settings is not None:
            await settings.close()
        await bus.close()
    log.info("gateway_stopped", gateway=name)


def _nothing() -> None:
    """No metrics are bound yet."""


def _targets(bus: BusClient, config: ProcessConfig) -> MakeTarget:
    """Where event listeners can lead: the cluster's own NATS."""
    memory, replicas = config.in_memory, config.replicas

    def target(endpoint: Endpoint) -> ListenerTarget | None:
        if isinstance(endpoint, NatsEndpoint):
            return NatsTarget(bus, endpoint, memory=memory, replicas=replicas)
        return None

    return target


async def _listen(
    worker: Worker, stop: Stop, make_http: MakeHttp | None, certificate: ServedCertificate | None
) -> None:
    loop = asyncio.get_running_loop()
    config, service = worker.config, worker.gateway
    await service.listening.wait()  # what is published after a client's 101 must find us subscribed
    http = await make_http(worker) if make_http is not None else None
    factory = http.factory if http is not None else None
    sock = open_listener(config.host, config.port)
    fronts = around(certificate)(lambda: Front(service.door.fronts, service.door.admit, factory))
    server = await loop.create_server(fronts, sock=sock, backlog=BACKLOG)
    try:
        log.info("gateway_listening", gateway=worker.name, host=config.host, port=sock.getsockname()[1])
        tell_ready(config)
        worker.insight.health.serves()
        await stop.wait()
        log.info("gateway_stopping", gateway=worker.name, reason=stop.reason)
    finally:
        worker.insight.health.leaves(stop.reason or "it cannot go on")
        service.door.draining = True
        server.close()
        for front in [*service.door.fronts]:
            front.transport.abort()
        await drain.let_go(service, config.drain_seconds, worker.lost)
        if service.reliable is not None:
            await service.reliable.close(RELIABLE_SECONDS)
        await worker.notifier.close(NOTIFY_SECONDS)
        if http is not None:
            await http.close()
        await drain.finish(worker.dispatcher)


def run(config: ProcessConfig, make_http: MakeHttp | None = None) -> None:
    """Blocking entry point of the process. A lost lease starts over under a new name. Raises InvalidRequest
    when the certificate cannot be used."""
    certificate = ServedCertificate.of(config)

    async def until_stopped(stop: Stop, insight: Insight) -> None:
        while True:
            await serve(config, stop.for_one_run(), make_http, insight, certificate=certificate)
            if stop.told:
                return

    run_observed(config, until_stopped, config.ready_fd)
