"""The log of another gateway read, on a real nats-server (hubwire.bus.inbox_reader)."""

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
from hubwire.bus.inbox_reader import PAGE_BYTES, InboxReader, LogTrimmed, read_inbox
from hubwire.bus.inbox_writer import InboxWriter
from hubwire.bus.jetstream import StreamMissing
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


async def all_of(reader: InboxReader, to_seq: int | None = None) -> list[int]:
    return [message.seq async for page in reader.read(to_seq) for message in page]


async def test_a_reader_goes_on_from_where_it_was(bus: BusClient, inbox: Inbox, outcomes: Outcomes) -> None:
    await inbox.open()
    reader, found = InboxReader(bus, GATEWAY), Folded()

    async def read(to_seq: int | None = None) -> None:
        async for page in reader.read(to_seq):
            for message in page:
                found.apply(*message)

    await read()
    assert found.seqs == []
    for n in range(5):
        outcomes.submit(str(n), size=400_000)
    await outcomes.wait()
    await read(to_seq=3)
    assert found.seqs == [1, 2, 3]
    await read()
    assert found.entries == outcomes.submitted
    await inbox.purge(6)
    outcomes.submit("after the trimming")
    await outcomes.wait()
    await read()
    assert found.entries == outcomes.submitted
    assert found.seqs == [*range(1, 7)]
    await reader.close()


async def test_a_long_log_is_read_in_pages_of_bounded_size(bus: BusClient, inbox: Inbox) -> None:
    await inbox.open()
    writer = InboxWriter(bus, "w3")
    for n in range(20):
        for _ in range(5):
            writer.submit(GATEWAY, pack([b"x" * 250_000]), None)
        if n % 6 == 0:
            writer.submit(GATEWAY, pack([b"x" * 2_000_000]), None)
        await writer.drain(20)
    sizes = [sum(len(message.data) for message in page) async for page in read_inbox(bus, GATEWAY)]
    assert sum(sizes) > 33_000_000
    assert len([size for size in sizes if size > PAGE_BYTES]) <= 8, "the big ones, perhaps with one more"
    assert max(sizes) <= 2 * bus.max_payload
    writer.close()


async def test_a_reader_is_told_what_became_of_the_log(
    nats: NatsServer, bus: BusClient, inbox: Inbox, outcomes: Outcomes
) -> None:
    with pytest.raises(StreamMissing):
        await folded(bus)
    await inbox.open()
    for n in range(4):
        outcomes.submit(str(n), size=400_000)
    await outcomes.wait()
    await inbox.purge(2)
    assert (await folded(bus)).seqs == [2, 3, 4], "from what is the first now"
    reader = InboxReader(bus, GATEWAY)
    assert await all_of(reader, to_seq=2) == [2]
    await inbox.purge(4)
    with pytest.raises(LogTrimmed):
        await all_of(reader)
    await inbox.delete()
    await inbox.open()
    with pytest.raises(StreamMissing):
        await all_of(reader)
    await reader.close()


async def test_a_reader_goes_on_when_its_consumer_or_the_connection_is_gone(
    nats: NatsServer, bus: BusClient, outcomes: Outcomes
) -> None:
    await Inbox(bus, GATEWAY, memory=False, replicas=1).open()
    for n in range(40):
        outcomes.submit(str(n), size=260_000)
    await outcomes.wait()
    reader, found = InboxReader(bus, GATEWAY), Folded()
    pages = 0
    async for page in reader.read():
        for message in page:
            found.apply(*message)
        pages += 1
        if pages == 1:
            for consumer in await bus.js.consumers_info(inbox_stream(GATEWAY)):
                await bus.js.delete_consumer(inbox_stream(GATEWAY), consumer.name)
    assert found.entries == outcomes.submitted
    await asyncio.to_thread(nats.restart)
    await until(lambda: bus.connected)
    outcomes.submit("after the restart")
    await outcomes.wait()
    async for page in reader.read():
        for message in page:
            found.apply(*message)
    assert found.entries == outcomes.submitted
    await reader.close()
