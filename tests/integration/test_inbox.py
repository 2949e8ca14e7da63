"""Inboxes on a real nats-server: the stream, and what is written to it (hubwire.bus.inbox, inbox_writer)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.inboxes import GATEWAY, Outcomes, connect, folded
from support.members import until
from support.nats import NatsServer

from hubwire.bus.client import BusClient
from hubwire.bus.envelopes import pack
from hubwire.bus.inbox import PROOF_SECONDS, SMALLEST_BYTES, Inbox, inbox_is_gone, list_inboxes
from hubwire.bus.inbox_writer import MISSING, InboxWriter
from hubwire.bus.jetstream import StreamFull, StreamMissing, call
from hubwire.model.errors import HubwireError, LimitExceeded, Unavailable


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


# -- the stream -------------------------------------------------------------------------------------


async def test_an_inbox_is_there_from_open_to_delete(bus: BusClient, inbox: Inbox) -> None:
    with pytest.raises(StreamMissing):
        await inbox.info()
    assert await list_inboxes(bus) == set()
    assert await inbox_is_gone(bus, GATEWAY)
    opened = await inbox.open()
    assert (opened.first, opened.last, opened.bytes) == (1, 0, 0)
    assert await inbox.open() == opened
    assert await list_inboxes(bus) == {GATEWAY}
    assert not await inbox_is_gone(bus, GATEWAY)
    await inbox.delete()
    await inbox.delete()
    assert await inbox_is_gone(bus, GATEWAY)
    assert (await inbox.open()).created != opened.created


async def test_what_is_submitted_is_stored_in_order(bus: BusClient, inbox: Inbox, outcomes: Outcomes) -> None:
    await inbox.open()
    for n in range(1000):
        outcomes.submit(str(n), size=n)
        if n % 7 == 0:
            await asyncio.sleep(0)
    await outcomes.wait()
    assert outcomes.positions == sorted(outcomes.positions)
    assert len(outcomes.positions) == 1000
    found = await folded(bus)
    assert found.entries == outcomes.submitted
    assert found.repeats == 0
    assert found.seqs == [*range(1, (await inbox.info()).last + 1)]
    assert found.times == sorted(found.times)
    assert outcomes.writer.batches_stored == len(found.seqs) < 1000


async def test_where_jetstream_has_little_room_an_inbox_is_smaller(bus: BusClient, inbox: Inbox) -> None:
    size, reserved = 1 << 40, 0
    while size >= 1 << 24:  # all that there is, down to less than 32 MiB
        config = {"name": f"other{reserved}", "subjects": [f"other.{reserved}"], "storage": "memory"}
        try:
            await call(bus, "CREATE", f"other{reserved}", {**config, "max_bytes": size})
            reserved += 1
        except StreamFull:
            size //= 2
    with pytest.raises(StreamFull):
        await inbox.open()
    await bus.js.delete_stream(f"other{reserved - 1}")
    assert (await inbox.open()).max_bytes == SMALLEST_BYTES


# -- writing ----------------------------------------------------------------------------------------


async def test_a_server_that_hangs_gets_the_batch_again_and_it_counts_once(
    nats: NatsServer, bus: BusClient, inbox: Inbox, outcomes: Outcomes
) -> None:
    await inbox.open()
    nats.pause()
    for n in range(10):
        outcomes.submit(f"first {n}")
    await until(lambda: outcomes.writer.repeats >= 1)
    for n in range(10):
        outcomes.submit(f"second {n}")
    nats.resume()
    await outcomes.wait()
    found = await folded(bus)
    assert found.repeats >= 1, "the copies were stored too"
    assert found.entries == outcomes.submitted
    assert [n for n in outcomes.positions if n <= 0] == []


async def test_what_was_on_its_way_when_the_server_died_is_written_when_it_is_back(
    nats: NatsServer, bus: BusClient, writer: InboxWriter, outcomes: Outcomes
) -> None:
    await Inbox(bus, GATEWAY, memory=False, replicas=1).open()
    for n in range(200):
        outcomes.submit(str(n))
        if n % 10 == 0:
            await asyncio.sleep(0.002)
        if n == 100:
            await asyncio.to_thread(nats.kill)
    await asyncio.to_thread(nats.start)
    await outcomes.wait()
    assert (await folded(bus)).entries == outcomes.submitted


async def test_an_inbox_that_is_not_there_is_told_as_missing_after_a_proof(
    bus: BusClient, inbox: Inbox, outcomes: Outcomes
) -> None:
    begun = asyncio.get_running_loop().time()
    outcomes.submit("1")
    outcomes.submit("2")
    await outcomes.wait()
    assert asyncio.get_running_loop().time() - begun >= PROOF_SECONDS
    assert outcomes.positions == [MISSING, MISSING]
    assert outcomes.writer.busy() == []
    await inbox.open()
    outcomes.submit("3")
    await outcomes.wait()
    assert outcomes.positions[2] == 1


async def test_an_inbox_that_is_made_before_the_proof_gets_the_entry(
    bus: BusClient, inbox: Inbox, outcomes: Outcomes
) -> None:
    outcomes.submit("1")
    await asyncio.sleep(0)
    await inbox.open()
    await outcomes.wait()
    assert outcomes.positions == [1]


async def test_a_full_inbox_is_tried_until_there_is_room(
    bus: BusClient, inbox: Inbox, outcomes: Outcomes
) -> None:
    small = Inbox(bus, GATEWAY, memory=True, replicas=1, max_bytes=100_000)
    await small.open()
    outcomes.submit("fills", size=90_000)
    await outcomes.wait()
    outcomes.submit("waits", size=50_000)
    await until(lambda: outcomes.writer.repeats >= 3)
    assert len(outcomes) == 1
    await small.purge(2)
    await outcomes.wait()
    assert outcomes.positions == [1, 2], "a refused write takes no number"


async def test_a_full_inbox_can_be_given_room_and_keeps_what_it_has_when_that_is_taken_away(
    bus: BusClient, outcomes: Outcomes
) -> None:
    small = Inbox(bus, GATEWAY, memory=True, replicas=1, max_bytes=100_000)
    await small.open()
    outcomes.submit("fills", size=90_000)
    await outcomes.wait()
    outcomes.submit("the checkpoint", size=50_000)
    await until(lambda: outcomes.writer.repeats >= 1)
    await small.resize(200_000)
    await outcomes.wait()
    await small.purge(2)
    await small.resize(100_000)
    info = await small.info()
    assert (info.first, info.last, info.max_bytes) == (2, 2, 100_000)


async def test_of_a_batch_that_nobody_wants_any_more_nothing_is_tried_again(
    bus: BusClient, outcomes: Outcomes
) -> None:
    small = Inbox(bus, GATEWAY, memory=True, replicas=1, max_bytes=10_000)
    await small.open()
    wanted = True
    outcomes.submit("too big", lambda: wanted, size=20_000)
    await asyncio.sleep(0)
    outcomes.submit("behind it", lambda: wanted)
    outcomes.submit("behind it, and wanted")
    passed: list[HubwireError | None] = []
    outcomes.writer.barrier([GATEWAY], passed.append)
    await until(lambda: outcomes.writer.repeats >= 2)
    assert len(outcomes) == 0
    wanted = False
    await outcomes.wait()
    assert [seq for seq, _ in outcomes.values()].count(-1) == 2
    assert outcomes.positions == [1]
    assert passed == [None]
    assert outcomes.writer.waiting_bytes == 0


async def test_a_batch_is_repeated_whole_while_one_of_its_entries_is_wanted(
    nats: NatsServer, bus: BusClient, inbox: Inbox, outcomes: Outcomes
) -> None:
    await inbox.open()
    nats.pause()
    wanted = True
    outcomes.submit("of a partition that was lost", lambda: wanted)
    outcomes.submit("of another")
    await asyncio.sleep(0.01)
    wanted = False
    await until(lambda: outcomes.writer.repeats >= 1)
    nats.resume()
    await outcomes.wait()
    assert outcomes.positions[0] == outcomes.positions[1] > 0
    assert (await folded(bus)).entries == outcomes.submitted


async def test_a_barrier_is_passed_after_what_was_submitted_before_it_and_not_after_more(
    nats: NatsServer, bus: BusClient, inbox: Inbox, writer: InboxWriter, outcomes: Outcomes
) -> None:
    await inbox.open()
    other = Outcomes(writer, "0123abcd1")
    await Inbox(bus, "0123abcd1", memory=True, replicas=1).open()
    told: list[int] = []
    writer.barrier([GATEWAY, "0123abcd1", "0123abcd2"], lambda _: told.append(0))
    assert told == [0], "nothing is under way"
    outcomes.submit("1")
    await asyncio.sleep(0)
    outcomes.submit("2")
    other.submit("3")
    writer.barrier([GATEWAY, "0123abcd1"], lambda _: told.append(len(outcomes) + len(other)))
    outcomes.submit("4", size=300_000)  # a batch of its own
    await outcomes.wait()
    assert told == [0, 3]


async def test_what_no_message_can_hold_or_there_is_no_room_for_is_refused_at_once(
    nats: NatsServer, bus: BusClient, inbox: Inbox
) -> None:
    await inbox.open()
    writer = InboxWriter(bus, "w2", max_waiting_bytes=1200, max_inbox_bytes=700)
    outcomes = Outcomes(writer)
    other = Outcomes(writer, "0123abcd1")
    with pytest.raises(LimitExceeded):
        outcomes.submit("1", size=bus.max_payload)
    outcomes.submit("2", size=500)
    assert not writer.has_room([GATEWAY], 500)
    with pytest.raises(Unavailable):
        outcomes.submit("3", size=500)
    other.submit("4", size=400)
    assert not writer.has_room(["0123abcd2"], 400)
    with pytest.raises(Unavailable):
        Outcomes(writer, "0123abcd2").submit("5", size=400)
    await outcomes.wait()
    await other.wait()
    assert writer.has_room([GATEWAY, "0123abcd1"], 400)
    assert writer.waiting_bytes == 0
    writer.close()


async def test_a_closed_writer_tells_everybody_and_takes_nothing(
    nats: NatsServer, inbox: Inbox, outcomes: Outcomes
) -> None:
    nats.pause()
    outcomes.submit("1")
    await asyncio.sleep(0.01)
    outcomes.submit("2")
    passed: list[HubwireError | None] = []
    outcomes.writer.barrier([GATEWAY], passed.append)
    outcomes.writer.close()
    outcomes.writer.close()
    nats.resume()
    assert [seq for seq, _ in outcomes.values()] == [-1, -1]
    assert [type(error) for error in passed] == [Unavailable]
    with pytest.raises(Unavailable):
        outcomes.submit("3")


async def test_a_write_that_is_awaited_ends_in_time_and_is_given_up_then(
    nats: NatsServer, bus: BusClient, inbox: Inbox, writer: InboxWriter
) -> None:
    await inbox.open()
    assert await writer.write(GATEWAY, pack(["1"]), 5) == 1
    assert await writer.write("0123abcd9", pack(["1"]), 5) == MISSING
    nats.pause()
    with pytest.raises(Unavailable):
        await writer.write(GATEWAY, pack(["2"]), 0.05)
    with pytest.raises(Unavailable):
        await writer.drain(0.05)
    nats.resume()
    await writer.drain(10)
    assert writer.busy() == []
