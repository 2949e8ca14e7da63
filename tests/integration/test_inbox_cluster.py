"""Inboxes and records on three nats-servers, while the one that leads is killed, paused or stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support.inboxes import GATEWAY, Folded, Outcomes, connect, folded
from support.members import until
from support.nats import NatsCluster, NatsServer

from hubwire.bus.client import BusClient
from hubwire.bus.inbox import Inbox
from hubwire.bus.inbox_batches import Batch
from hubwire.bus.inbox_tail import InboxTail
from hubwire.bus.inbox_writer import InboxWriter
from hubwire.bus.jetstream import call
from hubwire.bus.session_records import SessionRecords
from hubwire.bus.subjects import SESSIONS_STREAM, inbox_stream
from hubwire.model.errors import Unavailable
from hubwire.model.names import new_connection_id

FAULTS = ("kill", "stop", "pause")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[NatsCluster]:
    with NatsCluster(tmp_path) as cluster:
        yield cluster


async def leader_of(bus: BusClient, cluster: NatsCluster, stream: str) -> NatsServer:
    """The node that leads the stream now, waiting for an election."""
    async with asyncio.timeout(20):
        while True:
            try:
                name = (await call(bus, "INFO", stream, {}, 1.0))["cluster"]["leader"]
                return next(node for node in cluster.nodes if node.settings.name == name)
            except (Unavailable, KeyError, StopIteration):
                await asyncio.sleep(0.05)


async def more_stored(writers: Sequence[InboxWriter]) -> None:
    """Every writer writes now."""
    before = [writer.batches_stored for writer in writers]

    def more() -> bool:
        return all(writer.batches_stored > n + 20 for writer, n in zip(writers, before, strict=True))

    await until(more, 30, "something is stored")


async def opened(inbox: Inbox) -> str:
    """Made as soon as the cluster can."""
    async with asyncio.timeout(30):
        while True:
            try:
                return (await inbox.open()).created
            except Unavailable:
                await asyncio.sleep(0.1)


async def test_what_is_confirmed_is_there_once_in_order_through_the_loss_of_leaders(
    cluster: NatsCluster,
) -> None:
    buses = [await connect(cluster.urls[n:] + cluster.urls[:n]) for n in range(3)]
    created = await opened(Inbox(buses[0], GATEWAY, memory=False, replicas=3))
    writers = [InboxWriter(bus, f"w{n}") for n, bus in enumerate(buses[:2])]
    outcomes = [Outcomes(writer) for writer in writers]
    live, lost = Folded(), list[str]()
    tail = InboxTail(buses[2], GATEWAY, live.apply, lost.append)
    tail.start(created)
    going = True

    async def write(mine: Outcomes) -> None:
        n = 0
        while going:
            for _ in range(3):
                n += 1
                mine.submit(f"{mine.writer is writers[0]} {n}", size=200)
            await asyncio.sleep(0.002)

    async with asyncio.TaskGroup() as group:
        for mine in outcomes:
            group.create_task(write(mine))
        for fault in FAULTS:
            await more_stored(writers)
            node = await leader_of(buses[0], cluster, inbox_stream(GATEWAY))
            await asyncio.to_thread(getattr(node, fault))
            await more_stored(writers)
            await asyncio.to_thread(node.resume if fault == "pause" else node.start)
        going = False
    for mine in outcomes:
        await mine.wait(30)
        assert all(error is None and seq > 0 for seq, error in mine.values())
        assert mine.positions == sorted(mine.positions)
    read = await folded(buses[0])
    for mine in outcomes:
        of_mine = set(mine.submitted)
        assert [entry for entry in read.entries if entry in of_mine] == mine.submitted
    assert len(read.entries) == sum(len(mine.submitted) for mine in outcomes)
    await until(lambda: live.seqs[-1] == read.seqs[-1], 20)
    assert (live.seqs, live.times, live.entries) == (read.seqs, read.times, read.entries)
    assert read.seqs == [*range(1, len(read.seqs) + 1)]
    assert lost == []
    await tail.stop()
    for writer in writers:
        writer.close()
    for bus in buses:
        await bus.close()


async def test_what_was_lost_with_a_leader_is_sent_again_as_soon_as_there_is_another(
    cluster: NatsCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copies of before count as being on their way for a minute yet."""

    def patience(batch: Batch) -> float:
        seconds, batch.patience = batch.patience, 60.0
        return seconds

    monkeypatch.setattr(Batch, "next_patience", patience)
    buses = [await connect([node.url]) for node in cluster.nodes]
    await opened(Inbox(buses[0], GATEWAY, memory=False, replicas=3))
    leader = await leader_of(buses[0], cluster, inbox_stream(GATEWAY))
    bus = next(bus for bus, node in zip(buses, cluster.nodes, strict=True) if node is not leader)
    writer = InboxWriter(bus, "w")
    outcomes = Outcomes(writer)
    leader.pause()
    for n in range(10):
        outcomes.submit(str(n))
    await outcomes.wait(40)
    leader.resume()
    assert (await folded(bus)).entries == outcomes.submitted
    writer.close()
    for bus in buses:
        await bus.close()


async def test_a_record_moves_once_a_generation_through_the_loss_of_its_leader(cluster: NatsCluster) -> None:
    buses = [await connect(cluster.urls[n:] + cluster.urls[:n]) for n in range(2)]
    session = new_connection_id(bytes(16), GATEWAY)
    won: list[int] = []
    going = True

    async def contend(bus: BusClient, name: str) -> None:
        records = SessionRecords(bus, memory=False, replicas=3)
        while going:
            try:
                record = await records.read(session)
                if await records.change(session, record.generation + 1, name, record.revision):
                    won.append(record.generation + 1)
            except Unavailable:
                await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        for n, bus in enumerate(buses):
            group.create_task(contend(bus, f"0123abcd{n}"))
        await until(lambda: len(won) > 50, 30)
        node = await leader_of(buses[0], cluster, SESSIONS_STREAM)
        await asyncio.to_thread(node.kill)
        before = len(won)
        await until(lambda: len(won) > before + 50, 30)
        going = False
    assert len(set(won)) == len(won), "a generation was given to two"
    for bus in buses:
        await bus.close()
