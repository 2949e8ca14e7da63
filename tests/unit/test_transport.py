"""The outbox, closing, and what a connection leaves behind, on real sockets of both event loops."""

from __future__ import annotations

import asyncio
import gc
import random
import time
import weakref

import pytest
from support.link import Executor, both_loops, linked, new_connection, run, tcp_pair
from support.stack import CLOSE, PING, TEXT, masked, until

from gateway import transport as module
from gateway.delivery import Delivery
from gateway.flusher import Flusher
from gateway.frames import BINARY, frame
from gateway.hub import LocalHubs
from gateway.protocol.json_v1 import JSON_V1
from gateway.upgrade import PARSER_BYTES, Wire, hand_over
from hubwire.bus.envelopes import pack_body
from hubwire.bus.keys import hub_key
from hubwire.model.message import DataType, Message

pytestmark = both_loops


def slow(connection):
    """A link whose kernel buffers are full soon."""
    return linked(connection, receive_buffer=4096, send_buffer=4096)


async def heard(raw, count):
    assert (await raw.hear())["event"] == "connected"
    return [(await raw.frame())[1] for _ in range(count)]


def test_what_one_turn_sends_is_one_write_and_all_turns_are_in_order(loop):
    async def test():
        connection = new_connection(Executor(), outbox_limit=50_000_000)
        payloads = [random.Random(n).randbytes(n * 97 % 9000) for n in range(2000)]
        async with slow(connection) as raw:
            for number, payload in enumerate(payloads):
                connection.send(frame(BINARY, payload))
                if number % 7 == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert connection.queued_bytes > 1_000_000
            assert await heard(raw, len(payloads)) == payloads
            assert connection.queued_bytes == 0
            connection.send(frame(BINARY, b"direct again"))
            assert await raw.frame() == (BINARY, b"direct again")

    run(loop, test())


def test_a_slow_consumer_is_closed_at_the_bound_and_told_why_when_it_still_can_be(loop):
    async def test():
        executor = Executor()
        connection = new_connection(executor, outbox_limit=100_000)
        async with slow(connection) as raw:
            while not connection.over:
                connection.send(frame(BINARY, b"x" * 5000))
                await asyncio.sleep(0)
                assert connection.queued_bytes <= 110_000
            assert executor.ends == ["SlowClient"]
            assert await raw.closed() == (1008, "The client does not read fast enough.")
            await until(lambda: connection.finished)
        assert executor.ends == ["SlowClient"]

    run(loop, test())


def test_tiny_messages_count_for_what_they_cost_in_memory(loop):
    async def test():
        connection = new_connection(Executor(), outbox_limit=100_000)
        async with slow(connection):
            while not connection.queued_bytes:
                connection.send(frame(BINARY, b"x" * 5000))
                await asyncio.sleep(0)
            count = 0
            while not connection.over:
                connection.send(frame(BINARY, b"x"))
                await asyncio.sleep(0)
                count += 1
            assert 800 < count < 1100  # bytes alone would let 33,000 wait, which are 3 MB

    run(loop, test())


def test_a_slow_consumer_that_reads_nothing_at_all_is_cut(loop):
    async def test():
        connection = new_connection(Executor(), outbox_limit=100_000)
        async with slow(connection):
            connection.send(frame(BINARY, b"x" * 20_000_000))  # more than the bound in one turn, too
            await until(lambda: connection.over)
            await until(lambda: connection.finished, 3)

    run(loop, test())


def test_messages_whose_time_is_over_while_they_wait_are_dropped(loop):
    async def test():
        connection = new_connection(Executor(), outbox_limit=50_000_000)
        async with slow(connection) as raw:
            now = asyncio.get_running_loop().time()
            for _ in range(40):
                connection.send(frame(BINARY, b"x" * 100_000))
            await asyncio.sleep(0)
            assert connection.queued_bytes or connection._outbox is not None
            connection.send_until(frame(BINARY, b"late"), now - 1)
            connection.send(frame(BINARY, b"for ever"))
            connection.send_until(frame(BINARY, b"in time"), now + 60)
            last = await heard(raw, 42)
            assert last[40:] == [b"for ever", b"in time"]

    run(loop, test())


def test_a_message_with_a_time_to_live_is_not_late_where_nothing_waits(loop):
    async def test():
        connection = new_connection(Executor())
        async with linked(connection) as raw:
            connection.send_until(frame(BINARY, b"now"), 0.001)
            assert await heard(raw, 1) == [b"now"]

    run(loop, test())


def test_closing_sends_what_waits_then_the_last_message_then_the_close_frame(loop):
    async def test():
        # The bound is nearly reached: the last words must not push it over.
        connection = new_connection(Executor(), outbox_limit=50_000_000)
        async with slow(connection) as raw:
            for _ in range(40):
                connection.send(frame(BINARY, b"x" * 100_000))
            await asyncio.sleep(0)
            connection.send(frame(BINARY, b"last but one"))
            await asyncio.sleep(0)
            connection.bounds.outbox_bytes = connection.queued_bytes + 1
            connection.close_administratively("Go.", 1001)
            connection.send(frame(BINARY, b"too late"))
            frames = await heard(raw, 42)
            assert frames[40] == b"last but one"
            assert b"Go." in frames[41]
            assert await raw.frame() == (CLOSE, b"\x03\xe9")
            raw.send(masked(CLOSE, b"\x03\xe9"))
            assert await raw.gone() == b""

    run(loop, test())


def test_a_close_that_is_not_answered_ends_at_the_deadline(loop, monkeypatch):
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.2)

    async def test():
        executor = Executor()
        connection = new_connection(executor)
        async with linked(connection) as raw:
            connection.close(1000, "", "ClosedByAppServer", seconds=0.2)
            connection.close(1011, "again", "Other")
            assert await raw.closed() == (1000, "")
            await until(lambda: connection.finished, 2)
        assert executor.ends == ["ClosedByAppServer"]

    run(loop, test())


def test_a_peer_that_closes_and_never_reads_does_not_keep_its_socket(loop, monkeypatch):
    """Nothing limited the wait for the rest to be written: such a socket stayed for ever."""
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.2)

    async def test():
        connection = new_connection(Executor(), outbox_limit=50_000_000)
        async with slow(connection) as raw:
            for _ in range(100):
                connection.send(frame(BINARY, b"x" * 100_000))
            await asyncio.sleep(0)
            raw.send(masked(CLOSE, b"\x03\xe8"))
            await until(lambda: connection.over)
            await until(lambda: connection.finished, 2)

    run(loop, test())


def test_a_violation_while_the_outbox_is_full_still_gets_its_close_frame(loop):
    async def test():
        connection = new_connection(Executor(), outbox_limit=50_000_000)
        async with slow(connection) as raw:
            for _ in range(100):
                connection.send(frame(BINARY, b"x" * 100_000))
                await asyncio.sleep(0)
            raw.send(masked(3, b"illegal") + b"more" * 100_000)
            await until(lambda: connection.closing)
            assert (await raw.closed())[0] == 1002
            async with asyncio.timeout(module.CLOSE_SECONDS / 2):
                assert await raw.gone() == b""  # the end of the stream, not a reset, and at once
            raw.close()
            await until(lambda: connection.finished, 2)

    run(loop, test())


def test_a_connection_that_is_closed_while_it_is_not_read_hears_the_answer(loop):
    async def test():
        connection = new_connection(Executor())
        async with linked(connection) as raw:
            connection.pause_reading()
            connection.close_administratively("Go.")
            assert await raw.closed() == (1000, "")
            raw.send(masked(CLOSE, b"\x03\xe8"))
            await until(lambda: connection.finished, 2)

    run(loop, test())


def test_what_is_sent_before_the_101_is_nobodys(loop):
    async def test():
        connection = new_connection(Executor())
        connection.send(frame(BINARY, b"early"))
        await asyncio.sleep(0)
        async with linked(connection) as raw:
            connection.send(frame(BINARY, b"after"))
            assert await heard(raw, 1) == [b"after"]

    run(loop, test())


def test_a_socket_that_breaks_while_it_is_written_to_silences_nobody_else(loop):
    async def test():
        flusher = Flusher(asyncio.get_running_loop())
        broken = new_connection(Executor(), flusher=flusher)
        other = new_connection(Executor(), flusher=flusher)
        async with linked(broken) as gone, linked(other) as raw:
            gone.close()
            for number in range(50):
                broken.send(frame(BINARY, b"x"))
                other.send(frame(BINARY, bytes((number,))))
                if number == 40:
                    broken.direct = None  # os.write raises TypeError: a bug, not a broken pipe
                await asyncio.sleep(0.001 if number < 40 else 0)
            assert await heard(raw, 50) == [bytes((number,)) for number in range(50)]
            assert broken.over

    run(loop, test())


def test_a_message_to_all_reaches_every_open_connection_in_its_place_and_no_other(loop):
    async def test():
        flusher = Flusher(asyncio.get_running_loop())
        hubs = LocalHubs()
        delivery = Delivery(hubs, asyncio.get_running_loop().time)
        plain, busy, waits, answered, closed, unopened = members = [
            new_connection(Executor(), flusher=flusher, outbox_limit=50_000_000) for _ in range(6)
        ]
        for number, member in enumerate(members):
            member.id = str(number)
            hubs.add(member)

        def publish(text, number):
            body = pack_body(Message(DataType.TEXT, text, None, None))
            delivery.envelope(7, 1, "owner", number, hub_key("chat"), body)

        async with (
            linked(plain) as of_plain,
            linked(busy) as of_busy,
            slow(waits) as of_waits,
            linked(answered) as of_answered,
            linked(closed) as of_closed,
        ):
            sent = []
            while not waits.queued_bytes:
                sent.append(b"%d" % len(sent) * 20_000)
                waits.send(frame(BINARY, sent[-1]))
                await asyncio.sleep(0)
            busy.send(frame(BINARY, b"before"))
            answered.answer_close(b"")
            closed.close(1000, "bye", "Normal")
            publish(b"one", 1)
            publish(b"two", 2)
            messages = [
                JSON_V1.message(Message(DataType.TEXT, text, None, None)) for text in (b"one", b"two")
            ]
            assert await heard(of_plain, 2) == messages
            assert await heard(of_busy, 3) == [b"before", *messages]
            assert await heard(of_waits, len(sent) + 2) == [*sent, *messages]
            for raw in (of_answered, of_closed):
                assert (await raw.hear())["event"] == "connected"
                assert (await raw.frame())[0] == CLOSE
            assert await of_answered.gone() == b""
            publish(b"two", 3)
            assert (await of_waits.frame())[1] == messages[1]
            assert unopened.turn is None

    run(loop, test())


def test_a_socket_that_was_lost_before_the_hand_over_raises_or_ends_but_does_not_stay(loop):
    async def test():
        executor = Executor()
        connection = new_connection(executor)
        near, far = await tcp_pair()
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=near)
        far.close()
        transport.abort()
        await asyncio.sleep(0.05)
        try:
            hand_over(transport, connection, "AAAAAAAAAAAAAAAAAAAAAA==", None, b"")
        except Exception:
            connection.abort()
        connection.abort()
        assert executor.ends == ["Normal"]

    run(loop, test())


def test_a_dead_connection_is_freed_at_once_without_the_collector(loop):
    async def test():
        gc.collect()
        gc.disable()
        try:
            dead = []
            for number in range(6):
                connection = new_connection(Executor())
                dead.append(weakref.ref(connection))
                async with linked(connection) as raw:
                    assert (await raw.hear())["event"] == "connected"
                    wire = connection._transport.get_protocol()
                    assert isinstance(wire, Wire)
                    dead.append(weakref.ref(wire._parser.transport))
                    if number == 1:
                        raw.send(masked(CLOSE, b""))
                    elif number == 2:
                        raw.send(masked(3, b""))
                    elif number == 3:
                        connection.close_administratively("Go.")
                        raw.send(masked(CLOSE, b""))
                    elif number == 4:
                        raw.send(masked(TEXT, b" " * 200_000 + b'{"type":"ping"}'))
                        await raw.hear()
                    elif number == 5:
                        connection.abort()
                    if number in (1, 2, 3, 5):
                        await raw.gone()
                    del wire
                del connection, raw
            await asyncio.sleep(0.05)
            assert [ref() for ref in dead] == [None] * len(dead)
        finally:
            gc.enable()

    run(loop, test())


@pytest.mark.parametrize("size", [300, 31_000, 40_000, 1_000_000])
def test_after_large_messages_and_floods_the_read_buffer_is_small_again(loop, size):
    """picows doubles it and keeps it: one message of a megabyte cost its sender's connection two megabytes
    for as long as it stayed."""

    async def test():
        connection = new_connection(Executor())
        async with linked(connection) as raw:
            assert (await raw.hear())["event"] == "connected"
            text = masked(TEXT, b" " * size + b'{"type":"ping"}')
            begun = masked(PING, b"begun")
            count = 2_000_000 // size + 2
            async with asyncio.TaskGroup() as tasks:

                async def write():
                    for number in range(count):
                        raw.send(text + begun[:1] if number == count - 1 else text)
                        await raw.writer.drain()

                tasks.create_task(write())
                for _ in range(count):
                    assert await raw.hear() == {"type": "pong"}
            room = connection._transport.get_protocol()._parser.get_buffer(-1)
            assert len(room) < (PARSER_BYTES if size >= module.LARGE_FRAME_BYTES else 4 * 32 * 1024)
            raw.send(begun[1:])
            assert (await raw.frame())[1] == b"begun"

    run(loop, test())


def test_slow_writers_count_as_alive(loop):
    async def test():
        connection = new_connection(Executor())
        async with linked(connection) as raw:
            text = masked(TEXT, b'{"type":"ping"}')
            for byte in text[:-1]:
                connection.silent = 1
                raw.send(bytes((byte,)))
                await until(lambda: connection.silent == 0)

    run(loop, test())


def test_sending_to_many_costs_one_write_each(loop):
    """Not a benchmark: a bound that only a mistake of an order of magnitude breaks."""

    async def test():
        flusher = Flusher(asyncio.get_running_loop())
        connection = new_connection(Executor(), flusher=flusher)
        async with linked(connection) as raw:
            data = frame(BINARY, b"x" * 50)
            began = time.perf_counter()
            for _ in range(200):
                for _ in range(50):
                    connection.send(data)
                await asyncio.sleep(0)
            assert time.perf_counter() - began < 2
            await heard(raw, 10_000)

    run(loop, test())
