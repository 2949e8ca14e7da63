"""One gateway's notifications, with a stream and an application that are scripted, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.event_world import Bus, Client, Events, World
from support.virtual_time import run

from gateway.upstream import sending
from gateway.upstream.contexts import NotificationContext
from gateway.upstream.outbox import Outbox, Record
from hubwire.model.errors import Unavailable
from hubwire.model.settings import HubSettings
from hubwire.runtime.service import end_tasks


def in_a_world(body: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
    """Run the test with a fresh world, in virtual time."""

    async def whole() -> None:
        world = World(1)
        try:
            await body(world)
        finally:
            await world.close()

    def test() -> None:
        run(whole())

    return test


def names(world: World, connection: str) -> list[str]:
    return [each.name for each in world.told[connection]]


@in_a_world
async def test_a_hub_without_handlers_costs_nothing(world: World) -> None:
    world.settings = HubSettings()
    gateway = world.gateway("g1")
    gateway.open("c1")
    gateway.join("c1", "room")
    gateway.close("c1")
    await asyncio.sleep(10)
    assert world.stream.seq == 0
    assert world.told == {}


@in_a_world
async def test_a_connection_is_three_writes_and_leaves_nothing_behind(world: World) -> None:
    gateway = world.gateway("g1")
    gateway.open("c1")
    await asyncio.sleep(10)
    gateway.close("c1", "bye")
    await world.until(world.settled)
    assert names(world, "c1") == ["connected", "disconnected"]
    assert [each.number for each in world.told["c1"]] == [1, 2]
    assert world.stream.seq == 1 + 3, "and one that says whose outbox it is"
    assert [*world.stream.messages] == ["hw.outbox.g1"]


@in_a_world
async def test_a_handler_that_comes_after_the_client_is_told_of_its_end(world: World) -> None:
    with_handlers, world.settings = world.settings, HubSettings()
    gateway = world.gateway("g1")
    gateway.open("c1")
    gateway.clients["c1"].source.next_id()  # as the connection does for `connected`
    world.settings = with_handlers
    gateway.close("c1", "bye")
    await world.until(world.settled)
    assert [(each.name, each.number) for each in world.told["c1"]] == [("disconnected", 2)]


@in_a_world
async def test_what_a_handler_set_is_told_of_a_client_whose_gateway_was_killed(world: World) -> None:
    gateway = world.gateway("g1")
    world.gateway("g2")
    gateway.open("c1")
    await asyncio.sleep(3)
    source = gateway.clients["c1"].source
    for _ in range(30):
        source.next_id()
    source.state = "cart=3"
    await asyncio.sleep(3)
    await gateway.kill()
    await world.until(world.settled)
    last = world.told["c1"][-1]
    assert (last.gateway, last.name, last.state) == ("g2", "disconnected", "cart=3")
    assert last.number > source.events, "never a number that an event of the client may have had"


@in_a_world
async def test_a_full_stream_costs_safety_and_no_event(world: World) -> None:
    gateway = world.gateway("g1")
    gateway.open("c0")
    await asyncio.sleep(3)
    world.stream.full = True
    gateway.open("c1")
    gateway.close("c1", "bye")
    gateway.close("c0", "bye")
    await world.until(lambda: gateway.notifier.waiting == 0)
    assert names(world, "c1") == ["connected", "disconnected"]
    assert names(world, "c0") == ["connected", "disconnected"]
    world.stream.full = False
    await world.until(world.settled)


@in_a_world
async def test_a_stream_that_was_lost_is_filled_again_by_who_knows(world: World) -> None:
    gateway = world.gateway("g1")
    world.gateway("g2")
    for number in range(20):
        gateway.open(f"c{number}")
    await asyncio.sleep(10)
    before = {each for each in world.stream.messages if each.startswith("hw.event.")}
    world.stream.lose()
    gateway.bus.reconnect()
    await asyncio.sleep(10)
    assert {each for each in world.stream.messages if each.startswith("hw.event.")} == before
    await gateway.kill()
    await world.until(world.settled)
    assert all(names(world, f"c{number}") == ["connected", "disconnected"] for number in range(20))


@in_a_world
async def test_an_event_that_is_refused_is_kept_with_its_reason_and_the_next_one_goes_on(
    world: World,
) -> None:
    world.refuses = lambda name: name == "connected"
    gateway = world.gateway("g1")
    gateway.open("c1")
    gateway.close("c1", "bye")
    await world.until(world.settled)
    assert names(world, "c1") == ["disconnected"]
    (letter,) = world.letters.kept
    assert (letter.event, letter.number, letter.status, letter.reason) == (
        "connected",
        1,
        404,
        "The event handler answered 404.",
    )
    assert gateway.notifier.given_up == 1


@in_a_world
async def test_what_waits_for_an_upstream_is_bounded_and_the_rest_becomes_dead_letters(world: World) -> None:
    world.faults = 0.999
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sending, "UPSTREAM_BYTES", 20 * (sending.EVENT_BYTES + 200))
        gateway = world.gateway("g1")
    for number in range(100):
        gateway.join_only(f"c{number}", "room")
    assert gateway.notifier.waiting < 30
    world.faults = 0.0
    await world.until(world.settled)
    told = sum(len(each) for each in world.told.values())
    assert told + len(world.letters.kept) == 100
    assert {letter.category for letter in world.letters.kept} == {"overloaded"}


@in_a_world
async def test_a_name_that_cannot_be_written_in_utf_8_holds_up_nothing(world: World) -> None:
    gateway = world.gateway("g1")
    gateway.open("c1")
    gateway.join("c1", "half of a pair: \ud800")
    gateway.close("c1", "bye")
    await world.until(world.settled)
    assert names(world, "c1") == ["connected", "disconnected"]


@in_a_world
async def test_asking_twice_for_a_take_over_is_harmless_and_only_one_gateway_gets_it(world: World) -> None:
    gateway, heir, other = world.gateway("g1"), world.gateway("g2"), world.gateway("g3")
    gateway.open("c1")
    await asyncio.sleep(3)
    gateway.valid = False
    revision = world.stream.messages["hw.outbox.g1"][0]
    answers = await asyncio.gather(
        heir.notifier.sweep("g1", revision),
        heir.notifier.sweep("g1", revision),
        other.notifier.sweep("g1", revision),
    )
    assert answers[2] != (answers[0] or answers[1])
    await world.until(world.settled)
    assert names(world, "c1") == ["connected", "disconnected"]


@in_a_world
async def test_a_record_that_cannot_be_read_does_not_hold_up_the_others(world: World) -> None:
    gateway = world.gateway("g1")
    gateway.open("c1")
    await asyncio.sleep(3)
    await gateway.kill()
    world.stream.seq += 1
    world.stream.messages["hw.event.g1.c2"] = (world.stream.seq, b"something else")
    world.gateway("g2")
    await world.until(world.settled)
    assert names(world, "c1") == ["connected", "disconnected"]


@in_a_world
async def test_a_planned_stop_waits_for_what_can_be_told_and_gives_the_outbox_up(world: World) -> None:
    gateway = world.gateway("g1")
    gateway.open("c1")
    gateway.close("c1", "bye")
    await gateway.notifier.close(5.0)
    assert names(world, "c1") == ["connected", "disconnected"]
    assert world.stream.messages == {}


class Deaf(Events):
    """While `lost`, nothing that is put arrives, and nobody knows."""

    lost = False

    async def put(self, subject: str, data: bytes, revision: int) -> int | None:
        if self.lost and subject == SUBJECT:
            raise Unavailable("no answer")
        return await super().put(subject, data, revision)


SUBJECT = "hw.event.g1.c1"


@in_a_world
async def test_a_gateway_that_is_unsure_removes_no_record_that_another_has_taken_over(world: World) -> None:
    """It did, whatever the record said by then: if its heir died next, what waited there was lost."""
    events = Deaf(world.stream, world.chance, lambda: 0.0)
    parts: Any = (Bus(), events)
    outbox = Outbox("g1", *parts, lambda: True)
    lost: list[Record] = []
    outbox.on_lost = lost.append
    tasks = [asyncio.create_task(outbox.keep_open()), asyncio.create_task(outbox.write())]
    try:
        record = Record("g1", "c1", SUBJECT)
        record.owed = b"first"
        outbox.change(record)
        await world.until(lambda: record.stored == record.version)
        events.lost = True
        record.owed = b"second"
        outbox.change(record)
        await world.until(lambda: bool(record.unsure))
        world.stream.seq += 1
        world.stream.messages[SUBJECT] = (world.stream.seq, b"the heir's")
        record.owed = None
        outbox.change(record)
        events.lost = False
        await world.until(lambda: not outbox.records)
        assert world.stream.messages[SUBJECT][1] == b"the heir's"
        assert lost == [record]
    finally:
        await end_tasks(tasks)


@in_a_world
async def test_a_gateway_that_is_unsure_removes_a_record_that_is_its_own(world: World) -> None:
    events = Deaf(world.stream, world.chance, lambda: 0.0)
    parts: Any = (Bus(), events)
    outbox = Outbox("g1", *parts, lambda: True)
    tasks = [asyncio.create_task(outbox.keep_open()), asyncio.create_task(outbox.write())]
    try:
        record = Record("g1", "c1", SUBJECT)
        record.owed = b"first"
        outbox.change(record)
        await world.until(lambda: record.stored == record.version)
        events.lost = True
        record.owed = None
        record.unsure.add(b"second")
        world.stream.seq += 1
        world.stream.messages[SUBJECT] = (world.stream.seq, b"second")  # it was stored, unheard
        outbox.change(record)
        events.lost = False
        await world.until(lambda: not outbox.records)
        assert SUBJECT not in world.stream.messages
    finally:
        await end_tasks(tasks)


@pytest.mark.parametrize("seed", range(12))
def test_a_session_that_goes_and_comes_back_has_its_end_told_once(seed: int) -> None:
    """What was owed before is still on its way out of the stream; what is owed now must stay."""

    async def whole() -> None:
        world = World(seed)
        try:
            gateway = world.gateway("g1")
            world.gateway("g2")
            for number in range(30):
                gateway.open(f"c{number}")
            await asyncio.sleep(3)
            clients: list[Any] = [*gateway.clients.values()]
            for client in clients:
                gateway.notifier.moved(client)
            await asyncio.sleep(world.chance.uniform(0, 0.03))
            for client in clients:
                client.source.next_id()  # something happened elsewhere
                await gateway.notifier.resumed(client)
            await asyncio.sleep(3)
            await gateway.kill()
            await world.until(world.settled)
            for client in clients:
                assert names(world, client.id) == ["connected", "disconnected"]
        finally:
            await world.close()

    run(whole())


@in_a_world
async def test_what_a_gateway_of_before_has_not_told_comes_before_what_the_next_one_tells(
    world: World,
) -> None:
    before, after = world.gateway("g1"), world.gateway("g2")
    answers = asyncio.Event()
    notify = before.upstream.notify

    async def hang(context: NotificationContext) -> Any:
        await answers.wait()
        return await notify(context)

    before.upstream.notify = hang  # type: ignore[method-assign]
    before.open("c1")
    await asyncio.sleep(3)
    there: Any = Client("c1")
    there.source.events = 1000
    await after.notifier.resumed(there)
    before.notifier.moved(before.clients.pop("c1"))
    after.notifier.joined(there, "room")
    after.notifier.over(there, "bye")
    await asyncio.sleep(60)
    assert names(world, "c1") == []
    answers.set()
    await world.until(world.settled)
    assert names(world, "c1") == ["connected", "joined", "disconnected"]


@in_a_world
async def test_a_session_does_not_come_to_a_gateway_that_could_not_store_that_it_owes_its_end(
    world: World,
) -> None:
    gateway = world.gateway("g1")
    gateway.open("c0")
    await asyncio.sleep(3)
    client: Any = Client("c1")
    gateway.valid = False
    await asyncio.sleep(1)
    with pytest.raises(Unavailable):
        await gateway.notifier.resumed(client)
    gateway.valid = True
    await gateway.notifier.resumed(client)
    assert "hw.event.g1.c1" in world.stream.messages


@in_a_world
async def test_what_no_message_can_hold_is_told_from_memory_and_is_not_written_for_ever(world: World) -> None:
    world.stream.largest = 1000
    gateway = world.gateway("g1")
    gateway.open("c1")
    await asyncio.sleep(3)
    source = gateway.clients["c1"].source
    source.state = "x" * 2000
    gateway.close("c1", "bye")
    gateway.open("c2")
    gateway.close("c2")
    await world.until(world.settled)
    assert names(world, "c1") == names(world, "c2") == ["connected", "disconnected"]
    assert world.told["c1"][-1].state == source.state
