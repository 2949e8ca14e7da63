"""Twenty faults in an order that a seed decides, while messages flow and every promise is checked.

`HUBWIRE_TEST_SEED=123 pytest tests/chaos/test_random_faults.py` repeats a run that failed.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from support.members import Member, assert_at_most_once_in_order, until
from support.nats import NatsServer
from support.observer import observe
from support.processes import Fleet, Service

GROUPS = [f"r{number}" for number in range(8)]
EVENTS = 20
MAX_ROUTERS, MAX_GATEWAYS = 3, 3
ON_THEIR_WAY_SECONDS = 1.0


@dataclass
class Stay:
    """A member's time on one connection: from the ack of its joins to the moment it was seen closed."""

    member: Member
    gateway: Service
    since: float
    until: float = float("inf")


@dataclass
class Sent:
    group: str
    text: str
    sent_at: float
    acked_at: float


@dataclass
class Record:
    """What happened, to be judged at the end."""

    stays: list[Stay] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    nats_faults: list[tuple[float, float]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    begin: float = field(default_factory=time.monotonic)

    def note(self, event: str) -> None:
        self.events.append(f"{time.monotonic() - self.begin:6.2f} {event}")


class World:
    """The processes, and who of them is paused."""

    def __init__(self, fleet: Fleet, nats: NatsServer, chance: random.Random, record: Record) -> None:
        self.fleet = fleet
        self.nats = nats
        self.chance = chance
        self.record = record
        self.paused: set[Service] = set()
        self.tasks: list[asyncio.Task[None]] = []
        self.over = False

    def running(self, role: str) -> list[Service]:
        return [one for one in self.fleet.services if one.role == role and one.running]

    def usable_gateway(self) -> Service | None:
        usable = [one for one in self.running("gateway") if one not in self.paused]
        return self.chance.choice(usable) if usable else None

    async def event(self) -> None:
        """One fault, of those that are possible now."""
        routers, gateways = self.running("router"), self.running("gateway")
        awake = [one for one in [*routers, *gateways] if one not in self.paused]
        possible: list[tuple[str, int]] = []
        if len(routers) < MAX_ROUTERS:
            possible.append(("add router", 3))
        if routers:
            possible += [("kill router", 4), ("stop router", 2)]
        if len(gateways) < MAX_GATEWAYS:
            possible.append(("add gateway", 3))
        if len(gateways) > 1:
            possible += [("kill gateway", 3), ("stop gateway", 1)]
        if awake:
            possible.append(("pause", 2))
        if not self.record.nats_faults:
            possible.append(("restart nats", 2))
        event = self.chance.choices([name for name, _ in possible], [weight for _, weight in possible])[0]
        self.record.note(event)
        if event.startswith("add"):
            await asyncio.to_thread(self.fleet.make("router" if "router" in event else "gateway").launch)
        elif event == "pause":
            victim, seconds = self.chance.choice(awake), self.chance.uniform(0.2, 4.0)
            self.tasks.append(asyncio.create_task(self.pause(victim, seconds)))
        elif event == "restart nats":
            begin = time.monotonic()
            await asyncio.to_thread(self.nats.kill)
            await asyncio.sleep(self.chance.uniform(0, 2))  # the fault itself
            await asyncio.to_thread(self.nats.start)
            self.record.nats_faults.append((begin - ON_THEIR_WAY_SECONDS, time.monotonic() + 2))
        else:
            victim = self.chance.choice(routers if "router" in event else gateways)
            if victim in self.paused:
                victim.resume()
                self.paused.discard(victim)
            if "kill" in event:
                await asyncio.to_thread(victim.kill)
            else:
                victim.terminate()

    async def pause(self, victim: Service, seconds: float) -> None:
        self.paused.add(victim)
        victim.pause()
        await asyncio.sleep(seconds)  # the fault itself
        if victim in self.paused and victim.running:
            victim.resume()
            self.record.note(f"{victim.log.name} wakes after {seconds:.1f} s")
        self.paused.discard(victim)

    async def connect(self, user: str) -> tuple[Member, Service] | None:
        gateway = self.usable_gateway()
        if gateway is None:
            return None
        try:
            async with asyncio.timeout(4):
                return await Member.connect(gateway, user, seconds=3), gateway
        except Exception:
            return None  # it was killed, or paused, or there is no router: elsewhere, then


async def follow(world: World, user: str) -> None:
    """A member of all groups that comes back, somewhere, whenever it is cut off."""
    while not world.over:
        found = await world.connect(user)
        if found is None:
            await asyncio.sleep(0.05)
            continue
        member, gateway = found
        joined = await asyncio.gather(*(member.join(group) for group in GROUPS), return_exceptions=True)
        if all(one is True for one in joined):
            stay = Stay(member, gateway, time.monotonic())
            world.record.stays.append(stay)
            await member.closed()
            stay.until = time.monotonic()
        else:
            await member.close()


async def publish(world: World, group: str) -> None:
    """Publishes to one group, over as many connections as it takes; a new name for each."""
    run = 0
    while not world.over:
        run += 1
        found = await world.connect(f"p-{group}")
        if found is None:
            await asyncio.sleep(0.05)
            continue
        member, _ = found
        number = 0
        while member.open and not world.over:
            text = f"{group}-{run} {number}"
            number += 1
            sent_at = time.monotonic()
            try:
                acked = await member.publish(group, text)
            except TimeoutError:
                break
            if acked:
                world.record.sent.append(Sent(group, text, sent_at, time.monotonic()))
            await asyncio.sleep(0.01)
        await member.close()


def judge(record: Record) -> int:
    """Every promise, for every connection. Returns how many deliveries were owed, and made."""
    owed = 0
    for stay in record.stays:
        for group in GROUPS:
            assert_at_most_once_in_order(stay.member.of(group))
        arrived = set(stay.member.arrived)
        for sent in record.sent:
            there = stay.since < sent.sent_at and sent.acked_at + ON_THEIR_WAY_SECONDS < stay.until
            cut = any(begin <= sent.acked_at and sent.sent_at <= end for begin, end in record.nats_faults)
            if there and not cut:
                owed += 1
                assert (sent.group, sent.text) in arrived, (
                    f"{sent.text}, sent at {sent.sent_at - record.begin:.2f} and acked at "
                    f"{sent.acked_at - record.begin:.2f}, is missing on {stay.gateway.log.name} "
                    f"(member since {stay.since - record.begin:.2f})"
                )
    return owed


def seed() -> int:
    return int(os.environ.get("HUBWIRE_TEST_SEED") or 20)


async def test_every_promise_holds_through_twenty_random_faults(tmp_path: Path) -> None:
    chosen = seed()
    print("seed:", chosen)
    chance, record = random.Random(chosen), Record()
    with NatsServer(tmp_path) as nats, Fleet(tmp_path, [nats.url]) as fleet:
        world = World(fleet, nats, chance, record)
        fleet.start_all("router", "router", "gateway", "gateway")
        followers = [asyncio.create_task(follow(world, f"m{number}")) for number in range(4)]
        publishers = [asyncio.create_task(publish(world, group)) for group in GROUPS]
        try:
            await until(lambda: len(record.stays) == 4 and len(record.sent) > 50, 15, "the start")
            for _ in range(EVENTS):
                await world.event()
                await asyncio.sleep(chance.uniform(0.1, 0.9))  # the pace of the faults
            await until(lambda: not world.paused, 10, "all are awake")
            for role in ("router", "gateway"):
                if not world.running(role):
                    await asyncio.to_thread(fleet.start, role)
            async with observe(fleet.config) as observer:
                await until(lambda: observer.owners_named() <= observer.routers.alive, 15, "owners live")
                calm = time.monotonic()
                await until(
                    lambda: (
                        {one.group for one in record.sent if one.sent_at > calm} == set(GROUPS)
                        and sum(not stay.member.open for stay in record.stays) == len(record.stays) - 4
                    ),
                    20,
                    "all publish, and all are members again",
                )
                calm, quiet = time.monotonic(), len(record.sent)
                await until(lambda: len(record.sent) > quiet + 300, 20, "messages flow")
            await arrived_at_all(record, lambda one: one.sent_at > calm)
        finally:
            world.over = True
            await asyncio.gather(*publishers)
            for task in [*followers, *world.tasks]:
                task.cancel()
            await asyncio.gather(*followers, *world.tasks, return_exceptions=True)
            print("\n".join(record.events))
        owed = judge(record)
        print("acked:", len(record.sent), "deliveries owed:", owed, "connections:", len(record.stays))
        assert owed > 1000
        for stay in record.stays:
            await stay.member.close()


async def arrived_at_all(record: Record, wanted: Callable[[Sent], bool]) -> None:
    """What was published after the last fault reaches everybody who is there."""
    texts = {(one.group, one.text) for one in record.sent if wanted(one)}
    here = [stay for stay in record.stays if stay.member.open]
    assert texts
    for stay in here:
        mine = {
            (one.group, one.text)
            for one in record.sent
            if (one.group, one.text) in texts and one.sent_at > stay.since
        }
        await until(lambda stay=stay, mine=mine: mine <= set(stay.member.arrived), 10, "all has arrived")
