"""The own log followed, on a real nats-server (hubwire.bus.inbox_tail)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.inboxes import GATEWAY, Folded, Outcomes, connect, folded
from support.members import until
from support.nats import NatsServer

from hubwire.bus.client import BusClient
from hubwire.bus.envelopes import pack
from hubwire.bus.inbox import Inbox
from hubwire.bus.inbox_tail import InboxTail
from hubwire.bus.inbox_writer import InboxWriter
from hubwire.bus.subjects import inbox_stream


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path) as server:
        yield server


@pytest.fixture
async def bus(nats: NatsServer) -> AsyncIterator[BusClient]:
    bus = await connect([nats.url])
    yield bus
    await bus.close()


@pytest.fixture
async def writer(bus: BusClient) -> AsyncIterator[InboxWriter]:
    writer = InboxWriter(bus, "w1")
    yield writer
    writer.close()


@pytest.fixture
def inbox(bus: BusClient) -> Inbox:
    return Inbox(bus, GATEWAY, memory=True, replicas=1)


@pytest.fixture
def outcomes(writer: InboxWriter) -> Outcomes:
    return Outcomes(writer)


class Followed(Folded):
    """A tail, what it brought, and how it ended."""

    def __init__(self, bus: BusClient, **more: float) -> None:
        super().__init__()
        self.lost: list[str] = []
        self.tail = InboxTail(bus, GATEWAY, self.apply, self.lost.append, **more)


async def test_the_tail_brings_what_is_written(bus: BusClient, inbox: Inbox, outcomes: Outcomes) -> None:
    live, lost = Folded(), list[str]()
    tail = InboxTail(bus, GATEWAY, live.apply, lost.append)
    tail.start((await inbox.open()).created)
    for n in range(1000):
        outcomes.submit(str(n))
        if n % 7 == 0:
            await asyncio.sleep(0)
    await until(lambda: len(live.entries) == 1000)
    assert live.entries == outcomes.submitted
    read = await folded(bus)
    assert (live.seqs, live.times) == (read.seqs, read.times)
    assert lost == []
    await tail.stop()


async def test_the_tail_goes_on_where_it_was_after_the_server_was_away(
    nats: NatsServer, bus: BusClient, outcomes: Outcomes
) -> None:
    inbox = Inbox(bus, GATEWAY, memory=False, replicas=1)
    live = Followed(bus)
    live.tail.start((await inbox.open()).created)
    for n in range(300):
        outcomes.submit(str(n))
        if n % 5 == 0:
            await asyncio.sleep(0.001)
        if n in (100, 200):
            await asyncio.to_thread(nats.kill)
            await until(lambda: not bus.connected)
            await asyncio.to_thread(nats.start)
            await until(lambda: len(live.entries) == len(outcomes.submitted))
    await until(lambda: len(live.entries) == 300, 20)
    assert live.entries == outcomes.submitted
    assert live.seqs == [*range(1, live.seqs[-1] + 1)], "each once"
    assert live.lost == []
    await live.tail.stop()


async def test_a_consumer_that_vanishes_is_made_again(
    bus: BusClient, inbox: Inbox, outcomes: Outcomes
) -> None:
    live = Followed(bus, heartbeat_seconds=0.1)
    live.tail.start((await inbox.open()).created)
    outcomes.submit("1")
    await until(lambda: live.entries)
    (consumer,) = await bus.js.consumers_info(inbox_stream(GATEWAY))
    await bus.js.delete_consumer(inbox_stream(GATEWAY), consumer.name)
    outcomes.submit("2")
    await until(lambda: len(live.entries) == 2)
    assert live.entries == outcomes.submitted
    assert live.tail.remakes == 1
    await live.tail.stop()


async def test_a_message_lost_on_the_way_before_a_silence_is_noticed(
    bus: BusClient, inbox: Inbox, outcomes: Outcomes
) -> None:
    live = Followed(bus, heartbeat_seconds=0.1)
    live.tail.start((await inbox.open()).created)
    outcomes.submit("1")
    await until(lambda: live.entries)
    # What a cut between two servers does: the message is sent, and does not arrive.
    handlers = bus.nats.direct_raw  # type: ignore[attr-defined]
    ((sid, handler),) = handlers.items()
    del handlers[sid]
    outcomes.submit("2")
    await outcomes.wait()
    await bus.synchronize()
    handlers[sid] = handler
    await until(lambda: len(live.entries) == 2)
    assert live.entries == outcomes.submitted
    await live.tail.stop()


async def test_a_restarted_server_in_memory_mode_has_lost_the_log_and_it_is_told_once(
    nats: NatsServer, bus: BusClient, inbox: Inbox, outcomes: Outcomes
) -> None:
    live = Followed(bus)
    live.tail.start((await inbox.open()).created)
    outcomes.submit("1")
    await until(lambda: live.entries)
    await asyncio.to_thread(nats.restart)
    await until(lambda: live.lost)
    await inbox.open()
    outcomes.submit("2")
    outcomes.submit("3")
    await outcomes.wait()
    assert len(live.lost) == 1
    assert len(live.entries) == 1
    await live.tail.stop()


async def test_a_log_that_was_made_again_and_has_grown_beyond_is_not_taken_for_the_old_one(
    nats: NatsServer, bus: BusClient, inbox: Inbox, outcomes: Outcomes
) -> None:
    live = Followed(bus)
    live.tail.start((await inbox.open()).created)
    outcomes.submit("1")
    await until(lambda: live.entries)
    nats.pause()
    await asyncio.to_thread(nats.kill)
    await asyncio.to_thread(nats.start)
    other = await connect([nats.url])
    await Inbox(other, GATEWAY, memory=True, replicas=1).open()
    for n in range(3):
        await other.ask(f"hw.inbox.{GATEWAY}", pack([1, "w9", n + 1, []]), 5)
    await until(lambda: live.lost)
    assert len(live.seqs) == 1
    await live.tail.stop()
    await other.close()


async def test_a_log_that_was_emptied_under_the_tail_is_lost_although_it_is_the_same_stream(
    bus: BusClient, inbox: Inbox, outcomes: Outcomes
) -> None:
    """So it is with a stream in memory whose servers of a cluster have all restarted."""
    live = Followed(bus, heartbeat_seconds=0.1)
    live.tail.start((await inbox.open()).created)
    for n in range(3):
        outcomes.submit(str(n), size=300_000)
    await until(lambda: len(live.seqs) == 3)
    (consumer,) = await bus.js.consumers_info(inbox_stream(GATEWAY))
    await inbox.purge(100)
    await outcomes.writer.write(GATEWAY, pack(["later"]), 5)
    await bus.js.delete_consumer(inbox_stream(GATEWAY), consumer.name)
    await until(lambda: live.lost)
    assert len(live.seqs) == 3
    await live.tail.stop()


async def test_what_was_handled_may_be_trimmed(bus: BusClient, inbox: Inbox, outcomes: Outcomes) -> None:
    live = Followed(bus, heartbeat_seconds=0.1)
    live.tail.start((await inbox.open()).created)
    outcomes.submit("1")
    await until(lambda: live.entries)
    await inbox.purge(2)
    (consumer,) = await bus.js.consumers_info(inbox_stream(GATEWAY))
    await bus.js.delete_consumer(inbox_stream(GATEWAY), consumer.name)
    outcomes.submit("2")
    await until(lambda: len(live.entries) == 2)
    assert live.lost == []
    await live.tail.stop()


async def test_a_message_that_cannot_be_handled_ends_the_tail(
    bus: BusClient, inbox: Inbox, outcomes: Outcomes
) -> None:
    handled: list[int] = []
    lost: list[str] = []

    def handler(seq: int, _time: float, _data: bytes) -> None:
        handled.append(seq)
        if seq == 2:
            raise RuntimeError("a bug")

    tail = InboxTail(bus, GATEWAY, handler, lost.append)
    tail.start((await inbox.open()).created)
    for n in range(3):
        outcomes.submit(str(n), size=300_000)
    await outcomes.wait()
    await until(lambda: lost)
    assert handled == [1, 2]
    await tail.stop()
