"""Reliable sessions on real gateways, a router and a nats-server: opened, changed, moved, lost and ended."""

from __future__ import annotations

import asyncio
import time

import pytest
from support.reliable_stack import HUB, ReliableStack, until

import gateway.reliable.ends
import gateway.reliable.logs
import gateway.reliable.moves
from gateway.reliable.holder import Holder
from hubwire.bus.inbox import inbox_is_gone
from hubwire.bus.inbox_entries import left_entry
from hubwire.model.errors import PermissionDenied, Unavailable
from hubwire.model.names import new_connection_id
from hubwire.model.reconnection import issue_reconnection_token
from hubwire.model.settings import HubSettings

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
async def one(tmp_path):
    async with ReliableStack(tmp_path) as stack:
        yield stack


@pytest.fixture
async def two(tmp_path):
    async with ReliableStack(tmp_path, gateways=2) as stack:
        yield stack


async def until_awaited(condition, seconds=20.0):
    """`until` for what has to be asked for."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def holds(log, size):
    return (await log.inbox.info()).bytes > size


async def begins_behind(log, seq):
    return (await log.inbox.info()).first > seq


@pytest.mark.parametrize("with_ack", [True, False])
async def test_a_session_ends_with_an_event_that_failed_where_the_hub_has_its_clients_closed(one, with_ack):
    settings = HubSettings(close_on_event_failure=True)
    await one.worker.settings.put_hub(HUB, settings)
    await until(lambda: one.worker.settings.hub(HUB) == settings)
    here = one.places[0]
    alice = await one.reliable("alice", groups=["room"])
    event = {"type": "event", "event": "e", "dataType": "text", "data": "x"}
    alice.raw.say({**event, "ackId": 1} if with_ack else event)
    told = await alice.read()
    assert (told["type"], told["event"]) == ("system", "disconnected")
    await alice.is_told(1011)

    async def it_is_over():
        return await alice.try_to_recover(here) == 1008  # 503 until its end is decided

    await until_awaited(it_is_over)
    await here.leaves_nothing()


async def test_a_session_outlives_its_socket_and_ends_with_a_close_frame(one):
    here = one.places[0]
    alice = await one.reliable("alice", groups=["room"])
    bob = await one.json("bob")
    bob.say({"type": "sendToGroup", "ackId": 1, "group": "room", "dataType": "text", "data": "1"})
    await alice.has("1")
    alice.cut()
    await until(lambda: alice.session(here).connection is None)
    bob.say({"type": "sendToGroup", "ackId": 2, "group": "room", "dataType": "text", "data": "2"})
    await alice.recover(here)
    await alice.join("other")
    await alice.publish("other", "3")
    await alice.has("2", "3")
    assert alice.got == [1, 2, 3]
    alice.close()
    await alice.is_told(1000)
    assert await alice.try_to_recover(here) == 1008
    await here.leaves_nothing()


async def test_requests_that_were_under_way_are_answered_on_the_next_socket(one):
    """Sent, lost with the socket, and sent again under the same id while the first is being executed."""
    here = one.places[0]
    alice = await one.reliable("alice", groups=["room"])
    for _ in range(5):
        ids = [alice.ask("joinGroup", group="other")]
        ids += [alice.ask("sendToGroup", group="room", dataType="text", data=f"m{alice._ack_id}")]
        await asyncio.sleep(0)
        await alice.raw.writer.drain()
        old = alice.raw
        await alice.recover(here)
        old.close()
        alice.ask("joinGroup", ack_id=ids[0], group="other")
        alice.ask("sendToGroup", ack_id=ids[1], group="room", dataType="text", data=f"m{ids[1]}")
        for number in ids:
            answer = await alice.answer(number)
            assert answer["success"] or answer["error"]["name"] == "Duplicate", answer
        await alice.leave("other")
    await alice.publish("room", "last")
    await alice.has("last")
    assert sorted(alice.texts) == sorted({*alice.texts})


async def test_a_session_moves_there_and_back_while_its_holder_lives(two):
    first, second = two.places
    alice = await two.reliable("alice", at=first, groups=["room"])
    bob = await two.reliable("bob", at=second)
    here, there = first, second
    for number in range(6):
        await bob.publish("room", f"a{number}")
        await alice.recover(there)
        await bob.publish("room", f"b{number}")
        await alice.join(f"group-{number}")
        await bob.publish(f"group-{number}", f"c{number}")
        await alice.has(f"a{number}", f"b{number}", f"c{number}")
        here, there = there, here
    assert len(alice.got) == 18
    alice.close()
    bob.close()
    await first.leaves_nothing()
    await second.leaves_nothing()


async def test_two_gateways_that_want_it_at_once_get_it_one_after_the_other(tmp_path):
    async with ReliableStack(tmp_path, gateways=3) as stack:
        first, second, third = stack.places
        alice = await stack.reliable("alice", at=first, groups=["room"])
        bob = await stack.reliable("bob", at=first)
        for number in range(8):
            await bob.publish("room", f"x{number}")
            await asyncio.gather(
                *(alice.try_to_recover(place) for place in (second, third, second, third)),
                return_exceptions=True,
            )
            await alice.recover(stack.places[number % 3])
            await alice.has(f"x{number}")
        await until(lambda: sum(alice.session(place) is not None for place in stack.places) == 1)
        alice.close()
        bob.close()
        for place in stack.places:
            await place.leaves_nothing()


# -- who holds it ------------------------------------------------------------------------------------


async def test_a_mark_without_a_winner_costs_the_session_its_socket_only(one, monkeypatch):
    """It goes on here in a generation of its own, so whoever marked it comes too late."""
    monkeypatch.setattr(gateway.reliable.ends, "MOVE_SECONDS", 0.3)
    here = one.places[0]
    alice = await one.reliable("alice", groups=["room"])
    bob = await one.reliable("bob")
    session = alice.session(here)
    await here.mark(alice, "somebody")
    await until(lambda: session.moving)
    assert await alice.raw.gone() is not None
    with pytest.raises(Unavailable):
        await here.rest("join", HUB, "connection", alice.id, ["other"], None)
    await until(lambda: not session.moving)
    record = await here.record(alice)
    assert (record.holder, record.generation) == (here.name, 1)
    assert await here.sessions.holder.records.change(alice.id, 1, "somebody", 0) is None
    await here.rest("join", HUB, "connection", alice.id, ["other"], None)
    await bob.publish("other", "1")
    await alice.recover(here)
    await alice.has("1")


async def test_a_client_that_comes_back_first_makes_a_mark_worthless(one):
    here = one.places[0]
    alice = await one.reliable("alice", groups=["room"])
    await here.mark(alice, "somebody")
    await until(lambda: alice.session(here).moving)
    await alice.recover(here)
    assert not alice.session(here).moving
    await here.mark(alice, "somebody", 0)  # of a generation that is over
    await alice.publish("room", "1")
    await alice.has("1")


async def test_a_holder_lets_go_also_in_a_generation_that_it_has_not_heard_of(two):
    """Its own change of the record is unheard; then another gateway takes the session in that generation."""
    first, second = two.places
    alice = await two.reliable("alice", at=first, groups=["room"])
    records = first.with_lossy_records()
    records.deaf = 1
    assert await alice.try_to_recover(first) == 503
    assert (await first.record(alice)).generation == 1
    assert alice.session(first).generation == 0
    await alice.recover(second)
    await until(lambda: alice.session(first) is None)
    await alice.publish("room", "1")
    await alice.has("1")
    await first.leaves_nothing()


async def test_a_mark_that_comes_while_the_record_is_being_changed_counts(one):
    here = one.places[0]
    alice = await one.reliable("alice", groups=["room"])
    records = here.with_lossy_records()
    change = records.change

    async def change_and_mark(*arguments):
        found = await change(*arguments)
        await here.mark(alice, "somebody", 1)
        await until(lambda: alice.session(here).wanted == 1)
        return found

    records.change = change_and_mark
    assert await alice.try_to_recover(here) == 503
    assert alice.session(here).moving
    records.change = change
    await alice.recover(here)
    assert not alice.session(here).moving


async def test_a_change_of_the_record_that_is_not_heard_of_is_settled(two, monkeypatch):
    """However long that takes: until then the client is told to try again, and then it is here."""
    monkeypatch.setattr(gateway.reliable.moves, "MOVE_SECONDS", 0.5)
    first, second = two.places
    alice = await two.reliable("alice", at=first, groups=["room"])
    bob = await two.reliable("bob", at=first)
    await bob.publish("room", "1")
    records = second.with_lossy_records()
    again = asyncio.Event()

    async def when_allowed():
        if records.changes:
            await again.wait()

    records.deaf, records.before = 1, when_allowed
    assert await alice.try_to_recover(second) == 503
    assert (await second.record(alice)).holder == second.name
    assert await alice.try_to_recover(second) == 503
    await bob.publish("room", "2")
    again.set()
    await alice.recover(second)
    await alice.has("1", "2")
    alice.close()
    await second.leaves_nothing()


async def test_a_loser_leaves_nothing_behind(two):
    first, second = two.places
    alice = await two.reliable("alice", at=first, groups=["room", "other"])
    records = second.with_lossy_records()
    winner = first.sessions.holder.records

    async def somebody_is_faster():
        await winner.change(alice.id, 1, "somebody", 0)

    records.before = somebody_is_faster
    assert await alice.try_to_recover(second) in (503, 1008)  # "somebody" has no log
    await second.leaves_nothing()
    await until(lambda: alice.session(first) is None)
    await first.leaves_nothing()


async def test_a_move_that_is_given_up_leaves_nothing_behind(two, monkeypatch):
    """The time is over while the state is being written down, and again and again."""
    first, second = two.places
    alice = await two.reliable("alice", at=first, groups=["room"])
    log = second.sessions.holder.log
    await log.ready()
    written = log.written

    async def too_late(entries, seconds=10.0):
        await written(entries, seconds)
        raise Unavailable("too late")

    log.written = too_late
    for _ in range(3):
        assert await alice.try_to_recover(second) == 503
    await second.leaves_nothing()
    log.written = written
    await alice.recover(second)
    await alice.publish("room", "1")
    await alice.has("1")


async def test_what_must_come_into_the_log_comes_when_there_is_room(one):
    here = one.places[0]
    alice = await one.reliable("alice", groups=["room"])
    writer = here.sessions.holder.log.writer
    room, writer._max_waiting_bytes = writer._max_waiting_bytes, 0
    alice.close()
    await alice.is_told(1000)
    await until(lambda: not here.sessions.holder.log.settled(alice.id))
    writer._max_waiting_bytes = room
    await here.leaves_nothing()


# -- changes -----------------------------------------------------------------------------------------


async def test_rest_and_the_client_change_the_same_group_at_once(one):
    here = one.places[0]
    alice = await one.reliable("alice")
    bob = await one.reliable("bob")
    for number in range(10):
        ids = []
        tasks = []
        for _ in range(3):
            ids.append(alice.ask("joinGroup", group="g"))
            tasks.append(asyncio.create_task(here.rest("leave", HUB, "connection", alice.id, ["g"], None)))
            tasks.append(asyncio.create_task(here.rest("join", HUB, "user", "alice", ["g"], None)))
            ids.append(alice.ask("leaveGroup", group="g"))
            await asyncio.sleep(0)
        for one_id in ids:
            assert (await alice.answer(one_id))["success"]
        await asyncio.gather(*tasks)
        await alice.join("g")
        await bob.publish("g", f"m{number}")
        await alice.has(f"m{number}")
        await alice.leave("g")
    assert alice.session(here).changes is None
    alice.close()
    bob.close()
    await here.leaves_nothing()


async def test_nobody_is_in_more_groups_than_the_hub_allows(one):
    here = one.places[0]
    alice = await one.reliable("alice", groups=["a"])
    bounds = one.service._bounds.of(HUB)
    bounds.max_groups = 2
    await alice.join("b")
    await alice.join("b")
    answer = await alice.answer(alice.ask("joinGroup", group="c"))
    assert answer["error"]["name"] == "Forbidden"
    with pytest.raises(PermissionDenied):
        await here.rest("join", HUB, "connection", alice.id, ["c"], None)
    assert alice.session(here).groups == {"a", "b"}


async def test_a_join_that_meets_a_mark_is_joined_when_it_is_said_to_be(one):
    """The client comes back before the mark's gateway does, and asks again under the same id."""
    here = one.places[0]
    alice = await one.reliable("alice")
    bob = await one.reliable("bob")
    for number in range(15):
        group = f"g{number}"
        asked = alice.ask("joinGroup", group=group)
        session = alice.session(here)
        marking = asyncio.create_task(here.mark(alice, f"somebody-{number}"))
        await asyncio.sleep(0.0003 * number)
        await marking
        await until(lambda session=session: session.wanted >= 0)
        alice.cut()
        await alice.recover(here)
        alice.ask("joinGroup", ack_id=asked, group=group)
        answer = await alice.answer(asked)
        assert answer["success"] or answer["error"]["name"] == "Duplicate", answer
        await bob.publish(group, group)
        await alice.has(group)
    alice.close()
    bob.close()
    await here.leaves_nothing()


async def test_what_rest_sends_behind_a_mark_is_not_said_to_have_arrived(one):
    here = one.places[0]
    alice = await one.reliable("alice")
    session = alice.session(here)
    heard = []
    writer = here.sessions.holder.log.writer
    await here.mark(alice, "somebody")  # stored, and perhaps not folded yet
    if not session.moving:
        here.sessions.holder.direct_body(session, b"", heard.append)
    await until(lambda: session.moving)
    await writer.drain(5)
    await until(lambda: heard or not writer.busy())
    assert all(isinstance(error, Unavailable) for error in heard)
    with pytest.raises(Unavailable):
        await here.sessions.send(session, b"")


# -- ends --------------------------------------------------------------------------------------------


async def test_a_session_ends_when_its_window_is_over(tmp_path):
    async with ReliableStack(tmp_path, retention=0.5) as stack:
        here = stack.places[0]
        alice = await stack.reliable("alice", groups=["room"])
        kept = await stack.reliable("bob", groups=["room"])
        alice.cut()
        await until(lambda: alice.id not in here.sessions.holder.sessions)
        assert (await here.record(alice)).ended
        assert await alice.try_to_recover(here) == 1008
        assert not await here.rest("exists", HUB, "connection", alice.id)
        await kept.publish("room", "1")
        await kept.has("1")
        kept.close()
        await here.leaves_nothing()


async def test_a_verdict_waits_until_the_end_is_decided(two):
    """The window is over here while another gateway takes the session: its client is not told 1008."""
    first, second = two.places
    alice = await two.reliable("alice", at=first, groups=["room"])
    records = first.sessions.holder.records
    alice.cut()
    session = alice.session(first)
    end, decide = records.end, asyncio.Event()

    async def slowly(*arguments):
        await decide.wait()
        return await end(*arguments)

    records.end = slowly
    ending = first.sessions.holder.end(session, "Normal", None)
    assert await alice.try_to_recover(first) == 503
    await alice.recover(second)
    decide.set()
    assert await ending is False
    await alice.publish("room", "1")
    await alice.has("1")
    await first.leaves_nothing()
    assert await alice.try_to_recover(first) == 101


async def test_rest_ends_a_session_in_every_state(two):
    first, second = two.places
    attached = await two.reliable("a")
    detached = await two.reliable("b")
    wanted = await two.reliable("c")
    moved = await two.reliable("d")
    detached.cut()
    await until(lambda: detached.session(first).connection is None)
    await first.mark(wanted, "somebody")
    await until(lambda: wanted.session(first).moving)
    session = moved.session(first)
    await moved.recover(second)
    for client in (attached, detached, wanted):
        assert await first.rest("close", HUB, "connection", client.id, [], "enough") == 1
        assert (await first.record(client)).ended
        assert await client.try_to_recover(first) == 1008
        assert await client.try_to_recover(second) == 1008
    await attached.is_told(1000)
    session.over = False  # as if the first had not heard of it yet
    with pytest.raises(Unavailable):
        await first.sessions.close_session(session, "", None)
    assert await second.rest("close", HUB, "user", "d", [], None) == 1
    await first.leaves_nothing()
    await second.leaves_nothing()


async def test_who_never_acknowledges_is_closed_for_good(one):
    here = one.places[0]
    holder = here.sessions.holder
    holder.crowding.messages = 20
    alice = await one.reliable("alice", groups=["room"])
    away = await one.reliable("away", groups=["room"])
    bob = await one.reliable("bob")
    away.cut()
    for number in range(22):
        await bob.publish("room", f"m{number}")
    await alice.is_told(1008)
    for client in (alice, away):
        await until(lambda client=client: client.id not in holder.sessions)
        assert await client.try_to_recover(here) == 1008
    assert holder.ended_by["SlowClient"] == 2
    bob.close()
    await here.leaves_nothing()


async def test_who_comes_back_with_a_full_backlog_is_given_time_to_acknowledge(one):
    here = one.places[0]
    here.sessions.holder.crowding.messages = 20
    alice = await one.reliable("alice", groups=["room"])
    bob = await one.reliable("bob")
    alice.cut()
    for number in range(20):
        await bob.publish("room", f"m{number}")
    await alice.recover(here)
    await bob.publish("room", "one more")
    await alice.has("m0", "m19", "one more")
    alice.acknowledge(2**63)
    await bob.publish("room", "last")
    await alice.has("last")
    assert alice.got == [*range(1, 23)]
    assert len(alice.session(here).state.unacked) <= 1


async def test_a_backlog_of_many_megabytes_is_replayed(tmp_path):
    """More than waits for a plain client, and more than waits for an inbox at once; also after the log was
    trimmed, and on another gateway."""
    async with ReliableStack(tmp_path, gateways=2) as stack:
        first, second = stack.places
        alice = await stack.reliable("alice", at=first, groups=["a"])
        anna = await stack.reliable("anna", at=first, groups=["b"])
        bob = await stack.reliable("bob", at=first)
        alice.cut()
        anna.cut()
        big = "x" * 1_000_000
        for number in range(13):
            await bob.publish("a", f"a{number}{big}")
            await bob.publish("b", f"b{number}{big}")
        log = first.sessions.holder.log
        # Its growth begins this by itself; it is done when the log begins behind it.
        await until_awaited(lambda: begins_behind(log, 10))
        for client, name, place in ((alice, "a", second), (anna, "b", first)):
            await client.recover(place)
            await bob.publish(name, "end")
            await client.has("end")
            shorts = [text[:3].rstrip("x") for text in client.texts]
            assert shorts == [*(f"{name}{number}" for number in range(13)), "end"]
            client.close()
        bob.close()
        await first.leaves_nothing()
        await second.leaves_nothing()


# -- the log -----------------------------------------------------------------------------------------


async def test_when_the_inbox_is_lost_its_sessions_are_told(two):
    first, second = two.places
    alice = await two.reliable("alice", at=first, groups=["room"])
    moved = await two.reliable("moved", at=first, groups=["room"])
    await moved.recover(second)
    await until(lambda: moved.session(first) is None)
    away = await two.reliable("away", at=first)
    away.cut()
    log = first.sessions.holder.log
    await log.inbox.delete()
    await alice.is_told(1008)
    await first.leaves_nothing()
    for client in (alice, away):
        await until(lambda client=client: client.session(first) is None)
        assert await client.try_to_recover(first) == 1008
        assert await client.try_to_recover(second) == 1008
    again = await two.reliable("again", at=first, groups=["room"])  # in a new inbox
    await again.publish("room", "1")
    await again.has("1")
    await moved.has("1")
    await again.recover(second)  # whoever knows the log of before reads the new one
    await again.publish("room", "2")
    await again.has("2")
    await moved.has("2")


async def test_nothing_of_a_log_that_was_given_up_is_folded_again(one):
    """A fault in the fold: what it came to is not known any more, though the log is there."""
    here = one.places[0]
    alice = await one.reliable("alice", groups=["room"])
    fold = here.sessions.holder.log.fold

    def broken(*_):
        raise RuntimeError("a fault")

    fold.apply = broken
    bob = await one.json("bob")
    bob.say({"type": "sendToGroup", "ackId": 1, "group": "room", "dataType": "text", "data": "1"})
    await alice.is_told(1008)
    await here.leaves_nothing()
    again = await one.reliable("again", groups=["room"])
    assert len(here.sessions.holder.log.fold.sessions) == 1
    await again.publish("room", "2")
    await again.has("2")
    again.close()
    await here.leaves_nothing()


async def test_a_session_is_found_after_its_log_was_trimmed(two):
    first, second = two.places
    alice = await two.reliable("alice", at=first, groups=["room"])
    bob = await two.reliable("bob", at=first)
    trimming = gateway.reliable.upkeep.Trimming(first.sessions.holder.log)
    for number in range(3):
        for each in range(10):
            await bob.publish("room", f"{number}-{each}")
        await trimming.trim(first.sessions.holder.log.fold)
        if number == 1:
            await alice.has("1-5")
            alice.acknowledge(12)
    assert (await first.sessions.holder.log.inbox.info()).first > 20
    await alice.join("late")
    await alice.recover(second)
    await bob.publish("late", "end")
    await alice.has("2-9", "end")
    assert alice.got == [*range(1, 32)]


async def test_a_log_that_is_full_can_be_trimmed(one):
    here = one.places[0]
    log = here.sessions.holder.log
    log.inbox._config["max_bytes"] = 2**20
    alice = await one.reliable("alice", groups=["room"])
    bob = await one.reliable("bob")
    big = "x" * 100_000
    asked = [
        bob.ask("sendToGroup", group="room", dataType="text", data=f"{number}{big}") for number in range(15)
    ]
    await until_awaited(lambda: holds(log, 900_000))
    await alice.has(f"5{big}")
    alice.acknowledge(6)
    trimming = gateway.reliable.upkeep.Trimming(log)
    await trimming.trim(log.fold)
    for number in asked:
        assert (await bob.answer(number))["success"]
    await alice.has(f"14{big}")
    assert alice.got == [*range(1, 16)]
    alice.acknowledge(15)
    await until(lambda: not alice.session(here).state.unacked)
    await trimming.trim(log.fold)
    assert (await log.inbox.info()).max_bytes == 2**20


async def test_thousands_that_want_one_log_share_its_readings(two):
    """Each is sure of what was in it when it asked."""
    first, second = two.places
    alice = await two.reliable("alice", at=first)
    other = second.sessions._logs.of(first.name)
    readings = 0
    read = other._read_to

    async def counted(to_seq):
        nonlocal readings
        readings += 1
        return await read(to_seq)

    other._read_to = counted
    folds = await asyncio.gather(*(other.read() for _ in range(500)))
    assert all(fold.get(alice.id) is not None for fold in folds)
    assert readings <= 3
    bob = await two.reliable("bob", at=first)
    assert (await other.read()).get(bob.id) is not None


async def test_a_reading_that_is_cancelled_skips_nothing(two, monkeypatch):
    """Whoever wanted it has gone in the middle of a page; the next one reads on."""
    monkeypatch.setattr(gateway.reliable.logs, "TURN_MESSAGES", 5)
    first, second = two.places
    alice = await two.reliable("alice", at=first, groups=["room"])
    bob = await two.reliable("bob", at=first)
    for number in range(120):
        await bob.publish("room", f"m{number}")
    other = second.sessions._logs.of(first.name)
    for folded in (20, 45, 90):
        reading = asyncio.create_task(other.read())
        while other._fold is None or other._fold.fold.position < folded:  # noqa: ASYNC110
            await asyncio.sleep(0)  # no longer: it is to be in the middle
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert other._unfed
    fold = await other.read()
    assert fold.get(alice.id).last_id == 120
    await alice.recover(second)
    await alice.has("m0", "m119")


# -- gateways that go ----------------------------------------------------------------------------------


async def test_a_drained_gateway_leaves_its_sessions_to_others_and_those_end_once(tmp_path):
    async with ReliableStack(tmp_path, gateways=2, retention=3.0) as stack:
        first, second = stack.places
        back = await stack.reliable("back", at=first, groups=["room"])
        away = await stack.reliable("away", at=first, groups=["room", "ghost"])
        bob = await stack.reliable("bob", at=second)
        await bob.publish("room", "1")
        stopping = asyncio.create_task(first.stop())
        await back.is_told(1001)
        await back.recover(second)
        await bob.publish("room", "2")
        await back.has("1", "2")
        await stopping
        assert not (await second.record(away)).ended
        name = first.name
        begun = time.monotonic()
        await until_awaited(lambda: inbox_is_gone(second.worker.bus, name))
        assert time.monotonic() - begun > 1
        assert (await second.record(away)).ended
        assert (await second.record(back)).holder == second.name
        assert await away.try_to_recover(second) == 1008
        await bob.publish("room", "3")
        await back.has("3")
        back.close()
        bob.close()
        await second.leaves_nothing()


async def test_recoveries_of_sessions_that_never_were_leave_nothing(one):
    here = one.places[0]
    key = one.service._settings.reconnection_keys.current
    alice = await one.reliable("alice")

    async def attempt(number):
        there = here.name if number % 2 else f"{number:09x}"
        client = await stranger(new_connection_id(number.to_bytes(16, "big"), there))
        return await client.try_to_recover(here)

    async def stranger(connection_id):
        client = type(alice)(one, "nobody")
        client.id = connection_id
        client.token = issue_reconnection_token(key, connection_id=client.id, hub=HUB, now=time.time())
        return client

    for _ in range(4):
        assert {*await asyncio.gather(*map(attempt, range(1, 61)))} == {1008}
    sessions = here.sessions
    assert not sessions.moves._under_way
    assert not [name for name in sessions._logs._logs if name != here.name]
    await alice.join("g")


async def test_a_flood_of_acknowledgements_is_one_entry_a_second(one):
    here = one.places[0]
    alice = await one.reliable("alice", groups=["room"])
    before = here.sessions.holder.log.writer.entries_stored
    for number in range(5000):
        alice.acknowledge(number % 7)
    await alice.join("g")
    await alice.publish("room", "1")
    await alice.has("1")
    assert here.sessions.holder.log.writer.entries_stored - before < 20


async def test_what_a_client_acknowledges_before_it_moves_at_once_is_not_replayed(two, monkeypatch):
    monkeypatch.setattr(Holder, "tick", lambda _holder: None)  # that would log it too, a second later
    first, second = two.places
    alice = await two.reliable("alice", at=first, groups=["room"])
    bob = await two.reliable("bob", at=second)
    await bob.publish("room", "1")
    await alice.has("1")
    alice.acknowledge(1)
    await until(lambda: alice.session(first).state.acked == 1, 20)
    alice.cut()
    await until(lambda: alice.session(first).connection is None, 20)
    await alice.recover(second)
    assert not alice.session(second).state.unacked
    await bob.publish("room", "2")
    assert (await alice.read())["sequenceId"] == 2
    alice.close()
    bob.close()


async def test_the_inbox_of_a_lost_gateway_that_fills_up_takes_messages_and_its_sessions_come_back(tmp_path):
    async with ReliableStack(tmp_path, gateways=2) as stack:
        first, second = stack.places
        first.sessions.holder.log.inbox._config["max_bytes"] = 2**20
        alice = await stack.reliable("alice", at=first, groups=["room"])
        bob = await stack.reliable("bob", at=second)
        await first.stop()
        big = "x" * 100_000
        asked = [
            bob.ask("sendToGroup", group="room", dataType="text", data=f"{number}{big}")
            for number in range(15)
        ]
        for number in asked:
            assert (await bob.answer(number))["success"]
        await alice.recover(second)
        await alice.has(*(f"{number}{big}" for number in range(15)))
        alice.close()
        bob.close()


async def test_when_the_records_are_lost_a_session_that_had_moved_ends_where_it_is(two):
    """As in a cluster in memory mode that loses one stream and keeps the others: 1008, and it is told."""
    first, second = two.places
    alice = await two.reliable("alice", at=first)
    away = await two.reliable("away", at=first)
    for client in (alice, away):
        await client.recover(second)
        await until(lambda client=client: client.session(first) is None, 20)
    await second.worker.bus.js.delete_stream("hw_sessions")
    away.cut()
    assert await away.try_to_recover(first) == 1008
    ended = second.sessions.holder.ended_by
    assert not ended.total()
    second.sessions.holder.end(away.session(second), "Normal", None)
    alice.close()
    await until(lambda: ended["Normal"] == 2, 20)
    assert (await second.record(alice)).ended
    assert (await second.record(away)).ended
    await second.leaves_nothing()


async def test_an_answer_of_an_inbox_that_was_lost_keeps_nobody_waiting_in_the_next_one(one, monkeypatch):
    here = one.places[0]
    alice = await one.reliable("alice")
    log = here.sessions.holder.log
    answers, heard = [], []
    with monkeypatch.context() as patched:
        patched.setattr(log.writer, "submit", lambda _to, _entry, done, _wanted: answers.append(done))
        log.write(left_entry(alice.id, "room"), heard.append)
    await log.inbox.delete()
    await alice.is_told(1008)
    again = await one.reliable("again")  # in a new inbox
    answers[0](1_000_000, None)
    assert [type(error) for error in heard] == [Unavailable]
    again.close()
    await here.leaves_nothing()


async def test_a_session_does_not_come_back_before_its_last_join_here_is_decided(two, monkeypatch):
    first, second = two.places
    alice = await two.reliable("alice", at=first)
    log = first.sessions.holder.log
    stuck = []
    with monkeypatch.context() as patched:
        patched.setattr(log.writer, "submit", lambda *entry: stuck.append(entry))
        alice.ask("joinGroup", group="room")
        await until(lambda: stuck, 20)
    await alice.recover(second)
    await alice.join("room")
    assert await alice.try_to_recover(first) == 503
    for entry in stuck:
        log.writer.submit(*entry)
    await alice.recover(first)
    bob = await two.reliable("bob", at=second)
    await bob.publish("room", "1")
    await alice.has("1")
    alice.close()
    bob.close()
