"""The queue of notifications and the dead letters, on a real nats-server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from nats.js.api import StreamConfig
from support.nats import NatsServer

from hubwire.bus import event_log
from hubwire.bus.client import BusClient
from hubwire.bus.dead_letters import DeadLetter, DeadLetters
from hubwire.bus.event_log import (
    VERSION,
    Document,
    EventLog,
    Pending,
    event_subject,
    life_subject,
    unpack_document,
)
from hubwire.bus.jetstream import StreamFull, StreamMissing
from hubwire.model.errors import InvalidRequest, NotFound


@pytest_asyncio.fixture
async def bus(tmp_path: Path) -> AsyncIterator[BusClient]:
    with NatsServer(tmp_path) as nats:
        bus = await BusClient.connect({"servers": [nats.url]})
        yield bus
        await bus.close()


@pytest_asyncio.fixture
async def events(bus: BusClient) -> EventLog:
    events = EventLog(bus, memory=True, replicas=1)
    await events.open()
    return events


@pytest.fixture
def letters(bus: BusClient) -> DeadLetters:
    return DeadLetters(bus, memory=True, replicas=1)


def letter(number: int = 1, hub: str = "chat") -> DeadLetter:
    return DeadLetter(
        hub=hub,
        event="connected",
        connection_id="conn",
        number=number,
        happened=1.0,
        queued=1.0,
        given_up=3.0,
        attempts=10,
        category="network",
        reason="No connection.",
        payload=b"the event",
    )


async def test_a_record_is_changed_only_by_who_knows_its_revision(events: EventLog) -> None:
    subject = life_subject("g1", "c1")
    first = await events.put(subject, b"1", 0)
    assert first is not None
    assert await events.put(subject, b"x", 0) is None
    second = await events.put(subject, b"2", first)
    assert second is not None
    assert await events.put(subject, b"x", first) is None
    found = await events.read(subject)
    assert found is not None
    assert (found.data, found.seq) == (b"2", second)
    await events.remove(subject, first)
    assert await events.read(subject) is not None, "it was changed after that revision"
    await events.remove(subject, second)
    assert await events.read(subject) is None
    assert await events.put(subject, b"3", 0) is not None


async def test_the_records_of_an_outbox_are_those_of_its_name_alone(events: EventLog) -> None:
    mine = {life_subject("g1", "c1"), event_subject("g1", "c1", 7), life_subject("g1", "c2")}
    for subject in [*mine, life_subject("g2", "c1")]:
        await events.put(subject, b"x", 0)
    assert set(await events.subjects("g1")) == mine
    assert await events.subjects("g3") == []
    assert await events.outboxes() == []
    assert await events.hold("g1", "g1", 0) is not None
    assert await events.outboxes() == ["g1"]


async def test_an_outbox_has_one_holder(events: EventLog) -> None:
    assert await events.holder("g1") is None
    first = await events.hold("g1", "g1", 0)
    assert first is not None
    second = await events.hold("g1", "g2", first)
    assert second is not None
    assert await events.hold("g1", "g3", first) is None
    assert await events.holder("g1") == ("g2", second)
    await events.close_outbox("g1", first)
    assert await events.holder("g1") is not None
    await events.close_outbox("g1", second)
    assert await events.holder("g1") is None


async def test_without_a_stream_nothing_is_there_and_a_write_says_so(bus: BusClient) -> None:
    events = EventLog(bus, memory=True, replicas=1)
    assert await events.outboxes() == []
    assert await events.subjects("g1") == []
    await events.remove(life_subject("g1", "c1"), 1)
    with pytest.raises(StreamMissing):
        await events.put(life_subject("g1", "c1"), b"x", 0)


async def test_a_stream_without_room_refuses_and_keeps_what_it_has(
    bus: BusClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "MAX_BYTES", 4096)
    events = EventLog(bus, memory=True, replicas=1)
    await events.open()
    first = await events.put(life_subject("g1", "c1"), b"x" * 2000, 0)
    assert first is not None
    with pytest.raises(StreamFull):
        await events.put(life_subject("g1", "c2"), b"x" * 3000, 0)
    assert await events.read(life_subject("g1", "c1")) is not None


async def test_the_incarnation_tells_that_the_stream_was_lost(bus: BusClient, events: EventLog) -> None:
    before = await events.incarnation()
    assert await events.incarnation() == before
    await bus.js.delete_stream(event_log.STREAM)
    await events.open()
    assert await events.incarnation() != before


async def test_a_stream_that_an_operator_made_is_taken_as_it_is(bus: BusClient) -> None:
    await bus.js.add_stream(StreamConfig(name=event_log.STREAM, subjects=["hw.event.>", "hw.outbox.*"]))
    events = EventLog(bus, memory=True, replicas=1)
    await events.open()
    assert await events.put(life_subject("g1", "c1"), b"x", 0) is not None


def test_a_record_is_read_as_it_was_written_and_nothing_else_is() -> None:
    document = Document(VERSION, (Pending(1, 2.5, b"payload"),), b"owed")
    assert unpack_document(document.pack()) == document
    for bad in (b"", b"x", Document(VERSION + 1).pack(), b"\x93\x01\xa1x\xc0"):
        with pytest.raises(InvalidRequest):
            unpack_document(bad)


async def test_dead_letters_are_listed_by_hub_and_page_after_page(letters: DeadLetters) -> None:
    assert await letters.list() == []
    ids = [await letters.keep(letter(n, "chat" if n % 2 else "other")) for n in range(6)]
    assert [kept.id for kept in await letters.list()] == ids
    assert [kept.letter.number for kept in await letters.list(hub="Chat")] == [1, 3, 5]
    page = await letters.list(limit=4)
    assert [kept.id for kept in page + await letters.list(after=page[-1].id)] == ids
    assert (await letters.get(ids[2])).letter == letter(2, "other")


async def test_a_dead_letter_is_dropped_once(letters: DeadLetters) -> None:
    with pytest.raises(NotFound):
        await letters.drop(1)
    id = await letters.keep(letter())
    await letters.drop(id)
    assert await letters.list() == []
    for again in (letters.drop(id), letters.get(id), letters.retry(id, now=5.0)):
        with pytest.raises(NotFound):
            await again


async def test_a_retry_puts_the_event_where_a_gateway_will_look(
    letters: DeadLetters, events: EventLog
) -> None:
    id = await letters.keep(letter(7))
    await letters.retry(id, now=99.0)
    assert await letters.list() == []
    (outbox,) = await events.outboxes()
    held = await events.holder(outbox)
    assert held is not None
    assert held[0] == "", "nobody yet"
    (subject,) = await events.subjects(outbox)
    assert subject == event_subject(outbox, "conn", 7)
    found = await events.read(subject)
    assert found is not None
    assert unpack_document(found.data).pending == (Pending(7, 99.0, b"the event"),)
