"""Leases in virtual time, over the simulated NATS of tests/support."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.sim_bus import SimBus
from support.simulation import Node, World

from hubwire.bus.subjects import lease_subject
from hubwire.runtime.lease_bucket import BUCKET_TTL_SECONDS, LeaseMessage, margin_of
from hubwire.runtime.leases import Lease, LeaseWatch

TTL = 1.2
GONE = TTL + margin_of(TTL)
NOTICED = 0.2  # a look every 50 ms, and a few messages


class Holder(Node):
    def __init__(self, world: World, name: str, *, role: str = "router", strict: bool = True) -> None:
        super().__init__(world, "router")
        self.name = name
        self.lost = 0
        self.lease: Lease
        self._role, self._strict = role, strict
        self.start(self._run())
        world.nodes.append(self)

    async def _run(self) -> None:
        self.bus = SimBus(self)
        self.bus.connect()
        clock = lambda: self.world.now  # noqa: E731
        lease: Any = Lease
        self.lease = lease(
            self.bus, self._role, self.name, TTL, memory=True, replicas=1, strict=self._strict, clock=clock
        )
        self.lease.on_lost = self._on_lost
        await self.lease.acquire()
        await self.lease.run()

    def _on_lost(self) -> None:
        self.lost += 1


class Reader(Node):
    def __init__(self, world: World, *, judges: bool = True, role: str = "router") -> None:
        super().__init__(world, "reader")
        self.heard: list[tuple[str, bool]] = []
        self.watch: LeaseWatch
        self._judges, self._role = judges, role
        self.start(self._run())
        world.nodes.append(self)

    async def _run(self) -> None:
        self.bus = SimBus(self)
        self.bus.connect()
        watch: Any = LeaseWatch
        self.watch = watch(self.bus, self._role, default_ttl=TTL, judges=self._judges)
        self.watch.on_change(lambda name, alive: self.heard.append((name, alive)))
        await self.watch.run()


class Judge(Node):
    """As a router: it has a lease, and judges those of its role."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, "router")
        self.name = name
        self.lost = 0
        self.lease: Lease
        self.watch: LeaseWatch
        self.start(self._run())
        world.nodes.append(self)

    async def _run(self) -> None:
        self.bus = SimBus(self)
        self.bus.connect()
        watch: Any = LeaseWatch
        lease: Any = Lease
        self.watch = watch(self.bus, "router", default_ttl=TTL, judges=True, own=self.name)
        clock = lambda: self.world.now  # noqa: E731
        self.lease = lease(
            self.bus, "router", self.name, TTL, memory=True, replicas=1, strict=True, clock=clock
        )
        self.lease.on_lost = self._on_lost
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.watch.run())
            await self.watch.ready()
            await self.lease.acquire()
            tasks.create_task(self.lease.run())

    def _on_lost(self) -> None:
        self.lost += 1


@pytest.fixture
def world() -> Iterator[World]:
    world = World(1)
    world.nats.bucket = {}
    world.nats.bucket_made = world.now - 500
    yield world
    world.close()
    assert not world.failures


def step_until(world: World, condition: Callable[[], object], seconds: float = 30.0) -> float:
    """Let time pass until something is so; how long it took."""
    begin = world.now
    while not condition():
        assert world.now - begin < seconds
        world.run(0.01)
        assert not world.failures, world.failures
    return world.now - begin


# -- the holder -------------------------------------------------------------------------------------


def test_a_lease_is_valid_while_it_is_renewed_and_not_long_after(world: World) -> None:
    holder = Holder(world, "a")
    world.run(10)
    assert holder.lease.valid
    holder.kill()
    world.run(TTL - margin_of(TTL))
    assert not holder.lease.valid


def test_a_holder_that_slept_for_less_than_its_lease_goes_on(world: World) -> None:
    holder, reader = Holder(world, "a"), Reader(world)
    world.run(2)
    holder.pause(TTL * 0.6)
    world.run(5)
    assert holder.lease.valid
    assert not holder.lost
    assert reader.heard == [("a", True)]


def test_a_holder_that_slept_for_longer_than_its_lease_is_never_valid_again(world: World) -> None:
    holder, reader = Holder(world, "a"), Reader(world)
    world.run(2)
    holder.pause(5)
    world.run(4.9)
    assert "a" not in reader.watch.alive
    assert not holder.lease.valid, "also before it has found out"
    step_until(world, lambda: holder.lost)
    world.run(5)
    assert holder.lost == 1
    assert not holder.lease.valid
    assert reader.heard == [("a", True), ("a", False)]


def test_without_a_reader_that_judges_a_lease_that_ran_out_is_taken_up_again(world: World) -> None:
    holder, reader = Holder(world, "a"), Reader(world, judges=False)
    world.run(2)
    holder.pause(5)
    world.run(4)
    assert "a" not in reader.watch.alive, "believed gone"
    world.run(3)
    assert holder.lease.valid
    assert reader.heard == [("a", True), ("a", False), ("a", True)]


@pytest.mark.parametrize("away", [0.5, 3.0, 600.0])
def test_nobody_loses_a_lease_while_nats_is_away_however_long(world: World, away: float) -> None:
    holders, reader = [Holder(world, name) for name in "abc"], Reader(world)
    world.run(2)
    world.nats.up = False
    for node in [*holders, reader]:
        node.bus.disconnect()
    world.run(away)
    assert away < TTL or not any(holder.lease.valid for holder in holders)
    world.nats.up = True
    for number, node in enumerate([*holders, reader]):
        world.at(world.now + 0.2 * number, node.bus.connect)
    world.run(5)
    assert all(holder.lease.valid for holder in holders)
    assert not any(holder.lost for holder in holders)
    assert reader.watch.alive == set("abc")
    assert not [name for name, alive in reader.heard if not alive]
    assert away < BUCKET_TTL_SECONDS


@pytest.mark.parametrize("stalled", [0.5, 4.0, 20.0])
def test_nobody_loses_a_lease_while_jetstream_elects_a_leader(world: World, stalled: float) -> None:
    # Nothing can be stored, but the attempts are heard: whoever tries is alive.
    holders, reader = [Holder(world, name) for name in "ab"], Reader(world)
    world.run(2)
    world.nats.stalled = True
    world.run(stalled)
    assert stalled < TTL or not any(holder.lease.valid for holder in holders)
    world.nats.stalled = False
    world.run(2)
    assert all(holder.lease.valid for holder in holders)
    assert reader.watch.alive == set("ab")
    assert not [name for name, alive in reader.heard if not alive]


def test_the_bucket_is_made_again_when_it_was_lost_with_the_memory(world: World) -> None:
    holder, reader = Holder(world, "a"), Reader(world)
    world.run(2)
    world.nats.forget()
    world.run(2)
    assert holder.lease.valid
    assert reader.watch.alive == {"a"}
    assert world.nats.bucket


def test_a_strict_holder_whose_lease_had_run_out_when_the_bucket_was_lost_counts_as_lost(
    world: World,
) -> None:
    # It may have been ended, and its partitions may have new owners; the proof is gone.
    router = Holder(world, "a")
    gateway = Holder(world, "b", role="gateway", strict=False)
    world.run(2)
    for holder in (router, gateway):
        holder.pause(3)
    world.run(2.9)
    world.nats.forget()
    world.run(3)
    assert router.lost == 1
    assert not router.lease.valid
    assert not gateway.lost
    assert gateway.lease.valid


def test_a_renewal_whose_answer_was_lost_does_no_harm(world: World) -> None:
    holder = Holder(world, "a")
    world.run(2)
    for _ in range(5):
        count = holder.lease._count
        step_until(world, lambda count=count: holder.lease._count > count)
        world.run(0.003)  # it is on its way, or stored, or its answer is
        holder.bus.disconnect()
        holder.bus.connect()
        world.run(1)
    assert holder.lease.valid
    assert not holder.lost


def test_release_is_known_at_once(world: World) -> None:
    holder, reader = Holder(world, "a"), Reader(world)
    world.run(2)
    holder.soon(lambda: asyncio.ensure_future(holder.lease.release()))
    world.run(0.05)
    assert not holder.lease.valid
    assert reader.heard == [("a", True), ("a", False)]
    assert reader.watch.certainly_ended("a")
    world.run(3)
    assert "a" not in reader.watch.alive


def test_that_a_holder_leaves_is_known_while_it_is_alive(world: World) -> None:
    holder, reader = Holder(world, "a"), Reader(world)
    world.run(2)
    holder.soon(lambda: asyncio.ensure_future(holder.lease.leave()))
    world.run(0.05)
    assert reader.watch.leaving == {"a"}
    world.run(3)
    assert reader.watch.alive == {"a"}
    assert holder.lease.valid


# -- the readers ------------------------------------------------------------------------------------


def test_a_newcomer_knows_everybody_before_it_says_that_it_does(world: World) -> None:
    for number in range(30):
        Holder(world, f"h{number}")
    world.run(2)
    reader = Reader(world)
    step_until(world, lambda: hasattr(reader, "watch") and reader.watch.complete)
    assert len(reader.watch.alive) == 30


def test_a_newcomer_to_a_lost_bucket_waits_for_the_census(world: World) -> None:
    holders = [Holder(world, f"h{number}") for number in range(5)]
    world.run(2)
    world.nats.forget()
    world.nats.bucket, world.nats.bucket_made = {}, world.now  # made again by another router, still empty
    reader = Reader(world)
    step_until(world, lambda: hasattr(reader, "watch") and reader.watch.complete)
    assert len(reader.watch.alive) == len(holders)


def test_a_killed_holder_is_ended_after_its_lease_and_margin_and_not_before(world: World) -> None:
    holder, reader, other = Holder(world, "a"), Reader(world), Reader(world, judges=False)
    world.run(2)
    holder.kill()
    world.run(TTL - TTL / 4 - 0.05)
    assert "a" in reader.watch.alive
    took = step_until(world, lambda: "a" not in reader.watch.alive)
    assert took < GONE + NOTICED
    world.run(0.05)
    assert "a" not in other.watch.alive
    assert reader.watch.certainly_ended("a")


def test_no_reader_ends_a_lease_that_its_holder_still_acts_on(world: World) -> None:
    for seconds in (0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2.0):
        holder = Holder(world, f"h{int(seconds * 10)}")
        reader = Reader(world)
        world.run(2)
        holder.pause(seconds)
        for _ in range(400):
            world.run(0.01)
            assert not (holder.lease.valid and reader.watch.certainly_ended(holder.name))
        holder.kill()
        reader.kill()


def test_a_reader_that_slept_does_not_believe_the_others_gone(world: World) -> None:
    holder, reader = Holder(world, "a"), Reader(world)
    world.run(2)
    reader.pause(10)
    world.run(15)
    assert reader.heard == [("a", True)]
    assert not holder.lost


@pytest.mark.parametrize("asleep", [0.3, 0.6, 1.3, 1.5, 3.0])
def test_nobody_ends_a_lease_of_its_own(world: World, asleep: float) -> None:
    """A sole router on a machine that stood still again and again had no renewal stored in time, found its
    own lease overdue, and started over."""
    judge = Judge(world, "a")
    world.run(2)
    for step in range(60):
        world.nats.slow = 0.3
        for _ in range(10):
            world.run(0.002 * step)
            judge.pause(asleep)
            world.run(asleep)
        world.nats.slow = 0.0
        step_until(world, lambda: judge.lease.valid)
        assert not judge.lost
    assert judge.watch.alive == {"a"}


def test_one_that_judges_is_judged_by_the_others(world: World) -> None:
    judge, other = Judge(world, "a"), Judge(world, "b")
    world.run(2)
    judge.pause(10)
    step_until(world, lambda: other.watch.certainly_ended("a"))
    step_until(world, lambda: judge.lost)
    assert not judge.lease.valid
    assert other.lease.valid
    step_until(world, lambda: "a" not in judge.watch.alive)


def test_an_attempt_to_end_a_lease_is_not_believed(world: World) -> None:
    # Everybody hears the attempt; whether it was stored is another question.
    Holder(world, "a")
    reader = Reader(world)
    world.run(2)
    attempt = LeaseMessage(3, 0.0, ending=True).pack()
    headers = b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: 999999\r\n\r\n"
    reader.soon(reader.bus.publish, lease_subject("router", "a"), attempt, "", headers)
    reader.soon(reader.bus.publish, lease_subject("router", "a"), b"nonsense", "", headers)
    world.run(0.2)
    assert reader.heard == [("a", True)]


def test_an_entry_that_was_deleted_by_hand_ends_the_lease(world: World) -> None:
    holder, reader = Holder(world, "a"), Reader(world)
    world.run(2)
    reader.soon(reader.bus.publish, lease_subject("router", "a"), b"", "", b"")  # as `nats kv del` does
    step_until(world, lambda: holder.lost)
    step_until(world, lambda: reader.watch.certainly_ended("a"))
    assert not holder.lease.valid


def test_only_one_of_renewal_and_ending_succeeds(world: World) -> None:
    # Both set out at the same moment, again and again.
    for number in range(40):
        holder, reader = Holder(world, f"h{number}"), Reader(world)
        world.run(1)
        holder.pause(GONE + 0.001 * number)
        for _ in range(250):
            world.run(0.01)
            assert not (holder.lease.valid and reader.watch.certainly_ended(holder.name))
        assert holder.lease.valid != reader.watch.certainly_ended(holder.name)
        assert bool(holder.lost) == reader.watch.certainly_ended(holder.name)
        holder.kill()
        reader.kill()


def test_an_ending_is_forgotten_with_the_bucket_that_held_it(world: World) -> None:
    # The simulation found it: a gateway was ended while it slept, the ending was lost with the server's
    # memory, the gateway woke, found nothing and went on; but a reader refused it for ever.
    holder = Holder(world, "a", role="gateway", strict=False)
    reader = Reader(world, role="gateway")
    world.run(2)
    holder.pause(5)
    step_until(world, lambda: reader.watch.certainly_ended("a"))
    world.nats.up = False
    for node in (holder, reader):
        node.bus.disconnect()
    world.nats.forget()
    world.run(1)
    world.nats.up = True
    for node in (holder, reader):
        node.bus.connect()
    world.run(5)
    assert holder.lease.valid
    assert not holder.lost
    assert reader.watch.alive == {"a"}


def test_a_name_that_the_table_mentions_is_ended_when_nobody_answers_to_it(world: World) -> None:
    reader = Reader(world)
    world.run(1)
    assert not reader.watch.certainly_ended("ghost")
    took = step_until(world, lambda: reader.watch.certainly_ended("ghost"))
    assert GONE <= took < GONE + NOTICED
    assert ("ghost", False) in reader.heard, "who asked is told"


def test_entries_of_before_everything_went_down_are_not_alive(world: World) -> None:
    holder = Holder(world, "a")
    world.run(2)
    holder.kill()
    world.run(30)
    reader = Reader(world)
    step_until(world, lambda: hasattr(reader, "watch") and reader.watch.complete)
    assert not reader.watch.alive
    assert not reader.watch.certainly_ended("a"), "it may only have been cut off"
    took = step_until(world, lambda: reader.watch.certainly_ended("a"))
    assert took < GONE + NOTICED


def test_a_name_on_trial_that_renews_is_acquitted(world: World) -> None:
    holder = Holder(world, "a")
    world.run(2)
    holder.bus.disconnect()
    world.run(30)
    reader = Reader(world)
    world.run(0.5)
    assert not reader.watch.alive
    holder.bus.connect()
    world.run(3)
    assert reader.watch.alive == {"a"}
    assert not holder.lost


def test_a_reader_without_judgement_takes_unknown_names_for_gone_once_it_knows_everybody(
    world: World,
) -> None:
    Holder(world, "a")
    reader = Reader(world, judges=False)
    world.run(1)
    assert not reader.watch.certainly_ended("a")
    assert reader.watch.certainly_ended("ghost")
    reader.bus.disconnect()
    world.run(0.1)
    assert not reader.watch.certainly_ended("ghost"), "who knows, while we are cut off"


def test_after_a_reconnection_knowledge_is_complete_only_when_all_was_listed_again(world: World) -> None:
    reader = Reader(world)
    world.run(1)
    reader.bus.disconnect()
    world.run(0.1)
    assert not reader.watch.complete
    Holder(world, "new")
    world.run(1)
    reader.bus.connect()
    step_until(world, lambda: reader.watch.complete)
    assert reader.watch.alive == {"new"}


def test_lease_messages_survive_packing_and_nonsense_is_refused() -> None:
    from hubwire.model.errors import InvalidRequest
    from hubwire.runtime.lease_bucket import unpack_lease

    for message in (
        LeaseMessage(7, 1.2),
        LeaseMessage(7, 1.2, leaving=True),
        LeaseMessage(8, 0.0),
        LeaseMessage(8, 0.0, ending=True),
    ):
        assert unpack_lease(message.pack()) == message
    for data in (b"", b"x", b"\x91\x01", b"\x93\x01\xa1x\xa1y"):
        with pytest.raises(InvalidRequest):
            unpack_lease(data)
