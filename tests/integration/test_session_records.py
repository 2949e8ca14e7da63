"""The records of reliable sessions on a real nats-server (hubwire.bus.session_records)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.inboxes import connect
from support.members import until
from support.nats import NatsServer

from hubwire.bus.client import BusClient
from hubwire.bus.session_records import NOBODY, SessionRecord, SessionRecords
from hubwire.bus.subjects import session_subject
from hubwire.model.errors import InvalidRequest, Unavailable
from hubwire.model.names import new_connection_id

MAKER, OTHER = "0123abcd0", "0123abcd1"
SESSION = new_connection_id(bytes(16), MAKER)


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
def records(bus: BusClient) -> SessionRecords:
    return SessionRecords(bus, memory=False, replicas=1)


async def test_without_a_record_the_maker_holds_the_session(records: SessionRecords) -> None:
    assert await records.read(SESSION) == SessionRecord(0, MAKER, 0)
    await records.open()
    await records.open()
    assert await records.read(SESSION) == SessionRecord(0, MAKER, 0)
    with pytest.raises(InvalidRequest):
        await records.read("not one of ours")


async def test_of_those_that_want_a_session_one_gets_it(records: SessionRecords) -> None:
    holders = [f"0123abcd{n}" for n in range(1, 9)]
    got = await asyncio.gather(*(records.change(SESSION, 1, holder, 0) for holder in holders))
    (winner,) = [holder for holder, revision in zip(holders, got, strict=True) if revision is not None]
    record = await records.read(SESSION)
    assert (record.generation, record.holder) == (1, winner)
    assert record.revision in got
    second = await records.change(SESSION, 2, OTHER, record.revision)
    assert second is not None
    assert await records.change(SESSION, 2, MAKER, record.revision) is None
    assert await records.change(SESSION, 2, MAKER, 0) is None
    assert await records.read(SESSION) == SessionRecord(2, OTHER, second)


async def test_a_session_that_has_ended_has_no_holder_and_is_forgotten_after_a_while(
    records: SessionRecords,
) -> None:
    first = await records.change(SESSION, 1, OTHER, 0)
    assert first is not None
    assert await records.end(SESSION, 1, MAKER, 0) is None, "it moved: whose record is older cannot end it"
    ended = await records.end(SESSION, 1, OTHER, first)
    assert ended is not None
    record = await records.read(SESSION)
    assert record == SessionRecord(1, NOBODY, ended, OTHER), "and says whose it was"
    assert record.ended
    again = await records.end(SESSION, 1, OTHER, ended, ttl_seconds=1)
    assert again is not None
    async with asyncio.timeout(10):
        while (await records.read(SESSION)).ended:  # noqa: ASYNC110 (the server tells nobody)
            await asyncio.sleep(0.05)
    assert await records.read(SESSION) == SessionRecord(0, MAKER, 0)
    assert await records.change(SESSION, 1, OTHER, 0) is not None


async def test_records_are_those_of_their_session_alone(records: SessionRecords) -> None:
    other = new_connection_id(bytes([1] * 16), MAKER)
    assert await records.change(SESSION, 1, OTHER, 0) is not None
    assert await records.read(other) == SessionRecord(0, MAKER, 0)
    assert await records.change(other, 1, OTHER, 0) is not None


async def test_a_lost_stream_is_made_again_by_the_next_change(
    nats: NatsServer, bus: BusClient, records: SessionRecords
) -> None:
    first = await records.change(SESSION, 1, OTHER, 0)
    assert first is not None
    await bus.js.delete_stream("hw_sessions")
    assert await records.change(SESSION, 2, OTHER, first) is None
    assert await records.change(SESSION, 2, OTHER, 0) is not None


async def test_records_outlive_the_server(nats: NatsServer, bus: BusClient, records: SessionRecords) -> None:
    revision = await records.change(SESSION, 3, OTHER, 0)
    assert revision is not None
    await asyncio.to_thread(nats.restart)
    await until(lambda: bus.connected)
    assert await records.read(SESSION) == SessionRecord(3, OTHER, revision)


async def test_when_nobody_answers_nothing_is_known(nats: NatsServer, records: SessionRecords) -> None:
    await records.open()
    await asyncio.to_thread(nats.kill)
    with pytest.raises(Unavailable):
        await records.change(SESSION, 1, OTHER, 0)
    with pytest.raises(Unavailable):
        await records.read(SESSION)


async def test_what_is_no_record_is_not_taken_for_one(bus: BusClient, records: SessionRecords) -> None:
    await records.open()
    await bus.ask(session_subject(SESSION), b"something else", 5)
    with pytest.raises(Unavailable):
        await records.read(SESSION)
