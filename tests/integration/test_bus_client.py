"""The NATS connection (hubwire.bus.client) against a real nats-server, and what it relies on in nats-py.

Parts of nats-py that are not public API are used and overridden; these tests are the contract.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.errors import FlushTimeoutError
from support.members import until
from support.nats import NatsServer

from hubwire.bus.client import LOST, NO_RESPONDERS, TIMEOUT, BusClient
from hubwire.model.errors import LimitExceeded, Unavailable
from hubwire.runtime.nats_options import nats_options
from hubwire.runtime.process import ProcessConfig
from hubwire.runtime.service import Stop, connect_bus

SECONDS = 10.0


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path, user="hub", password="wire") as server:
        yield server


def config_of(nats: NatsServer, *more: str) -> ProcessConfig:
    servers = (f"nats://127.0.0.1:{nats.port}", *more)
    return ProcessConfig(nats_servers=servers, nats_user=nats.user, nats_password=nats.password)


async def connect(nats: NatsServer) -> BusClient:
    return await BusClient.connect(nats_options(config_of(nats), name="test"))


@pytest.fixture
async def bus(nats: NatsServer) -> AsyncIterator[BusClient]:
    bus = await connect(nats)
    yield bus
    await bus.close()


@pytest.fixture
async def other(nats: NatsServer) -> AsyncIterator[BusClient]:
    bus = await connect(nats)
    yield bus
    await bus.close()


class Heard(list[bytes]):
    def __call__(self, _subject: str, _reply: str, data: bytes) -> None:
        self.append(data)


# -- in and out -------------------------------------------------------------------------------------


async def test_messages_arrive_in_order_of_any_size(bus: BusClient, other: BusClient) -> None:
    heard = Heard()
    await bus.subscribe("t.order", heard)
    sent = [bytes([n % 256]) * size for n in range(200) for size in (0, 1, 100, 40_000)]
    for payload in sent:
        other.publish("t.order", payload)
        if len(payload) > 1000:
            await asyncio.sleep(0)
    await until(lambda: len(heard) == len(sent))
    assert heard == sent


async def test_subjects_and_replies_are_told(bus: BusClient, other: BusClient) -> None:
    heard: list[tuple[str, str, bytes]] = []
    await bus.subscribe("t.*", lambda *message: heard.append(message))
    other.publish("t.a", b"1", "answer.here")
    other.publish("t.b", b"2")
    await until(lambda: len(heard) == 2)
    assert heard == [("t.a", "answer.here", b"1"), ("t.b", "", b"2")]


async def test_headers_are_sent_and_do_not_disturb_the_data(bus: BusClient, other: BusClient) -> None:
    heard = Heard()
    await bus.subscribe("t.headers", heard)
    other.publish("t.headers", b"data", headers=b"NATS/1.0\r\nA: b\r\n\r\n")
    other.publish("t.headers", b"plain")
    await until(lambda: len(heard) == 2)
    assert heard == [b"data", b"plain"]


async def test_a_handler_that_fails_loses_only_its_own_message(bus: BusClient, other: BusClient) -> None:
    heard: list[bytes] = []

    def handler(_subject: str, _reply: str, data: bytes) -> None:
        if data == b"bad":
            raise RuntimeError("a bug")
        heard.append(data)

    await bus.subscribe("t.fails", handler)
    for data in (b"1", b"bad", b"2"):
        other.publish("t.fails", data)
    await until(lambda: heard == [b"1", b"2"])


async def test_after_unsubscribing_nothing_is_heard(bus: BusClient, other: BusClient) -> None:
    gone, heard = Heard(), Heard()
    unsubscribe = await bus.subscribe("t.gone", gone)
    await bus.subscribe("t.gone", heard)
    await unsubscribe()
    other.publish("t.gone", b"x")
    await until(lambda: heard)
    assert not gone


async def test_a_subject_that_is_not_utf8_does_not_end_the_reading(bus: BusClient, other: BusClient) -> None:
    heard = Heard()
    await bus.subscribe("t.>", heard)
    other._nats._pending.append(b"PUB t.\xff\xfe 1\r\nx\r\n")
    other.publish("t.fine", b"y")
    await until(lambda: b"y" in heard)


# -- requests ---------------------------------------------------------------------------------------


async def test_a_request_is_answered(bus: BusClient, other: BusClient) -> None:
    await other.subscribe("t.echo", lambda _, reply, data: other.publish(reply, data * 2))
    answers = await asyncio.gather(*(bus.ask("t.echo", str(n).encode(), SECONDS) for n in range(500)))
    assert answers == [str(n).encode() * 2 for n in range(500)]


async def test_without_a_listener_a_request_fails_at_once(bus: BusClient) -> None:
    async with asyncio.timeout(2):
        with pytest.raises(Unavailable, match=NO_RESPONDERS):
            await bus.ask("t.nobody", b"", 60)


async def test_an_unanswered_request_ends_with_its_time(bus: BusClient, other: BusClient) -> None:
    await other.subscribe("t.silent", lambda *_: None)
    with pytest.raises(Unavailable, match=TIMEOUT):
        await bus.ask("t.silent", b"", 0.05)


async def test_an_answer_that_comes_late_or_twice_is_ignored(bus: BusClient, other: BusClient) -> None:
    replies: list[str] = []
    await other.subscribe("t.late", lambda _, reply, __: replies.append(reply))
    with pytest.raises(Unavailable):
        await bus.ask("t.late", b"", 0.05)
    other.publish(replies[0], b"late")
    other.publish(replies[0], b"twice")
    await other.subscribe("t.echo", lambda _, reply, data: other.publish(reply, data))
    assert await bus.ask("t.echo", b"still well", SECONDS) == b"still well"


async def test_each_request_is_told_once_when_the_connection_is_lost(
    nats: NatsServer, bus: BusClient
) -> None:
    await bus.subscribe("t.silent", lambda *_: None)
    told: list[tuple[bytes | None, str]] = []
    for _ in range(5):
        bus.request("t.silent", b"", lambda data, reason: told.append((data, reason)), SECONDS)
    await bus.synchronize()
    await asyncio.to_thread(nats.kill)
    await until(lambda: len(told) == 5)
    assert told == [(None, LOST)] * 5
    await asyncio.to_thread(nats.start)
    await until(lambda: bus.connected)
    assert len(told) == 5


# -- what the server has ----------------------------------------------------------------------------


async def test_what_was_published_before_is_with_the_server_when_it_has_synchronized(bus: BusClient) -> None:
    """nats-py's ping overtook what waited to be written: a request that followed a subscription was told
    that nobody listens."""
    for _ in range(20):
        bus.publish("t.much", b"x" * 1_000_000)
    await bus.synchronize()
    assert bus.nats._pending == []
    writer: Any = bus.nats._transport._io_writer  # type: ignore[union-attr]
    assert writer.transport.get_write_buffer_size() == 0


async def test_a_subscription_is_there_for_every_request_that_follows_it(
    bus: BusClient, other: BusClient
) -> None:
    async def one(number: int) -> None:
        subject = f"t.there{number}"
        await other.subscribe(subject, lambda _, reply, data: other.publish(reply, data))
        assert await bus.ask(subject, b"x", SECONDS) == b"x"

    for start in range(0, 300, 10):
        await asyncio.gather(*(one(start + n) for n in range(10)))


async def test_an_answer_to_a_ping_that_nobody_waits_for_any_more_costs_no_connection(
    nats: NatsServer, bus: BusClient
) -> None:
    """It ended nats-py's reading, so that nothing was heard until the silence was noticed."""
    lost = []
    bus.on_disconnect(lambda: lost.append("off"))
    await bus.subscribe("t.echo", lambda _, reply, data: bus.publish(reply, data))
    nats.pause()
    try:
        with pytest.raises(FlushTimeoutError):
            await bus.nats.flush(timeout=0.1)  # type: ignore[arg-type]  # a number of seconds, they say int
    finally:
        nats.resume()
    assert await bus.ask("t.echo", b"x", SECONDS) == b"x"
    assert not lost


# -- limits -----------------------------------------------------------------------------------------


async def test_a_message_above_the_servers_limit_is_refused_and_the_connection_lives(bus: BusClient) -> None:
    # The server would close the connection, and nats-py would then give up for good.
    assert bus.max_payload == 4 * 1024 * 1024
    with pytest.raises(LimitExceeded):
        bus.publish("t.big", b"x" * (bus.max_payload + 1))
    with pytest.raises(LimitExceeded):
        bus.publish("t.big", b"x" * bus.max_payload, headers=b"NATS/1.0\r\n\r\n")
    heard = Heard()
    await bus.subscribe("t.big", heard)
    bus.publish("t.big", b"x" * bus.max_payload)
    await until(lambda: heard)


async def test_an_error_that_the_server_tells_is_survived(bus: BusClient) -> None:
    # nats-py closes the client for good after most errors; here it connects again.
    heard, reconnected = Heard(), asyncio.Event()
    await bus.subscribe("t.after", heard)
    bus.on_reconnect(reconnected.set)
    bus._nats._pending.append(b"NONSENSE\r\n")  # -ERR 'Unknown Protocol Operation', and it hangs up
    bus.publish("t.x", b"")
    async with asyncio.timeout(SECONDS):
        await reconnected.wait()
    bus.publish("t.after", b"well")
    await until(lambda: heard == [b"well"])


async def test_what_nats_does_not_take_is_bounded(nats: NatsServer, bus: BusClient) -> None:
    nats.pause()
    try:
        taken = 0
        try:
            while taken < 1000:
                bus.publish("t.flood", b"x" * 1_000_000)
                taken += 1
                await asyncio.sleep(0)
        except Unavailable:
            pass
        assert taken < 200
    finally:
        nats.resume()
    await bus.synchronize()
    bus.publish("t.flood", b"goes again")


# -- reconnection -----------------------------------------------------------------------------------


async def test_subscriptions_live_on_after_a_restart_and_listeners_hear_of_it(
    nats: NatsServer, bus: BusClient, other: BusClient
) -> None:
    heard, events = Heard(), []
    await bus.subscribe("t.restart", heard)
    bus.on_disconnect(lambda: events.append("off"))
    bus.on_reconnect(lambda: events.append("on"))
    for run in range(3):
        await asyncio.to_thread(nats.kill)
        await until(lambda: not bus.connected and not other.connected)
        with pytest.raises(Unavailable):
            bus.publish("t.restart", b"lost")
        await asyncio.to_thread(nats.start)
        await until(lambda run=run: events == ["off", "on"] * (run + 1) and other.connected)
        other.publish("t.restart", str(run).encode())
        await until(lambda run=run: heard[-1:] == [str(run).encode()])
    assert heard == [b"0", b"1", b"2"], "once each: the subscription was not doubled"


async def test_a_listener_that_is_told_of_the_reconnection_may_rely_on_the_subscriptions(
    nats: NatsServer, bus: BusClient, other: BusClient
) -> None:
    heard = Heard()
    await bus.subscribe("t.told", heard)
    bus.on_reconnect(lambda: bus.publish("t.told", b"to myself"))
    await asyncio.to_thread(nats.restart)
    await until(lambda: heard == [b"to myself"])


async def test_subscribing_while_disconnected_waits_and_holds(
    nats: NatsServer, bus: BusClient, other: BusClient
) -> None:
    await asyncio.to_thread(nats.kill)
    await until(lambda: not bus.connected)
    heard = Heard()
    subscribing = asyncio.create_task(bus.subscribe("t.early", heard))
    await asyncio.sleep(0.05)
    assert not subscribing.done()
    await asyncio.to_thread(nats.start)
    unsubscribe = await subscribing
    await until(lambda: other.connected)
    other.publish("t.early", b"x")
    await until(lambda: heard == [b"x"])
    await unsubscribe()


async def test_what_was_buffered_at_the_cut_does_not_mix_with_what_comes_after(
    nats: NatsServer, bus: BusClient, other: BusClient
) -> None:
    heard = Heard()
    await other.subscribe("t.mix", heard)
    stopped = False
    sent: list[bytes] = []

    async def flood() -> None:
        number = 0
        while not stopped:
            payload = b"%08d" % number + b"x" * (number % 5000)
            try:
                bus.publish("t.mix", payload)
                sent.append(payload)
                number += 1
            except Unavailable:
                pass
            await asyncio.sleep(0)

    flooding = asyncio.create_task(flood())
    for _ in range(3):
        goal = len(heard) + 100
        await until(lambda goal=goal: len(heard) > goal)
        await asyncio.to_thread(nats.kill)
        await asyncio.to_thread(nats.start)
        await until(lambda: bus.connected and other.connected)
    goal = len(heard) + 100
    await until(lambda: len(heard) > goal)
    stopped = True
    await flooding
    await bus.synchronize()
    await until(lambda: heard[-1] == sent[-1])
    numbers = [int(payload[:8]) for payload in heard]
    assert numbers == sorted(set(numbers)), "in order, none twice, also across the cuts"
    assert set(heard) <= set(sent), "none was damaged"


async def test_a_server_that_hangs_is_left_for_another(tmp_path: Path) -> None:
    # With unsent bytes in the socket's buffer an orderly close would wait for the hung server for ever.
    with NatsServer(tmp_path / "a", name="a") as hung, NatsServer(tmp_path / "b", name="b") as well:
        options = nats_options(config_of(hung, f"nats://127.0.0.1:{well.port}"), name="test")
        bus = await BusClient.connect({**options, "ping_interval": 0.2, "dont_randomize": True})
        try:
            assert bus.server.endswith(str(hung.port))
            hung.pause()
            try:
                for _ in range(20):
                    bus.publish("t.x", b"x" * 1_000_000)
                    await asyncio.sleep(0)
                await until(lambda: bus.connected and bus.server.endswith(str(well.port)))
            finally:
                hung.resume()
            heard = Heard()
            await bus.subscribe("t.well", heard)
            bus.publish("t.well", b"here")
            await until(lambda: heard == [b"here"])
        finally:
            await bus.close()


async def test_what_nats_py_does_not_foresee_does_not_end_the_reconnecting(
    nats: NatsServer, bus: BusClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 0

    async def broken(self: Client, *arguments: Any) -> None:
        nonlocal failures
        failures += 1
        if failures < 3:
            raise KeyError("something new")
        await original(self, *arguments)

    original = Client._process_connect_init
    monkeypatch.setattr(Client, "_process_connect_init", broken)
    await asyncio.to_thread(nats.restart)
    await until(lambda: failures >= 3 and bus.connected)


# -- the end ----------------------------------------------------------------------------------------


async def test_close_sends_what_waits_fails_requests_and_may_be_repeated(
    nats: NatsServer, other: BusClient
) -> None:
    heard = Heard()
    await other.subscribe("t.last", heard)
    await other.subscribe("t.silent", lambda *_: None)
    bus = await connect(nats)
    asking = asyncio.create_task(bus.ask("t.silent", b"", 60))
    await asyncio.sleep(0)
    bus.publish("t.last", b"last words")
    await bus.close()
    await bus.close()
    with pytest.raises(Unavailable):
        await asking
    await until(lambda: heard == [b"last words"])
    with pytest.raises(Unavailable):
        bus.publish("t.last", b"")
    with pytest.raises(Unavailable):
        await bus.subscribe("t.last", heard)
    with pytest.raises(Unavailable):
        await bus.synchronize()


async def test_close_while_nats_is_away_does_not_hang(nats: NatsServer) -> None:
    bus = await connect(nats)
    await asyncio.to_thread(nats.kill)
    await until(lambda: not bus.connected)
    async with asyncio.timeout(SECONDS):
        await bus.close()


async def test_a_start_waits_for_nats_and_may_be_told_to_stop_waiting(nats: NatsServer) -> None:
    await asyncio.to_thread(nats.kill)
    stop = Stop()
    connecting = asyncio.create_task(connect_bus(config_of(nats), "test", stop))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(nats.start)
    await (await connecting).close()
    await asyncio.to_thread(nats.kill)
    connecting = asyncio.create_task(connect_bus(config_of(nats), "test", stop))
    await asyncio.sleep(0.1)
    stop.now("told")
    with pytest.raises(Unavailable):
        await connecting


async def test_wrong_credentials_do_not_connect(nats: NatsServer) -> None:
    config = config_of(nats).replace(nats_password="wrong")
    stop = Stop()
    connecting = asyncio.create_task(connect_bus(config, "test", stop))
    await until(lambda: any("authentication error" in line.text.lower() for line in nats.lines))
    stop.now("told")
    with pytest.raises(Unavailable):
        await connecting


def test_the_parts_of_nats_py_that_are_not_public_are_there() -> None:
    client = Client()
    for name in ("_pending", "_pending_data_size", "_transport", "_status", "_ps", "_reading_task"):
        assert hasattr(client, name), name
    for name in ("_ping_interval_task", "_flusher_task", "_max_payload"):
        assert hasattr(client, name), name
    for name in ("_process_msg", "_process_err", "_process_op_err", "_attempt_reconnect"):
        assert asyncio.iscoroutinefunction(getattr(client, name)), name
    assert asyncio.iscoroutinefunction(client._connect_to_server)
