"""The contract of `ListenerTarget`, held against every implementation with its real broker; then what is
particular to NATS (server-events.md 5.4)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from nats.js.api import StreamConfig
from support.nats import NatsServer

from gateway.upstream.listeners import ListenerTarget
from hubwire.bus.client import NO_RESPONDERS, BusClient
from hubwire.bus.listener_stream import NatsTarget
from hubwire.model.errors import InvalidRequest, LimitExceeded, Unavailable
from hubwire.model.event_listeners import CloudEvent
from hubwire.model.settings import NatsEndpoint


def event(number: int = 1, connection: str = "c1", **changes: Any) -> CloudEvent:
    made = CloudEvent(
        "orders", "user", "ping", connection, number, "2026-11-24T10:00:00Z", "application/json", b'{"n":1}'
    )
    return made._replace(**changes)


class Broker(Protocol):
    """A real broker under a test's control, and a target for it."""

    target: ListenerTarget

    async def stored(self) -> list[tuple[str, bytes]]:
        """Message id and body of everything that is there, in the broker's order."""

    def stop(self) -> None: ...

    def start(self) -> None: ...


class NatsBroker:
    def __init__(self, server: NatsServer, bus: BusClient, endpoint: NatsEndpoint) -> None:
        self.server = server
        self.bus = bus
        self.endpoint = endpoint
        self.target = NatsTarget(bus, endpoint, ack_seconds=1.0)

    async def messages(self) -> list[Any]:
        info = await self.bus.js.stream_info(self.endpoint.stream)
        return [
            await self.bus.js.get_msg(self.endpoint.stream, seq)
            for seq in range(info.state.first_seq, info.state.last_seq + 1)
        ]

    async def stored(self) -> list[tuple[str, bytes]]:
        return [(each.headers["Nats-Msg-Id"], each.data or b"") for each in await self.messages()]

    def stop(self) -> None:
        self.server.stop()

    def start(self) -> None:
        self.server.start()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path) as one:
        yield one


@asynccontextmanager
async def nats_broker(server: NatsServer, endpoint: NatsEndpoint | None = None) -> AsyncIterator[NatsBroker]:
    options = {"servers": [server.url], "max_reconnect_attempts": -1, "reconnect_time_wait": 0.05}
    bus = await BusClient.connect(options)
    try:
        yield NatsBroker(server, bus, endpoint or NatsEndpoint())
    finally:
        await bus.close()


BROKERS = {"nats": nats_broker}


@pytest.fixture(params=sorted(BROKERS))
async def broker(request: pytest.FixtureRequest, server: NatsServer) -> AsyncIterator[Broker]:
    async with BROKERS[request.param](server) as one:
        yield one


# -- the contract ----------------------------------------------------------------------------------------


async def test_an_event_is_in_the_broker_when_publish_returns(broker: Broker) -> None:
    await broker.target.publish(event())
    assert await broker.stored() == [("c1/1", b'{"n":1}')]


async def test_events_that_are_published_one_after_the_other_are_in_that_order(broker: Broker) -> None:
    for number in range(50):
        await broker.target.publish(event(number))
    assert [message_id for message_id, _ in await broker.stored()] == [f"c1/{n}" for n in range(50)]


async def test_the_repetition_of_an_event_is_there_once(broker: Broker) -> None:
    for _ in range(3):
        await broker.target.publish(event(7))
    assert len(await broker.stored()) == 1


async def test_many_at_once_all_arrive(broker: Broker) -> None:
    await asyncio.gather(*(broker.target.publish(event(1, f"c{n}")) for n in range(200)))
    assert {message_id for message_id, _ in await broker.stored()} == {f"c{n}/1" for n in range(200)}


@pytest.mark.parametrize("data", [b"", b"\x00\xff\r\n\r\n", b"x" * 500_000])
async def test_a_body_arrives_as_it_is(broker: Broker, data: bytes) -> None:
    await broker.target.publish(event(data=data, content_type="application/octet-stream"))
    assert await broker.stored() == [("c1/1", data)]


async def test_a_broker_that_is_away_is_told_within_its_limit_and_works_when_it_is_back(
    broker: Broker,
) -> None:
    await broker.target.publish(event(1))
    broker.stop()
    async with asyncio.timeout(20):
        with pytest.raises(Unavailable):
            await broker.target.publish(event(2))
    broker.start()
    async with asyncio.timeout(20):
        while True:
            try:
                await broker.target.publish(event(3))
                break
            except Unavailable:
                await asyncio.sleep(0.05)
    assert [message_id for message_id, _ in await broker.stored()][-1] == "c1/3"


async def test_what_can_never_be_sent_is_no_matter_of_the_broker(broker: Broker) -> None:
    with pytest.raises((InvalidRequest, LimitExceeded)):
        await broker.target.publish(event(data=b"x" * 80_000_000))


async def test_a_cancelled_publish_leaves_nothing_behind(broker: Broker) -> None:
    await broker.target.publish(event(1))
    before = asyncio.all_tasks()
    task = asyncio.create_task(broker.target.publish(event(2)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await broker.target.publish(event(3))
    assert asyncio.all_tasks() == before


# -- NATS --------------------------------------------------------------------------------------------------


async def test_nats_gets_the_subject_and_the_headers_of_the_binding(server: NatsServer) -> None:
    async with nats_broker(server) as broker:
        await broker.target.publish(event(name="order.created", user_id="Zoë"))
        (message,) = await broker.messages()
    assert message.subject == "awps.orders.user.order%2Ecreated"
    assert message.headers["ce-type"] == "azure.webpubsub.user.order.created"
    assert message.headers["ce-userid"] == "Zo%C3%AB"
    assert message.headers["content-type"] == "application/json"
    assert json.loads(message.data) == {"n": 1}


async def test_a_missing_stream_is_made_with_bounds(server: NatsServer) -> None:
    async with nats_broker(server, NatsEndpoint("ORDERS", "orders")) as broker:
        await broker.target.publish(event())
        config = (await broker.bus.js.stream_info("ORDERS")).config
    assert config.subjects == ["orders.>"]
    assert config.max_bytes == 256 * 1024 * 1024
    assert config.max_age == 7 * 24 * 3600


async def test_a_missing_stream_is_made_while_somebody_watches_its_subjects(server: NatsServer) -> None:
    """A plain subscription, as of `hubwire events tail`, counts as a responder: the stream was never made."""
    async with nats_broker(server) as broker:
        unsubscribe = await broker.bus.subscribe("awps.>", lambda *_: None)
        await broker.target.publish(event())
        assert len(await broker.stored()) == 1
        await unsubscribe()


async def test_the_first_two_events_at_once_find_the_stream_made(server: NatsServer) -> None:
    """The second did not wait until the stream was made: a watcher swallowed it, and it took five seconds
    and was seen twice."""
    async with nats_broker(server) as broker:
        seen: list[Any] = []
        unsubscribe = await broker.bus.subscribe("awps.>", lambda *heard: seen.append(heard))
        await asyncio.gather(*(broker.target.publish(event(number)) for number in (1, 2, 3)))
        assert len(await broker.stored()) == 3
        await broker.bus.nats.flush()
        assert len(seen) == 3
        await unsubscribe()


async def test_a_second_prefix_is_added_to_a_stream_of_ours(server: NatsServer) -> None:
    async with nats_broker(server) as one, nats_broker(server, NatsEndpoint("AWPS", "more")) as two:
        await one.target.publish(event(1))
        await two.target.publish(event(2))
        assert [each.subject for each in await one.messages()] == [
            "awps.orders.user.ping",
            "more.orders.user.ping",
        ]


async def test_a_stream_of_somebody_else_is_used_and_not_changed(server: NatsServer) -> None:
    async with nats_broker(server) as broker:
        js = broker.bus.js
        await js.add_stream(StreamConfig(name="AWPS", subjects=["awps.orders.>"], max_msgs=5))
        await broker.target.publish(event(1))
        with pytest.raises(Unavailable, match=r"does not take awps\.>"):
            await broker.target.publish(event(2, hub="other"))
        config = (await js.stream_info("AWPS")).config
        assert (config.subjects, config.max_msgs) == (["awps.orders.>"], 5)


async def test_subjects_that_go_to_another_stream_are_told(server: NatsServer) -> None:
    async with nats_broker(server) as broker:
        await broker.bus.js.add_stream(StreamConfig(name="OTHER", subjects=["awps.>"]))
        with pytest.raises(Unavailable, match="expected stream"):
            await broker.target.publish(event())


async def test_a_stream_that_is_there_and_has_no_leader_yet_is_waited_for(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster a stream is there before its leader is elected; nobody answers for it until then."""
    async with nats_broker(server) as broker:
        await broker.target.publish(event(1))
        ask, unheard = broker.bus.ask, 5

        async def asked(*args: Any) -> bytes:
            nonlocal unheard
            if unheard:
                unheard -= 1
                raise Unavailable(NO_RESPONDERS)
            return await ask(*args)

        monkeypatch.setattr(broker.bus, "ask", asked)
        await broker.target.publish(event(2))
        assert [message_id for message_id, _ in await broker.stored()] == ["c1/1", "c1/2"]
