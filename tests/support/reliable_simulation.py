"""Reliable sessions in virtual time: the real rooms of gateways and routers over a simulated NATS.

What runs is the product's own: gateway.service with gateway.reliable, and router.app, each process on an
event loop of its own (support.simulation). Simulated are NATS (support.sim_bus, support.sim_streams), sockets
and clients (support.sim_client), and time. Faults come from a seed.

At the end of each schedule `support.judge` holds what the clients saw against every promise, and what is
left is counted: each session is held once, owners know exactly the keys that are needed, nobody waits.

    make simulate SEEDS=1-20        # or one seed, and ARGS="kill gateway,pause gateway" for these faults only
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections import Counter
from functools import partial
from types import SimpleNamespace
from typing import Any

import structlog
from support.history import Event, History, Span
from support.judge import Verdict, judge
from support.sim_bus import SimBus, SimStore
from support.sim_client import SimClient, SimConnection, SimSocket
from support.sim_streams import UNIX_TIME
from support.simulation import CONFIG, START, Node, RouterNode, World, instrument, shrink

import gateway.reliable.holder
import gateway.reliable.service
import gateway.reliable.upkeep
import hubwire.bus.inbox_entries
import hubwire.bus.inbox_reader
from gateway import drain
from gateway.bounds import Bounds
from gateway.hub import keys_of
from gateway.notifications import Told
from gateway.reliable.service import Durability
from gateway.reliable.state import SessionState
from gateway.service import GatewayService
from hubwire.bus.dispatcher import Dispatcher
from hubwire.bus.envelopes import unpack
from hubwire.bus.keys import is_reliable, reliable_key
from hubwire.bus.owners import OwnersTable, OwnersView
from hubwire.bus.subjects import INBOX_STREAM_PREFIX, inbox_stream
from hubwire.model.errors import HubwireError, NotFound
from hubwire.model.names import new_connection_id
from hubwire.model.permissions import PermissionSet
from hubwire.model.settings import AccessKeys, HubLimits, HubSettings, ReconnectionKeys
from hubwire.runtime.leases import Lease
from hubwire.runtime.service import end_tasks

HUB = "sim"
JSON_RELIABLE = "json.reliable.webpubsub.azure.v1"
ROLES = ("webpubsub.sendToGroup", "webpubsub.joinLeaveGroup")
MAX_PAYLOAD = 1024 * 1024
OPEN_SECONDS = 5.0
DRAIN_SECONDS = 1.0
CLOSE_SECONDS = 2.0
SETTLE_SECONDS = 20.0
PARTITIONS = 16


KINDS = (
    *("kill gateway", "pause gateway", "stop gateway", "cut gateway", "add gateway"),
    *("kill router", "pause router", "stop router", "cut router", "add router"),
    *("nats", "stall", "slow", "mute", "late", "silent", "silent", "consumers"),
)


class _Settings:
    """Of SettingsStore, what a gateway reads."""

    keys = AccessKeys("primary", "secondary")
    reconnection_keys = ReconnectionKeys("a key of this simulation only")

    def add_listener(self, _listener: Any) -> None: ...

    def limits(self, _hub: str) -> HubLimits:
        return HubLimits()

    def hub(self, _hub: str) -> HubSettings:
        return HubSettings()


class _Told:
    """Who is told of the life of sessions: counts, for each of them, what this gateway owes."""

    def __init__(self, world: ReliableWorld) -> None:
        self._world = world
        self.owed: set[str] = set()

    def announced(self, connection: Told) -> None:
        self._world.check(connection.id not in self._world.announced, f"{connection.id} announced twice")
        self._world.announced.add(connection.id)
        self.owed.add(connection.id)

    def over(self, connection: Told, _reason: str | None) -> None:
        self._world.told_over[connection.id] += 1
        self.owed.discard(connection.id)

    async def resumed(self, connection: Told) -> None:
        self.owed.add(connection.id)

    def moved(self, connection: Told) -> None:
        self.owed.discard(connection.id)

    def joined(self, connection: Told, group: str) -> None: ...
    def left(self, connection: Told, group: str) -> None: ...


class GatewayNode(Node):
    """A gateway worker: `gateway.app.serve` without its listener and its event handlers."""

    world: ReliableWorld

    def __init__(self, world: ReliableWorld) -> None:
        super().__init__(world, "gateway")
        self.service: GatewayService | None = None
        self.sockets: set[SimSocket] = set()
        self.serving = False
        self.name = ""
        asyncio._set_running_loop(self.loop)
        self.over = asyncio.Event()
        asyncio._set_running_loop(None)
        self.told_to_stop = False
        self._admissions: set[asyncio.Task[None]] = set()
        self.start(self._run())

    async def _run(self) -> None:
        while not self.told_to_stop:
            self.over.clear()
            await self._serve()

    async def _serve(self) -> None:
        """One run, under a name of its own: until told to stop, or until the lease is lost."""
        bus = self.bus = SimBus(self)
        while not bus.connected:
            bus.connect()
            await asyncio.sleep(0.1)
        name = self.name = self.world.new_name()
        owners = OwnersView(bus, SimStore(bus))  # type: ignore[arg-type]
        dispatcher = Dispatcher(bus, owners, name)  # type: ignore[arg-type]
        lease = Lease(
            bus,  # type: ignore[arg-type]
            "gateway",
            name,
            CONFIG.lease_seconds,
            memory=True,
            replicas=1,
            clock=self.loop.time,
        )
        lost = asyncio.Event()

        def lease_lost() -> None:
            lost.set()
            self.over.set()

        lease.on_lost = lease_lost
        service = self.service = GatewayService(
            name,
            bus,  # type: ignore[arg-type]
            owners,
            dispatcher,
            _Settings(),  # type: ignore[arg-type]
            notifications=_Told(self.world),
            durability=Durability(memory=True, replicas=1),
        )
        reliable = service.reliable
        assert reliable is not None
        await lease.acquire(lambda: self.told_to_stop)
        work = (lease.run(), owners.run(), service.run(), service.keepalive.run(), reliable.run())
        tasks = [asyncio.create_task(one) for one in work]
        try:
            await service.listening.wait()
            self.serving = True
            await self.over.wait()
            self.serving = False
            for socket in [*self.sockets]:
                if socket.connection is None:
                    socket.abort()  # as those of the listener that have no 101 yet
            await drain.let_go(service, DRAIN_SECONDS, lost)
            for task in self._admissions:
                task.cancel()
            await reliable.close(CLOSE_SECONDS)
            await drain.finish(dispatcher)
        finally:
            await end_tasks(tasks)
        for task in tasks:
            if not task.cancelled() and task.exception() is not None:
                self.world.failures.append(task.exception())  # type: ignore[arg-type]
        await lease.release()
        dispatcher.close()
        await bus.close()

    def terminate(self) -> None:
        self.told_to_stop = self.told = True
        self.soon(self.over.set)

    def kill(self) -> None:
        super().kill()
        self.serving = False
        for socket in [*self.sockets]:
            self.world.at(self.world.now + 0.05, partial(socket.client.socket_lost, socket))

    # -- admission: what gateway.reliable.admission does behind the HTTP head -----------------------------

    def admit(self, socket: SimSocket, session_id: str | None) -> None:
        if not self.serving or socket.gone:
            socket.client.not_now(socket)
            return
        task = self.loop.create_task(self._admit(socket, session_id))
        self._admissions.add(task)
        task.add_done_callback(self._admissions.discard)

    async def _admit(self, socket: SimSocket, session_id: str | None) -> None:
        assert self.service is not None
        reliable = self.service.reliable
        assert reliable is not None
        try:
            if session_id is None:
                state = SessionState(
                    new_connection_id(self.world.chance.randbytes(16), self.name),
                    HUB,
                    socket.client.user,
                    JSON_RELIABLE,
                    permissions=PermissionSet.from_roles(ROLES),
                )
                session = await reliable.open(state, OPEN_SECONDS)
            else:
                session = await reliable.recover(HUB, session_id)
        except NotFound as error:
            self.world.note(f"{session_id} refused at {self.name}: {error}")
            socket._down(partial(socket.client.refused, socket))
            return
        except HubwireError as error:
            self.world.note(f"{session_id} not now at {self.name}: {error}")
            socket._down(partial(socket.client.not_now, socket))
            return
        if socket.is_closing():  # the client has gone meanwhile
            if session_id is None:
                reliable.holder.end(session, "Normal", None)
            return
        self.world.note(f"{session.id} at {self.name}, generation {session.generation}")
        connection = SimConnection(
            session, executor=reliable, flusher=reliable.flusher, bounds=Bounds(), host=""
        )
        socket.accepted(connection)


class ReliableWorld(World):
    """Two routers, three gateways, some clients."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.nats.max_payload = MAX_PAYLOAD
        self.nats.streams.on_stored = self._stored
        self.history = History(watched=True)
        self.history.limits.window_seconds = 30.0
        self.clients: list[SimClient] = []
        self.announced: set[str] = set()
        self.told_over: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.ends = True
        self.kinds = KINDS
        self.notes: list[str] = []
        self._owners: list[str | None] = []

    def note(self, text: str) -> None:
        self.notes.append(f"{self.now - START:8.3f} {text}")

    def check(self, holds: bool, fault: str) -> None:
        self._check(holds, fault)

    def add(self, role: str) -> None:
        self.nodes.append(RouterNode(self) if role == "router" else GatewayNode(self))

    def table_written(self, table: OwnersTable) -> None:
        super().table_written(table)
        owners = [owner.router if owner is not None else None for owner in table.owners]
        if owners != self._owners:
            self._owners = owners
            self.history.owner_changes.append(Span(self.now - 1.0, self.now + 1.0))

    def _stored(self, subject: str, data: bytes) -> None:
        if not subject.startswith("hw.session."):
            return
        session_id = subject.removeprefix("hw.session.")
        _, generation, holder, *_ = unpack(data)
        self.note(f"record of {session_id}: {generation} {holder or 'ended'}")
        self.check(not self.ended[session_id], f"{session_id} was changed after its end")
        if not holder:
            self.ended[session_id] += 1
            self.history.events.append(Event(self.now, session_id, "disconnected"))

    # -- faults --------------------------------------------------------------------------------------

    def fault(self) -> None:
        """One event, at random."""
        chance, streams = self.chance, self.nats.streams
        event = chance.choice(self.kinds)
        seconds = chance.choice((0.05, 0.3, 1.0, 1.6, 2.5, 4.0)) * chance.uniform(0.8, 1.2)
        what, _, whom = event.partition(" ")
        self.events.append(f"{self.now - START:8.3f} {event} {seconds:.2f}")
        if whom:
            there = [node for node in self.alive(whom) if not node.told]
            if what == "add" or not there:
                self.add(whom)
            else:
                node = chance.choice(there)
                self.events[-1] += f" {getattr(node, 'name', '') or self.nodes.index(node)}"
                self._hit(node, what, seconds)
        elif what == "nats":
            self.nats.up = False
            self.cut([node for node in self.nodes if not node.dead], seconds)
            self._later(seconds, self.nats, "up", True)
        elif what == "stall":
            self.nats.stalled = True
            self._later(seconds, self.nats, "stalled", False)
        elif what == "slow":
            self.nats.slow = chance.choice((0.02, 0.1, 0.3))
            self._later(seconds, self.nats, "slow", 0.0)
        elif what == "mute":
            self.nats.mute = streams.mute = chance.choice((0.1, 0.5))
            self._later(seconds, self.nats, "mute", 0.0)
            self._later(seconds, streams, "mute", 0.0)
        elif what == "late":
            streams.late = chance.choice((0.1, 0.5))
            self._later(seconds, streams, "late", 0.0)
        elif what == "consumers":
            for stream in streams.streams.values():
                stream.consumers.clear()  # they are in memory, of one server
        elif what == "silent" and streams.streams:
            name = chance.choice(sorted(streams.streams))
            self.events[-1] += f" {name}"
            streams.be_silent(name, seconds, nobody=chance.random() < 0.5)

    def _later(self, seconds: float, thing: object, name: str, value: object) -> None:
        self.at(self.now + seconds, lambda: setattr(thing, name, value))

    def heal(self) -> None:
        """Faults are over: enough of everything is there."""
        for role in ("router", "gateway"):
            for _ in range(2 - len([node for node in self.alive(role) if not node.told])):
                self.add(role)
        self.nats.up, self.nats.stalled, self.nats.slow, self.nats.mute = True, False, 0.0, 0.0
        self.nats.streams.late = self.nats.streams.mute = 0.0

    # -- traffic -------------------------------------------------------------------------------------

    def begin(self, clients: int, pace: float) -> None:
        for number in range(clients):
            client = SimClient(self, number)
            self.clients.append(client)
            self.at(self.now + self.chance.random(), client.dial)
            self.at(self.now + self.chance.random(), partial(self._act, client, pace))

    def _act(self, client: SimClient, pace: float) -> None:
        client.act(calm=self.calm)
        self.at(
            self.now + (1.0 if self.calm else self.chance.expovariate(pace)), partial(self._act, client, pace)
        )

    # -- judgement -----------------------------------------------------------------------------------

    def verdict(self) -> Verdict:
        assert not self.failures, self.failures
        self.history.ended_at = self.now
        self.history.drained = True
        for node in self.nodes:
            if isinstance(node, GatewayNode):
                self.history.deaf += [
                    Span(begin - 0.1, min(end, begin + 5.0) + 1.0) for begin, end in node.faults
                ]
        verdict = judge(self.history)
        assert not verdict.violations, "\n".join(map(str, verdict.violations[:10]))
        return verdict

    def settle(self) -> None:
        """Wait until nothing is left to be done, for SETTLE_SECONDS at most, and a little more for what is on
        its way to clients. Raises what is wrong then."""
        self._wait()
        self.run(1.0)
        self._wait()

    def _wait(self) -> None:
        end = self.now + SETTLE_SECONDS
        while True:
            self.run(0.9)
            try:
                self.judge_end()
                return
            except AssertionError:
                if self.now > end:
                    raise

    def judge_end(self) -> None:
        """After the quiet: every session is held once, and nothing is kept for those that are not."""
        gateways = [node for node in self.alive("gateway") if node.serving]
        held: Counter[str] = Counter()
        for node in gateways:
            holder = node.service.reliable.holder
            fold = holder.log.fold
            states = {state.id: state for state in fold.sessions} if fold is not None else {}
            assert set(holder.sessions) == set(states), (node.name, set(holder.sessions) ^ set(states))
            assert not holder.coming, holder.coming
            assert not fold or not fold.pins
            stored = self.nats.streams.streams.get(inbox_stream(node.name))
            if fold is not None and stored is not None:
                assert fold.position == stored.last, f"{node.name} has not read all that is stored"
            held.update([*holder.sessions])
            needed: Counter[str] = Counter()
            for state in states.values():
                needed.update(keys_of(state))
            counts = holder.needs._counts
            assert counts == needed, f"{node.name} needs {counts}, and should {dict(needed)}"
            registered = node.service.registrar.membership.keys()
            assert set(filter(is_reliable, registered)) == {reliable_key(key) for key in needed}
            assert not node._admissions
            assert not node.service.reliable.moves._under_way
            assert not holder.log.writer.busy()
            assert not node.service._command_tasks
            assert not holder._tasks
            assert not node.service._dispatcher.waiting_bytes
        assert all(count == 1 for count in held.values()), held
        for client in self.clients:
            assert client.attached, f"{client.user} is not there"
            assert client.session is not None
            assert held[client.session.connection_id] == 1
            assert not client.pending, f"{client.user} waits for {client.pending}"
            session = next(
                node.service.reliable.holder.sessions[client.session.connection_id]
                for node in gateways
                if client.session.connection_id in node.service.reliable.holder.sessions
            )
            assert session.connection is client.socket.connection  # type: ignore[union-attr]
            assert session.groups >= client.groups, (session.groups, client.groups)
        self._judge_owners(gateways)

    def _judge_owners(self, gateways: list[Any]) -> None:
        for node in self.alive("router"):
            for partition, one in node.service._ownership.partitions.items():
                assert not one.members.unsynced
                for other in gateways:
                    truth = set(other.service.registrar.membership.snapshot(partition).keys)
                    assert one.members.keys_of(other.name) == truth
            assert not node.service.writer.busy()

    def judge_swept(self) -> None:
        """When the windows of all that is lost are over."""
        gateways = {node.name for node in self.alive("gateway") if node.serving}
        inboxes = {
            name.removeprefix(INBOX_STREAM_PREFIX)
            for name in self.nats.streams.streams
            if name.startswith(INBOX_STREAM_PREFIX)
        }
        assert inboxes <= gateways, f"the inboxes of {inboxes - gateways} are left"
        for node in self.alive("router"):
            for one in node.service._ownership.partitions.values():
                assert not one.members.lost
                assert not one.members.lost_unknown
        there = {client.session.connection_id for client in self.clients if client.session is not None}
        for session_id in self.announced - there:
            assert self.ended[session_id] == 1, f"{session_id} was not ended"
        for session_id, count in self.told_over.items():
            assert (count, self.ended[session_id]) == (1, 1), session_id


def instrument_reliable(world: ReliableWorld) -> None:
    """Clocks of the world, and sizes with which everything happens within a few seconds."""
    instrument(world)
    clock: Any = SimpleNamespace(time=lambda: UNIX_TIME + world.now)
    holder: Any = gateway.reliable.holder
    service: Any = gateway.reliable.service
    upkeep: Any = gateway.reliable.upkeep
    entries: Any = hubwire.bus.inbox_entries
    reader: Any = hubwire.bus.inbox_reader
    holder.time = service.time = clock
    upkeep.TRIM_SECONDS = world.chance.choice((1.0, 3.0, 30.0))
    upkeep.TRIM_BYTES = world.chance.choice((2_000, 20_000))
    upkeep.ENTRIES_PER_TURN = 2
    entries.PART_BYTES = world.chance.choice((200, 2_000))
    reader.PAGE_MESSAGES = 7
    reader.PAGE_BYTES = 2_000
    random.seed(world.seed)


def simulate(
    seed: int, kinds: tuple[str, ...] = KINDS, *, loud: bool = True
) -> tuple[ReliableWorld, Verdict]:
    """One schedule. Raises AssertionError; what happened is printed then, when it is to be `loud`."""
    shrink(PARTITIONS)
    world = ReliableWorld(seed)
    world.kinds = kinds
    instrument_reliable(world)
    for role in ("router", "router", "gateway", "gateway", "gateway"):
        world.add(role)
    try:
        world.run(3.0)
        world.begin(world.chance.choice((2, 4, 6)), pace=6.0)
        world.run(1.0)
        for _ in range(world.chance.choice((2, 4, 8))):
            world.run(world.chance.expovariate(1.0))
            world.fault()
        world.run(world.chance.choice((0.5, 2.0, 5.0)))
        world.heal()
        world.run(2.0)
        world.calm = True
        world.settle()
        verdict = world.verdict()
        if seed % 4 == 0:
            world.run(60.0)
            world.settle()
            world.judge_swept()
    except AssertionError:
        if loud:
            print("\n".join(sorted([*world.events, *world.notes])))
        raise
    finally:
        world.close()
    return world, verdict


def main() -> None:
    """Run the seeds that were named, `7` or `1-100`; with a second argument only these kinds of faults, with
    commas between. All are run, whatever becomes of them; the exit code says whether all went well."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    first, _, last = sys.argv[1].partition("-")
    kinds = tuple(sys.argv[2].split(",")) if len(sys.argv) > 2 else KINDS
    failed = []
    for seed in range(int(first), int(last or first) + 1):
        try:
            world, verdict = simulate(seed, kinds)
        except AssertionError as error:
            failed.append(seed)
            print(f"seed {seed} FAILED: {error}\nAgain: make simulate SEEDS={seed}", end="")
            print("" if kinds == KINDS else f" ARGS='{sys.argv[2]}'", flush=True)
            continue
        print(
            f"seed {seed}: {len(world.events)} faults, {verdict.sessions} sessions, "
            f"{verdict.recoveries} recoveries, {verdict.acked} acked, {verdict.checked} deliveries owed",
            flush=True,
        )
    if failed:
        print(f"Failed: {' '.join(map(str, failed))}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
