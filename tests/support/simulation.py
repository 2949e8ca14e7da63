"""The distributed core in virtual time: real routers and the gateways' real membership, a simulated NATS.

Every process has an event loop of its own, stepped by the world; a paused process's loop is not stepped, a
killed one's never again. Faults come from a seed. What is checked:

- `confirmed in epoch order`: of one partition nobody confirms anything under a lower epoch than somebody
  confirmed under before, in true time. So never two routers at once, however they slept.
- epochs of the table only grow, also when the table was lost.
- what was acked arrives at every gateway that was a member all the time and had no fault of its own, once,
  in the order of its publisher; and in one order everywhere, unless it had to be forwarded twice.
- when the faults are over, every partition has a living owner, and the owners know exactly the members.

    PYTHONHASHSEED=0 python -m support.simulation 1 20       # seeds from and to
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
from support.sim_bus import SimBus, SimNats, SimStore

import router.app
import router.ownership
import router.ring
import router.service
from gateway.delivery import Delivery
from gateway.hub import LocalHubs
from gateway.registrar import Registrar
from hubwire.bus.dispatcher import Dispatcher
from hubwire.bus.envelopes import ASK, DELIVER, NOT_MINE, PUBLISH, Body, pack_body, unpack
from hubwire.bus.keys import PARTITIONS, group_key, partition_of
from hubwire.bus.owners import EMPTY_TABLE, OwnersTable, OwnersView
from hubwire.bus.subjects import gateway_subject
from hubwire.model.errors import HubwireError, Unavailable
from hubwire.model.message import DataType, Message
from hubwire.runtime.leases import Lease
from hubwire.runtime.process import ProcessConfig
from hubwire.runtime.service import Stop
from router.ownership import Owned

START = 1000.0
UNIX_TIME = 1_700_000_000.0  # of the world's clock at 0
GROUPS = [f"s{number}" for number in range(10)]
KEYS = {group_key("sim", group): group for group in GROUPS}
CONFIG = ProcessConfig(role="router", lease_seconds=3.0)


class _Never(asyncio.SelectorEventLoop):
    """A loop that the world steps; its clock is the world's. It has no sockets, so it never polls."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self.world.now

    def step(self) -> float:
        """Run what is due, as `_run_once` does, without select. Returns when it wants to be stepped next."""
        now = self.world.now
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        asyncio._set_running_loop(self)
        try:
            while scheduled and (scheduled[0]._cancelled or scheduled[0]._when <= now):
                handle = heapq.heappop(scheduled)
                handle._scheduled = False
                if handle._cancelled:
                    self._timer_cancelled_count = max(0, self._timer_cancelled_count - 1)
                else:
                    ready.append(handle)
            for _ in range(len(ready)):
                handle = ready.popleft()
                if not handle._cancelled:
                    handle._run()
        finally:
            asyncio._set_running_loop(None)
        if ready:
            return now
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
            self._timer_cancelled_count = max(0, self._timer_cancelled_count - 1)
        return float(scheduled[0]._when) if scheduled else float("inf")


class Node:
    """A process: a loop, and whether it is stepped."""

    def __init__(self, world: World, role: str) -> None:
        self.world = world
        self.role = role
        self.loop = _Never(world)
        self.loop.set_exception_handler(self._broken)
        self.due = 0.0  # when it is to be stepped next
        self.paused_until = 0.0
        self.dead = False
        self.told = False
        self.bus: SimBus | None = None
        self.faults: list[tuple[float, float]] = []  # from when to when this very process or its link was hit

    def soon(self, call: Callable[..., object], *arguments: Any) -> None:
        if not self.dead:
            self.loop.call_soon(call, *arguments)
            self.due = 0.0

    def step(self) -> None:
        self.due = self.loop.step()

    def _broken(self, _loop: object, context: dict[str, Any]) -> None:
        if not self.dead:
            self.world.failures.append(context.get("exception") or RuntimeError(context["message"]))

    def start(self, main: Coroutine[Any, Any, None]) -> None:
        async def body() -> None:
            try:
                await main
            except* Unavailable as group:
                if not self.told:  # told to stop at its start
                    self.world.failures.append(group)
            except* Exception as group:
                self.world.failures.append(group)
            self.dead = True

        asyncio._set_running_loop(self.loop)
        self.task = self.loop.create_task(body())
        asyncio._set_running_loop(None)

    def kill(self) -> None:
        self.dead = True
        self.faults.append((self.world.now, float("inf")))
        if self.bus is not None:
            self.bus.disconnect()

    def pause(self, seconds: float) -> None:
        self.paused_until = self.world.now + seconds
        self.faults.append((self.world.now, self.paused_until))

    def close(self) -> None:
        """Let go of what is left, also of a process that was killed: this is no part of the simulation."""
        self.dead = True
        if self.bus is not None:
            self.bus.connected = False
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        for _ in range(50):
            if all(task.done() for task in left):
                break
            self.loop.step()
        self.loop.close()

    @property
    def awake(self) -> bool:
        return not self.dead and self.paused_until <= self.world.now


class RouterNode(Node):
    """`router.app`, whole, with its bus exchanged."""

    def __init__(self, world: World) -> None:
        super().__init__(world, "router")
        asyncio._set_running_loop(self.loop)
        self.stop = Stop()
        asyncio._set_running_loop(None)
        self.service: router.service.RouterService | None = None
        self.start(self._run())

    async def _run(self) -> None:
        while True:
            await router.app.serve(CONFIG, self.stop.for_one_run())
            if self.stop.told:
                return

    def terminate(self) -> None:
        self.told = True
        self.soon(self.stop.now, "told")


@dataclass
class _Stay:
    """A gateway's membership of a group: from its confirmation to the moment of leaving."""

    gateway: GatewayNode
    group: str
    since: float
    until: float = float("inf")


class _Member:
    """A connection, for the hub table."""

    def __init__(self, name: str) -> None:
        self.id = name
        self.hub = "sim"
        self.user_id = None
        self.groups: set[str] = set()


class _RecordingDelivery(Delivery):
    def __init__(self, node: GatewayNode) -> None:
        super().__init__(node.hubs, node.loop.time)  # type: ignore[arg-type]
        self._node = node

    def to(self, members: Any, content: Body, hub: str, kind: str) -> int:
        self._node.arrived[content.message.group or ""].append(content.message.data.decode())
        return 1


class GatewayNode(Node):
    """A gateway's membership, registrar, dispatcher and delivery; one member that joins and leaves."""

    def __init__(self, world: World) -> None:
        super().__init__(world, "gateway")
        self.hubs: LocalHubs[Any] = LocalHubs()
        self.arrived: dict[str, list[str]] = defaultdict(list)
        self.stays: dict[str, _Stay] = {}
        self.registrar: Registrar | None = None
        self.dispatcher: Dispatcher | None = None
        self.lost = False
        self.start(self._run())

    async def _run(self) -> None:
        world = self.world
        bus = self.bus = SimBus(self)
        while not bus.connected:
            bus.connect()
            await asyncio.sleep(0.1)
        self.name = world.new_name()
        owners = OwnersView(bus, SimStore(bus))  # type: ignore[arg-type]
        self.dispatcher = Dispatcher(bus, owners, self.name)  # type: ignore[arg-type]
        lease = Lease(
            bus,  # type: ignore[arg-type]
            "gateway",
            self.name,
            CONFIG.lease_seconds,
            memory=True,
            replicas=1,
            clock=self.loop.time,
        )
        over = asyncio.Event()
        lease.on_lost = over.set
        self.delivery = _RecordingDelivery(self)
        registrar = Registrar(self.dispatcher, owners)
        owners.on_change(self._table_changed)
        await lease.acquire()
        self.member = _Member(f"member-of-{self.name}")
        await bus.subscribe(gateway_subject(self.name), self._arrived)
        tasks = [asyncio.create_task(work) for work in (lease.run(), owners.run(), self._live())]
        self.hubs.add(self.member)
        self.registrar = registrar
        registrar.announce_all()
        await over.wait()
        # As the real one: its clients are told to go, its name is used up. Here it simply ends.
        self.lost = True
        for stay in self.stays.values():
            stay.until = min(stay.until, world.now)
        for task in tasks:
            task.cancel()
        self.dispatcher.close()
        await bus.close()

    def _table_changed(self, table: OwnersTable) -> None:
        for partition, owner in enumerate(table.owners):
            if owner is not None:
                self.delivery.epoch_seen(partition, owner.epoch)

    def _arrived(self, _subject: str, _reply: str, data: bytes) -> None:
        _, kind, _, content = unpack(data)
        if kind == DELIVER:
            for item in content:
                self.delivery.envelope(*item)
        elif kind == ASK:
            assert self.registrar is not None
            self.registrar.asked(content)

    async def _live(self) -> None:
        """Join, leave and publish at random."""
        chance = random.Random(self.world.chance.random())
        while True:
            await asyncio.sleep(chance.expovariate(20))
            group = chance.choice(GROUPS)
            if chance.random() < 0.15 and not self.world.calm:
                self._toggle(group)
            else:
                self.world.publish(self, group)

    def _toggle(self, group: str) -> None:
        assert self.registrar is not None
        if group in self.member.groups:
            stay = self.stays.pop(group, None)
            if stay is not None:
                stay.until = self.world.now
            for key in self.hubs.leave(self.member, group):
                self.registrar.leave(key)
            return
        try:
            for key in self.hubs.join(self.member, group):
                self.registrar.join(key)
        except Unavailable:
            self.hubs.leave(self.member, group)
            return

        def confirmed(error: HubwireError | None) -> None:
            if error is None and group in self.member.groups:
                stay = self.stays[group] = _Stay(self, group, self.world.now)
                self.world.stays.append(stay)
            elif error is not None and group in self.member.groups:
                for key in self.hubs.leave(self.member, group):
                    self.registrar.leave(key)  # type: ignore[union-attr]

        self.registrar.when_confirmed(group_key("sim", group), confirmed)


@dataclass
class _Sent:
    group: str
    text: str
    sender: str
    number: int
    at: float
    acked: float = 0.0


@dataclass
class World:
    seed: int
    memory: bool = False
    now: float = START
    calm: bool = False
    failures: list[BaseException] = field(default_factory=list)
    stays: list[_Stay] = field(default_factory=list)
    sent: list[_Sent] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    cuts: list[tuple[float, float]] = field(default_factory=list)  # times in which NATS itself was away
    forwarded: Counter[tuple[str, int]] = field(default_factory=Counter)
    confirms: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self._ids = itertools.count(1)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self.nats = SimNats(self)
        self.nodes: list[Node] = []
        self._epochs = [0] * PARTITIONS
        self._confirmed: list[tuple[int, str]] = [(0, "")] * PARTITIONS

    def close(self) -> None:
        for node in self.nodes:
            node.close()
        self._heap.clear()

    # -- for the bus -------------------------------------------------------------------------------

    def next_id(self) -> int:
        return next(self._ids)

    def new_name(self) -> str:
        return f"{self.chance.getrandbits(36):09x}"

    def delay(self) -> float:
        slow = self.chance.random() * self.nats.slow if self.nats.slow else 0.0
        return 0.0002 + self.chance.random() * 0.002 + slow

    def at(self, when: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, self.next_id(), call))

    # -- what is checked as it happens ---------------------------------------------------------------

    def _check(self, holds: bool, fault: str) -> None:
        """What happens inside of a process's loop cannot raise: the loop would swallow it."""
        if not holds:
            self.failures.append(AssertionError(f"at {self.now - START:.3f}: {fault}"))

    def table_written(self, table: OwnersTable) -> None:
        for partition, owner in enumerate(table.owners):
            if owner is not None:
                # With the bucket an entry may be lost, and an older one come back; it is not served then.
                grows = owner.epoch >= self._epochs[partition] or self.nats.losses > 0
                self._check(grows, f"the epoch of {partition} fell to {owner}")
                self._epochs[partition] = max(self._epochs[partition], owner.epoch)

    def confirmed(self, router_name: str, partition: int, epoch: int) -> None:
        """A router has just confirmed something for a partition, in true time."""
        self.confirms += 1
        highest, who = self._confirmed[partition]
        self._check(
            epoch > highest or (epoch == highest and who == router_name),
            f"{router_name} confirmed for {partition} under epoch {epoch}, after {who} had under {highest}",
        )
        self._confirmed[partition] = max(self._confirmed[partition], (epoch, router_name))

    # -- traffic -------------------------------------------------------------------------------------

    def publish(self, node: GatewayNode, group: str) -> None:
        dispatcher = node.dispatcher
        assert dispatcher is not None
        key = group_key("sim", group)
        number = dispatcher.next_number()
        sent = _Sent(group, f"{node.name} {number}", node.name, number, self.now)
        body = pack_body(Message(DataType.TEXT, sent.text.encode() + b" " * (number % 7) * 500))

        def acked(_answer: Any, error: HubwireError | None) -> None:
            if error is None:
                sent.acked = self.now

        try:
            dispatcher.submit(
                partition_of(key), [PUBLISH, partition_of(key), key, number, body], acked, size=len(body)
            )
        except Unavailable:
            return
        self.sent.append(sent)

    # -- time ----------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let everything happen for so long."""
        end = self.now + seconds
        heap = self._heap
        while True:
            now, following = self.now, float("inf")
            for node in self.nodes:
                if node.paused_until > now and not node.dead:
                    following = min(following, node.paused_until)
                    continue
                while node.due <= now and not node.dead:
                    node.step()
                if node.due < following and not node.dead:
                    following = node.due
            if heap and heap[0][0] <= now:
                heapq.heappop(heap)[2]()
                continue
            if heap and heap[0][0] < following:
                following = heap[0][0]
            if following > end:
                self.now = end
                return
            self.now = max(now, following)

    # -- faults --------------------------------------------------------------------------------------

    def alive(self, role: str) -> list[Any]:
        return [node for node in self.nodes if node.role == role and not node.dead]

    def add(self, role: str) -> None:
        self.nodes.append(RouterNode(self) if role == "router" else GatewayNode(self))

    def cut(self, nodes: list[Any], seconds: float) -> None:
        for node in nodes:
            if node.bus is not None:
                node.bus.disconnect()
            node.faults.append((self.now, self.now + seconds))
            back = self.now + seconds + self.chance.random() * 0.3
            self.at(back, partial(self._reconnect, node, self.now))

    def _reconnect(self, node: Any, since: float) -> None:
        if node.dead or node.bus is None:
            return
        if not self.nats.up:
            self.at(self.now + 0.2, partial(self._reconnect, node, since))
            return
        node.faults.append((since, self.now))
        node.bus.connect()

    def fault(self) -> None:
        """One event, at random."""
        chance = self.chance
        routers, gateways = self.alive("router"), self.alive("gateway")
        choices = ["kill", "stop", "pause", "pause", "cut", "slow", "stall", "nats", "pause gateway"]
        choices += ["kill gateway", "cut gateway", "add", "add"]
        event = chance.choice(choices)
        seconds = chance.choice((0.05, 0.3, 1.0, 1.3, 1.6, 2.5, 4.0)) * chance.uniform(0.8, 1.2)
        self.events.append(f"{self.now - START:8.3f} {event} {seconds:.2f}")
        if event == "add":
            if len(routers) < 4:
                self.add("router")
            if len(gateways) < 4:
                self.add("gateway")
        elif event == "slow":
            self.nats.slow = chance.choice((0.02, 0.1, 0.3))
            self.at(self.now + seconds, lambda: setattr(self.nats, "slow", 0.0))
        elif event == "stall":
            self.nats.stalled = True
            self.at(self.now + seconds, lambda: setattr(self.nats, "stalled", False))
        elif event == "nats":
            self.nats.up = False
            self.cuts.append((self.now - 1.0, self.now + seconds + 1.0))
            self.cut([node for node in self.nodes if not node.dead], seconds)
            if self.memory:
                self.nats.forget()
            self.at(self.now + seconds, lambda: setattr(self.nats, "up", True))
        elif "gateway" in event:
            if gateways:
                self._hit(chance.choice(gateways), event.split()[0], seconds)
        elif routers:
            self._hit(chance.choice(routers), event, seconds)

    def _hit(self, node: Any, how: str, seconds: float) -> None:
        if how == "kill":
            node.kill()
        elif how == "stop":
            node.terminate()
        elif how == "pause":
            node.pause(seconds)
        else:
            self.cut([node], seconds)

    # -- judgement -----------------------------------------------------------------------------------

    def judge(self) -> int:
        assert not self.failures, self.failures
        gateways = [node for node in self.nodes if isinstance(node, GatewayNode)]
        for node in gateways:
            for texts in node.arrived.values():
                last: dict[str, int] = {}
                for text in texts:
                    sender, number = text.split()
                    assert int(number) > last.get(sender, 0), f"{text} again or late at {node.name}"
                    last[sender] = int(number)
        owed = 0
        arrived = {
            id(node): {g: set(map(str.strip, t)) for g, t in node.arrived.items()} for node in gateways
        }
        by_group = defaultdict(list)
        for sent in self.sent:
            if sent.acked and not any(begin <= sent.acked and sent.at <= end for begin, end in self.cuts):
                by_group[sent.group].append(sent)
        for stay in self.stays:
            faults = stay.gateway.faults
            for sent in by_group[stay.group]:
                if not (stay.since < sent.at and sent.acked + 1.0 < min(stay.until, self.now)):
                    continue
                if any(begin - 1.0 <= sent.acked and sent.at <= end + 1.0 for begin, end in faults):
                    continue
                owed += 1
                assert sent.text in arrived[id(stay.gateway)].get(stay.group, ()), (
                    f"{sent.text} to {sent.group}, sent {sent.at - START:.3f}, "
                    f"acked {sent.acked - START:.3f}, did not arrive at {stay.gateway.name}, "
                    f"member since {stay.since - START:.3f}"
                )
        self._judge_order(gateways)
        return owed

    def _judge_order(self, gateways: list[GatewayNode]) -> None:
        """Any two messages that were forwarded once each stand in one order everywhere."""
        for group in GROUPS:
            before: dict[tuple[str, str], str] = {}
            for node in gateways:
                texts = [text.strip() for text in node.arrived.get(group, ())]
                once = [t for t in texts if self.forwarded[(t.split()[0], int(t.split()[1]))] == 1]
                for first, second in itertools.pairwise(once):
                    pair = (min(first, second), max(first, second))
                    assert before.setdefault(pair, first) == first, f"{pair} in two orders in {group}"

    def judge_end(self) -> None:
        """After the quiet: owners live, epochs fit, and the members are exactly those that are."""
        routers = self.alive("router")
        names = {node.service.name: node for node in routers}
        gateways = [node for node in self.alive("gateway") if not node.lost]
        owned = 0
        for node in routers:
            ownership = node.service._ownership
            assert node.service._lease.valid
            for partition, one in ownership.partitions.items():
                assert ownership.speaks_for(partition) is one
                owned += 1
                assert not one.members.unsynced, f"{one.members.unsynced} never sent a snapshot"
                assert set(one.members.gateways) == {gateway.name for gateway in gateways}
                for gateway in gateways:
                    assert gateway.registrar is not None
                    truth = set(gateway.registrar.membership.snapshot(partition).keys)
                    assert one.members.keys_of(gateway.name) == truth
        assert owned == PARTITIONS, f"{owned} partitions are owned by {sorted(names)}"
        for gateway in gateways:
            assert gateway.dispatcher is not None
            keys = {group_key("sim", group) for group in gateway.member.groups} | {"h\0sim"}
            assert gateway.registrar is not None
            assert gateway.registrar.membership.keys() - {"h\0sim"} == keys - {"h\0sim"}


def shrink(partitions: int) -> None:
    """A cluster of fewer partitions, in this process: most of a simulation's time would go into looking after
    each of them."""
    for module in [*sys.modules.values()]:
        if getattr(module, "PARTITIONS", None) == PARTITIONS:
            module.PARTITIONS = partitions  # type: ignore[attr-defined]
        if getattr(module, "EMPTY_TABLE", None) is EMPTY_TABLE:
            module.EMPTY_TABLE = OwnersTable(0, (None,) * partitions)  # type: ignore[attr-defined]
    router.ring._placement.cache_clear()


def instrument(world: World) -> None:
    """Give `router.app` simulated parts, and hear what routers confirm."""

    def node_of() -> RouterNode:
        loop = asyncio.get_running_loop()
        return next(node for node in world.nodes if node.loop is loop)  # type: ignore[return-value]

    async def connect_bus(_config: ProcessConfig, _name: str, _stop: Stop) -> SimBus:
        node = node_of()
        bus = SimBus(node)
        while not bus.connected:
            bus.connect()
            if not bus.connected:
                await asyncio.sleep(0.1)
        node.bus = bus
        return bus

    def open_owners(bus: SimBus, _config: ProcessConfig) -> tuple[SimStore, OwnersView]:
        store = SimStore(bus)
        return store, OwnersView(bus, store)  # type: ignore[arg-type]

    class Heard(router.service.RouterService):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            node_of().service = self

        def _entry(self, owned: Owned, sender: str, entry: list[Any], out: dict[str, list[bytes]]) -> Any:
            before = self.publishes
            answer = super()._entry(owned, sender, entry, out)
            if answer != NOT_MINE:
                world.confirmed(self.name, entry[1], owned.epoch)
                if self.publishes > before:
                    world.forwarded[(sender, entry[3])] += 1
            return answer

    app: Any = router.app
    app.connect_bus = connect_bus
    app.open_owners = open_owners
    app.new_run_name = world.new_name
    app.RouterService = Heard
    app.Lease = partial(Lease, clock=lambda: world.now)
    ownership: Any = router.ownership
    ownership.time = type("time", (), {"time": staticmethod(lambda: UNIX_TIME + world.now)})


def simulate(seed: int, *, faults: int = 40) -> World:
    """One world, from its start through its faults to its end. Raises AssertionError."""
    world = World(seed, memory=seed % 3 == 0)
    instrument(world)
    for role in ("router", "router", "gateway", "gateway", "gateway"):
        world.add(role)
    try:
        world.run(4.0)
        for _ in range(faults):
            world.run(world.chance.expovariate(1.0))
            world.fault()
        world.run(8.0)
        for role in ("router", "gateway"):
            if not world.alive(role):
                world.add(role)
        world.nats.up, world.nats.stalled, world.nats.slow = True, False, 0.0
        world.run(8.0)
        world.calm = True
        world.run(12.0)
        world.judge()
        world.judge_end()
    except AssertionError:
        print("\n".join(world.events))
        raise
    finally:
        world.close()
    return world


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    first, last = (int(text) for text in sys.argv[1:3])
    for seed in range(first, last + 1):
        try:
            world = simulate(seed)
        except AssertionError as error:
            print(f"seed {seed}: {error}", flush=True)
            raise
        owed = world.judge()
        print(
            f"seed {seed}: {len(world.events)} faults, {world.confirms} confirmations, "
            f"{sum(1 for one in world.sent if one.acked)} of {len(world.sent)} acked, {owed} deliveries owed",
            flush=True,
        )


if __name__ == "__main__":
    main()
