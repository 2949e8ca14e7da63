"""What holds for a client's connection holds over TLS: order, the outbox's bound, closing, deadlines."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref

import pytest
from support.certificate_authority import CertificateAuthority
from support.link import Executor, Tls, both_loops, linked, new_connection, run, tcp_pair
from support.stack import CLOSE, PING, PONG, TEXT, masked, until

from gateway import front as front_module
from gateway.frames import BINARY, frame
from gateway.front import Front, Undecided
from hubwire.runtime import tls_transport as module
from hubwire.runtime.certificates import load_certificate
from hubwire.runtime.tls_transport import TlsEdge, TlsTransport

pytestmark = both_loops


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    authority = CertificateAuthority(tmp_path_factory.mktemp("authority"))
    return Tls(load_certificate(*map(str, authority.issue("localhost"))).context, authority.trusted)


def slow(connection, tls):
    """A link whose kernel buffers are full soon."""
    return linked(connection, receive_buffer=4096, send_buffer=4096, tls=tls)


async def heard(raw, count):
    assert (await raw.hear())["event"] == "connected"
    return [(await raw.frame())[1] for _ in range(count)]


def test_all_turns_are_in_order_and_what_waits_is_counted(loop, tls):
    async def test():
        connection = new_connection(Executor(), outbox_limit=50_000_000)
        payloads = [random.Random(n).randbytes(n * 97 % 40_000) for n in range(500)]
        async with slow(connection, tls) as raw:
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


def test_a_slow_consumer_is_closed_at_the_bound_and_told_why(loop, tls):
    async def test():
        executor = Executor()
        connection = new_connection(executor, outbox_limit=200_000)
        async with slow(connection, tls) as raw:
            while not connection.over:
                connection.send(frame(BINARY, b"x" * 5000))
                await asyncio.sleep(0)
                assert connection.queued_bytes <= 210_000
            assert executor.ends == ["SlowClient"]
            assert await raw.closed() == (1008, "The client does not read fast enough.")
            await until(lambda: connection.finished)

    run(loop, test())


def test_who_reads_nothing_at_all_is_cut(loop, tls):
    async def test():
        connection = new_connection(Executor(), outbox_limit=100_000)
        async with slow(connection, tls):
            connection.send(frame(BINARY, b"x" * 20_000_000))  # more than the bound in one turn, too
            await until(lambda: connection.over)
            await until(lambda: connection.finished, 10)

    run(loop, test())


def test_large_and_small_messages_come_whole_and_pings_are_answered(loop, tls):
    async def test():
        executor = Executor(at_once=True)
        connection = new_connection(executor)
        async with linked(connection, tls=tls) as raw:
            assert (await raw.hear())["event"] == "connected"
            text = "x" * 900_000
            raw.send(
                masked(TEXT, f'{{"type":"event","event":"e","dataType":"text","data":"{text}"}}'.encode())
            )
            for number in range(20):
                raw.send(masked(PING, bytes((number,))))
            for number in range(20):
                assert await raw.frame() == (PONG, bytes((number,)))
            assert len(executor.requests) == 1

    run(loop, test())


def test_a_close_frame_is_answered_and_the_end_is_an_orderly_one(loop, tls):
    async def test():
        connection = new_connection(Executor())
        async with linked(connection, tls=tls) as raw:
            assert (await raw.hear())["event"] == "connected"
            raw.send(masked(CLOSE, b"\x0f\xa0bye"))
            assert await raw.closed() == (4000, "bye")
            assert await raw.reader.read() == b""  # close_notify and end of data, no reset
            raw.close()
            await until(lambda: connection.finished)

    run(loop, test())


def test_a_violation_still_gets_its_close_frame(loop, tls):
    async def test():
        connection = new_connection(Executor())
        async with linked(connection, tls=tls) as raw:
            assert (await raw.hear())["event"] == "connected"
            raw.send(frame(TEXT, b"not masked"))
            assert (await raw.closed())[0] == 1002
            await until(lambda: connection.finished)

    run(loop, test())


def test_who_never_closes_after_us_does_not_keep_its_socket(loop, tls, monkeypatch):
    async def test():
        monkeypatch.setattr(module, "LINGER_SECONDS", 0.05)
        near, far = await tcp_pair()
        above = Above()
        wrapped = TlsTransport(TlsEdge(lambda: tls.server), above)
        await asyncio.get_running_loop().create_connection(lambda: wrapped, sock=near)
        _, writer = await asyncio.open_connection(sock=far, ssl=tls.client, server_hostname="localhost")
        await until(lambda: wrapped.opened)
        writer.transport.pause_reading()  # so it never sees that we are done
        wrapped.write(b"last words")
        wrapped.close()
        assert wrapped.is_closing()
        await until(lambda: above.lost)
        writer.transport.abort()

    run(loop, test())


class Above(asyncio.Protocol):
    lost = False

    def connection_lost(self, exc):
        self.lost = True


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01\x00"], ids=["nothing", "half a hello"])
def test_who_does_not_finish_the_handshake_is_cut_as_a_slow_head_is(loop, tls, said, monkeypatch):
    async def test():
        monkeypatch.setattr(front_module, "HEAD_SECONDS", 0.05)
        fronts = Undecided()
        make = TlsEdge(lambda: tls.server).around(lambda: Front(fronts, never, None))
        server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(said)
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            pass
        await until(lambda: not len(fronts))
        writer.close()
        server.close()

    run(loop, test())


async def never(_front, _head):
    raise AssertionError("no request has come")


def test_a_dead_connection_is_freed_at_once_without_the_collector(loop, tls):
    async def test():
        gc.collect()
        gc.disable()
        try:
            dead = []
            for closes in (True, False):
                connection = new_connection(Executor())
                dead.append(weakref.ref(connection))
                async with linked(connection, tls=tls) as raw:
                    assert (await raw.hear())["event"] == "connected"
                    if closes:
                        raw.send(masked(CLOSE, b""))
                        await raw.closed()
                    raw.close()
                    await until(lambda connection=connection: connection.finished)
                del connection, raw
            await until(lambda: [ref() for ref in dead] == [None, None])
        finally:
            gc.enable()

    run(loop, test())
