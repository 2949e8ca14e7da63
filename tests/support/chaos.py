"""Faults of a whole cluster, each a context manager with a plain name; and the cluster that they happen to.

    async with Rig(folder, history) as rig:
        async with killed(rig, rig.gateways[0]): ...      # kill -9; started again when the context is left
        async with paused(rig, rig.routers[1]): ...       # SIGSTOP, SIGCONT
        async with cut_off(rig, rig.gateways[2]): ...     # no packet between it and NATS, either way
        async with hung(rig, await rig.leader()): ...     # a NATS server answers nothing
        await restarted_in_turn(rig, rig.gateways)        # a rolling restart

Each notes in the history what it excuses there, with the margin of a pessimist, and its own name and time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import nats as nats_client
from support.history import History, Span
from support.nats import NatsCluster, NatsServer
from support.processes import Fleet, Role, Service
from support.wire import Wire, Wires

from hubwire.bus.subjects import OWNERS_BUCKET

BEFORE_SECONDS: Final = 1.0
"""What was on its way so shortly before a fault is counted as met by it."""
AFTER_SECONDS: Final = 10.0
"""How long after a fault owners may still change, and plain connections miss something."""


class Happened(NamedTuple):
    """One fault, and its time."""

    name: str
    span: Span


class Rig:
    """Three NATS servers, two routers, three gateways and a control plane, each a process whose links to NATS
    can be cut. `happened` has the faults in order."""

    def __init__(
        self, folder: Path, history: History, *, gateways: int = 3, lease_seconds: float = 3.0
    ) -> None:
        self.history = history
        self.happened: list[Happened] = []
        self.nats = NatsCluster(folder / "nats")
        self.wires = Wires()
        self._links: dict[Service, list[Wire]] = {}
        self._folder = folder
        self._lease_seconds = lease_seconds
        self._counts: dict[Role, int] = {"router": 2, "gateway": gateways, "controlplane": 1}
        self._stack = contextlib.ExitStack()
        self.fleet: Fleet

    def _make(self, role: Role) -> Service:
        """A process with wires of its own to every server."""
        links = [self.wires.to(lambda node=node: node.port) for node in self.nats.nodes]  # type: ignore[misc]
        urls = tuple(f"nats://127.0.0.1:{wire.port}" for wire in links)
        common, self.fleet.config = self.fleet.config, self.fleet.config.replace(nats_servers=urls)
        service = self.fleet.make(role)
        self.fleet.config = common
        self._links[service] = links
        return service

    def start(self) -> None:
        """Blocks until everything serves."""
        self._stack.enter_context(self.wires)
        self._stack.enter_context(self.nats)
        self.fleet = Fleet(
            self._folder, self.nats.urls, durability="replicated", lease_seconds=self._lease_seconds
        )
        self.fleet.config = self.fleet.config.replace(upstream_addresses="any")
        self._stack.enter_context(self.fleet)
        services = [self._make(role) for role, count in self._counts.items() for _ in range(count)]
        for service in services:
            service.launch()
        for service in services:
            service.wait_ready()

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self.start)
        except BaseException:
            self._stack.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._stack.close)

    def of(self, role: Role) -> list[Service]:
        return [one for one in self.fleet.services if one.role == role]

    @property
    def gateways(self) -> list[Service]:
        return self.of("gateway")

    @property
    def routers(self) -> list[Service]:
        return self.of("router")

    @property
    def control_planes(self) -> list[Service]:
        return self.of("controlplane")

    def links(self, service: Service) -> list[Wire]:
        """To the servers of NATS, in their order."""
        return self._links[service]

    async def leader(self, stream: str = f"KV_{OWNERS_BUCKET}") -> NatsServer:
        """The NATS server that leads this stream; the first one when nobody says which."""
        try:
            connection = await nats_client.connect(self.nats.urls, connect_timeout=2)
            try:
                info = await connection.jetstream(timeout=3).stream_info(stream)
            finally:
                await connection.close()
        except Exception:
            return self.nats.nodes[0]
        name = info.cluster.leader if info.cluster is not None else ""
        return next((node for node in self.nats.nodes if node.settings.name == name), self.nats.nodes[0])

    def note(self, name: str, begin: float, *, owners: bool, deaf: bool) -> None:
        """A fault that is over, and what it excuses."""
        now = time.monotonic()
        span = Span(begin - BEFORE_SECONDS, now + AFTER_SECONDS)
        self.happened.append(Happened(name, Span(begin, now)))
        self.history.cuts.append(span)
        if owners:
            self.history.owner_changes.append(span)
        if deaf:
            self.history.deaf.append(span)


@contextlib.asynccontextmanager
async def _noted(rig: Rig, name: str, *, owners: bool, deaf: bool = False) -> AsyncIterator[None]:
    begin = time.monotonic()
    try:
        yield
    finally:
        rig.note(name, begin, owners=owners, deaf=deaf)


def _owns(service: Service) -> bool:
    return service.role == "router"


@contextlib.asynccontextmanager
async def killed(rig: Rig, service: Service) -> AsyncIterator[None]:
    """kill -9. Started again, under another run name, when the context is left; waits until it serves."""
    async with _noted(rig, f"kill -9 of a {service.role}", owners=_owns(service)):
        await asyncio.to_thread(service.kill)
        try:
            yield
        finally:
            await asyncio.to_thread(service.start)


@contextlib.asynccontextmanager
async def stopped(rig: Rig, service: Service) -> AsyncIterator[None]:
    """SIGTERM, and its whole planned stop. Started again when the context is left."""
    async with _noted(rig, f"stop of a {service.role}", owners=_owns(service)):
        await asyncio.to_thread(service.stop)
        try:
            yield
        finally:
            await asyncio.to_thread(service.start)


@contextlib.asynccontextmanager
async def paused(rig: Rig, service: Service) -> AsyncIterator[None]:
    """SIGSTOP: its sockets stay open, it answers nothing; it goes on when the context is left."""
    deaf = service.role == "gateway"
    async with _noted(rig, f"pause of a {service.role}", owners=_owns(service), deaf=deaf):
        service.pause()
        try:
            yield
        finally:
            service.resume()


@contextlib.asynccontextmanager
async def cut_off(rig: Rig, service: Service) -> AsyncIterator[None]:
    """No packet between it and any NATS server, either way; its clients reach it all the same."""
    deaf = service.role == "gateway"
    async with _noted(rig, f"cut between a {service.role} and NATS", owners=_owns(service), deaf=deaf):
        for wire in rig.links(service):
            wire.cut()
        try:
            yield
        finally:
            for wire in rig.links(service):
                wire.heal()


@contextlib.asynccontextmanager
async def clock_moved(rig: Rig, service: Service, seconds: float) -> AsyncIterator[None]:
    """Its wall clock goes wrong by so much, as by a bad time server; its monotonic one does not."""
    async with _noted(rig, f"clock of a {service.role} moved", owners=_owns(service)):
        service.move_clock(seconds)
        try:
            yield
        finally:
            service.move_clock(0.0)


@contextlib.asynccontextmanager
async def node_killed(rig: Rig, node: NatsServer) -> AsyncIterator[None]:
    """kill -9 of one of the three NATS servers. Started again, on its store, when the context is left."""
    async with _noted(rig, "kill -9 of a NATS server", owners=True):
        await asyncio.to_thread(node.kill)
        try:
            yield
        finally:
            await asyncio.to_thread(node.start)


@contextlib.asynccontextmanager
async def hung(rig: Rig, node: NatsServer) -> AsyncIterator[None]:
    """One of the three NATS servers is stopped, its connections stay open."""
    async with _noted(rig, "hang of a NATS server", owners=True):
        await asyncio.to_thread(node.pause)
        try:
            yield
        finally:
            node.resume()


@contextlib.asynccontextmanager
async def slow(
    rig: Rig, node: NatsServer, *, away_seconds: float = 0.09, there_seconds: float = 0.01
) -> AsyncIterator[None]:
    """One of the three NATS servers does its work in one part of ten, as one whose disk is far too slow looks
    from outside. (The disk itself is not slowed: that needs a device of one's own.)"""
    over = asyncio.Event()

    async def stutter() -> None:
        while not over.is_set():
            await asyncio.to_thread(node.pause)
            await asyncio.sleep(away_seconds)
            node.resume()
            await asyncio.sleep(there_seconds)

    async with _noted(rig, "a NATS server that is slow", owners=True):
        stuttering = asyncio.create_task(stutter())
        try:
            yield
        finally:
            over.set()
            await stuttering


async def restarted_in_turn(rig: Rig, services: Sequence[Service]) -> None:
    """A rolling restart: each is stopped in order, and started before the next one is."""
    for service in services:
        async with stopped(rig, service):
            pass
