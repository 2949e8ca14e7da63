"""The order in which one connection's requests are executed, and what bounds those that wait.

Client-protocols.md 3.1, 3.8, 6.3, 8.3.
"""

from __future__ import annotations

import asyncio
import json

import pytest
from support.link import Executor, both_loops, linked, new_connection, run
from support.stack import BINARY, CLOSE, TEXT, masked, until

from gateway import connection as module
from gateway.connection import Mode
from gateway.protocol.simple import SIMPLE
from hubwire.model.errors import Unavailable

pytestmark = both_loops


def say(kind, ack_id=None, **more):
    message = {"type": kind, **more}
    if ack_id is not None:
        message["ackId"] = ack_id
    return masked(TEXT, json.dumps(message).encode())


def join(group, ack_id=None):
    return say("joinGroup", ack_id, group=group)


def send(data, ack_id=None):
    return say("sendToGroup", ack_id, group="g", dataType="text", data=data)


async def greeted(raw):
    assert (await raw.hear())["event"] == "connected"
    return raw


def test_connected_comes_first_and_pings_are_answered_past_what_waits(loop):
    async def test():
        executor = Executor()
        async with linked(new_connection(executor), rest=join("g", 1) + say("ping")) as raw:
            assert await raw.hear() == {
                "type": "system",
                "event": "connected",
                "userId": "user",
                "connectionId": "id",
            }
            assert await raw.hear() == {"type": "pong"}
            assert executor.asked == [("registered", None), ("join", "g")]

    run(loop, test())


def test_publishes_go_together_and_everything_else_waits_for_them_and_they_for_it(loop):
    async def test():
        executor = Executor()
        async with linked(new_connection(executor)) as raw:
            await greeted(raw)
            raw.send(send("a") + send("b") + join("g") + send("c") + join("h"))
            await until(lambda: len(executor.requests) == 2)
            assert executor.requests == [("publish", b"a"), ("publish", b"b")]
            executor.finish()
            assert len(executor.requests) == 2
            executor.finish()
            assert executor.requests[2:] == [("join", "g")]
            executor.finish()
            assert executor.requests[3:] == [("publish", b"c")]
            executor.finish()
            assert executor.requests[4:] == [("join", "h")]
            executor.finish()

    run(loop, test())


def test_an_id_that_comes_again_while_it_is_executed_waits_and_is_then_a_duplicate(loop):
    async def test():
        executor = Executor()
        async with linked(new_connection(executor)) as raw:
            await greeted(raw)
            raw.send(send("a", 1) + send("again", 1) + send("b", 2))
            await until(lambda: executor.pending)
            assert executor.requests == [("publish", b"a")]
            executor.finish()
            assert [await raw.hear(), await raw.hear()] == [
                {"type": "ack", "ackId": 1, "success": True},
                {
                    "type": "ack",
                    "ackId": 1,
                    "success": False,
                    "error": {"name": "Duplicate", "message": "Message with ack-id: 1 has been processed"},
                },
            ]
            assert executor.requests == [("publish", b"a"), ("publish", b"b")]

    run(loop, test())


def test_after_a_failure_the_same_id_may_be_tried_again(loop):
    async def test():
        executor = Executor()
        connection = new_connection(executor)
        async with linked(connection) as raw:
            await greeted(raw)
            raw.send(send("a", 1) + send("again", 1))
            await until(lambda: executor.pending)
            executor.finish(Unavailable("no owner"))
            assert await raw.hear() == {
                "type": "ack",
                "ackId": 1,
                "success": False,
                "error": {"name": "InternalServerError", "message": "Internal server error"},
            }
            executor.finish()
            assert (await raw.hear())["success"] is True
            assert connection.bounds.tally.failed == 1  # counted, also where nobody asked for an ack

    run(loop, test())


def test_requests_that_are_executed_at_once_do_not_nest(loop, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 10_000)

    async def test():
        executor = Executor()
        async with linked(new_connection(executor)) as raw:
            await greeted(raw)
            raw.send(join("g") + b"".join(say("leaveGroup", group="g") for _ in range(3000)))
            raw.send(say("ping"))
            assert await raw.hear() == {"type": "pong"}  # all of them wait by now
            executor.at_once = True
            executor.finish()
            assert len(executor.requests) == 3001

    run(loop, test())


def test_a_client_that_sends_more_than_may_wait_is_not_read_until_half_of_it_is_done(loop):
    async def test():
        executor = Executor()
        connection = new_connection(executor)
        async with linked(connection) as raw:
            await greeted(raw)
            raw.send(join("g") + b"".join(join(f"g{n}") for n in range(20_000)))
            await until(lambda: connection.reading_paused)
            assert not connection._transport.is_reading()
            waiting = len(connection.waiting)
            assert waiting < 5_000
            await asyncio.sleep(0.05)
            assert len(connection.waiting) == waiting
            executor.at_once = True
            executor.finish()
            await until(lambda: len(executor.requests) == 20_001)
            assert not connection.reading_paused
            assert connection.waiting is None
            assert connection.waiting_bytes == 0

    run(loop, test())


def test_large_messages_that_wait_are_bounded_by_their_bytes(loop):
    """Reading went on as soon as few messages waited, however large they were."""

    async def test():
        executor = Executor()
        connection = new_connection(executor)
        async with linked(connection) as raw:
            await greeted(raw)
            raw.send(join("a") + join("b") + join("c") + send("x" * 1_000_000) * 20)
            await until(lambda: connection.reading_paused)
            assert len(connection.waiting) <= 5
            executor.finish()  # three large ones wait still
            assert connection.reading_paused
            assert connection.waiting_bytes < 4_000_000
            executor.at_once = True
            executor.finish()
            await until(lambda: len(executor.requests) == 23)

    run(loop, test())


def test_publishes_on_their_way_are_bounded_by_number_and_by_bytes(loop):
    async def test():
        executor = Executor()
        connection = new_connection(executor)
        async with linked(connection) as raw:
            await greeted(raw)
            raw.send(send("x" * 900_000) * 4)
            await until(lambda: connection.waiting and len(connection.waiting) == 2)
            assert connection.in_flight == 2
            while executor.pending:
                executor.finish()
            assert connection.in_flight == connection.in_flight_bytes == 0
            assert len(executor.requests) == 4
            raw.send(send("y") * (module.MAX_IN_FLIGHT + 10))
            await until(lambda: connection.waiting and len(connection.waiting) == 10)
            assert connection.in_flight == module.MAX_IN_FLIGHT

    run(loop, test())


def test_an_empty_message_of_a_publishing_simple_client_is_one_like_any_other(loop):
    """A publish of no bytes was counted as begun and never as done, so that nothing followed it."""

    async def test():
        executor = Executor()
        connection = new_connection(executor, codec=SIMPLE, mode=Mode("g"))
        async with linked(connection) as raw:
            raw.send(masked(TEXT, b"") + masked(BINARY, b"\x00"))
            await until(lambda: len(executor.requests) == 2)
            executor.finish()
            executor.finish()
            assert connection.in_flight == 0

    run(loop, test())


def test_events_of_a_simple_client_go_one_at_a_time(loop):
    async def test():
        executor = Executor()
        connection = new_connection(executor, codec=SIMPLE)
        async with linked(connection) as raw:
            raw.send(masked(TEXT, b'{"type":"ping"}') + masked(BINARY, b"\xff"))
            await until(lambda: executor.pending)
            assert executor.requests == [("event", b'{"type":"ping"}')]
            executor.finish()
            assert executor.requests[1:] == [("event", b"\xff")]

    run(loop, test())


def test_a_publishing_simple_client_without_permission_is_closed_at_its_first_frame(loop):
    async def test():
        executor = Executor()
        async with linked(new_connection(executor, codec=SIMPLE, mode=Mode("g"), roles=())) as raw:
            raw.send(masked(TEXT, b"x"))
            assert await raw.closed() == (1008, "No permission to send to group 'g'.")
            assert executor.requests == []

    run(loop, test())


def test_nothing_is_begun_or_acked_after_the_end(loop):
    async def test():
        executor = Executor()
        connection = new_connection(executor)
        async with linked(connection) as raw:
            await greeted(raw)
            raw.send(send("a", 1) + join("g", 2))
            await until(lambda: connection.waiting)
            connection.close_administratively("Goodbye.")
            executor.finish()
            assert len(executor.requests) == 1
            assert await raw.hear() == {"type": "system", "event": "disconnected", "message": "Goodbye."}
            assert await raw.closed() == (1000, "")
        assert executor.ends == ["ClosedByAppServer"]

    run(loop, test())


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda connection, raw: raw.send(masked(CLOSE, b"\x03\xe8bye")), "bye"),
        (lambda connection, raw: raw.send(masked(CLOSE)), None),
        (lambda connection, raw: raw.send(masked(CLOSE, b"\x0f\xa0")), None),
        (lambda connection, raw: raw.close(), None),
        (lambda connection, raw: connection.close_administratively("You: bad.", reason="bad"), "bad"),
        (lambda connection, raw: connection.close_administratively("Go."), None),
        (lambda connection, raw: raw.send(masked(BINARY)), "A binary frame, where"),
        (lambda connection, raw: connection.cut("PingTimeout", "Nobody there."), "Nobody there."),
    ],
)
def test_who_ends_a_connection_is_heard_with_his_reason(loop, end, reason):
    async def test():
        executor = Executor()
        connection = new_connection(executor)
        async with linked(connection) as raw:
            await greeted(raw)
            end(connection, raw)
            await until(lambda: executor.ends)
        (told,) = executor.reasons
        assert told == reason or told.startswith(reason)

    run(loop, test())


def test_events_are_counted_whether_or_not_anybody_asked_before(loop):
    """`connected` is the first event; nobody has to have asked for its number."""

    async def test():
        late, early = new_connection(Executor()), new_connection(Executor())
        assert early.source.events == 0
        async with linked(late), linked(early):
            assert [late.source.next_id(), early.source.next_id()] == [2, 2]
            assert late.source.next_id() == 3
            assert late.source is late.source
            assert (late.source.subprotocol, late.source.user_id) == ("json.webpubsub.azure.v1", "user")

    run(loop, test())


@pytest.mark.parametrize("later", [False, True])
def test_an_error_of_ours_closes_with_1011_and_tells_nothing(loop, later):
    async def test():
        executor = Executor()
        async with linked(new_connection(executor)) as raw:
            await greeted(raw)
            if later:
                raw.send(join("g"))
                await until(lambda: executor.pending)
            executor.join = lambda *_: 1 / 0
            raw.send(join("secret"))
            if later:
                raw.send(say("ping"))
                await raw.hear()
                executor.finish()
            assert await raw.closed() == (1011, "Internal error.")
        assert executor.ends == ["ServiceTransientError"]

    run(loop, test())
