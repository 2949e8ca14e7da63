"""Inboxes on a real nats-server: writing, following, reading, trimming (hubwire.bus.inbox*)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.inboxes import GATEWAY, Folded, Outcomes, connect
from support.members import until
from support.nats import NatsServer

from hubwire.bus.client import BusClient
from hubwire.bus.inbox import Inbox, inbox_is_gone, list_inboxes
from hubwire.bus.inbox_reader import read_inbox
from hubwire.bus.inbox_tail import InboxTail
from hubwire.bus.inbox_writer import InboxWriter
from hubwire.bus.jetstream import StreamMissing


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


async def folded(bus: BusClient, from_seq: int = 1, to_seq: int | None = None) -> Folded:
    found = Folded()
    async for page in read_inbox(bus, GATEWAY, from_seq, to_seq):
        for message in page:
            found.apply(*message)
    return found


# -- the stream -------------------------------------------------------------------------------------


async def test_an_inbox_is_there_from_open_to_delete(bus: BusClient, inbox: Inbox) -> None:
    with pytest.raises(StreamMissing):
        await inbox.info()
    assert await list_inboxes(bus) == set()
    assert await inbox_is_gone(bus, GATEWAY)
    opened = await inbox.open()
    assert (opened.first, opened.last, opened.bytes) == (0, 0, 0) or opened.first > opened.last
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
