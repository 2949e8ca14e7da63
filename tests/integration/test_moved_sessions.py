"""What REST callers ask of one connection finds it wherever it has moved, also when its gateway was lost."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from support.members import HUB, until
from support.nats import NatsServer
from support.notified import application, behind, eventually
from support.observer import Observer, observe
from support.processes import KEY, Fleet, Service
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from controlplane.ports import Target
from hubwire.model.message import DataType, Message
from hubwire.model.names import gateway_of
from hubwire.model.tokens import sign_client_token

RELIABLE = Subprotocol("json.reliable.webpubsub.azure.v1")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with NatsServer(tmp_path) as nats, Fleet(tmp_path, [nats.url]) as fleet:
        fleet.config = fleet.config.replace(upstream_addresses="any")
        fleet.start_all("router", "gateway", "gateway")
        yield fleet


@pytest.fixture
async def observer(fleet: Fleet) -> AsyncIterator[Observer]:
    async with observe(fleet.config) as observer:
        yield observer


async def open_session(gateway: Service, user: str, group: str) -> tuple[ClientConnection, dict[str, Any]]:
    """The socket of a new session, and what `connected` says."""
    endpoint = f"127.0.0.1:{gateway.port}"
    token = sign_client_token(
        KEY, endpoint=f"http://{endpoint}", hub=HUB, user_id=user, groups=[group], now=time.time()
    )
    url = f"ws://{endpoint}/client/hubs/{HUB}?access_token={token}"
    socket = await connect(url, subprotocols=[RELIABLE], open_timeout=12)
    return socket, json.loads(await socket.recv())


async def come_back(gateway: Service, connected: dict[str, Any]) -> ClientConnection:
    url = (
        f"ws://127.0.0.1:{gateway.port}/client/hubs/{HUB}?awps_connection_id={connected['connectionId']}"
        f"&awps_reconnection_token={quote(connected['reconnectionToken'])}"
    )
    return await connect(url, subprotocols=[RELIABLE], open_timeout=12)


async def messages(socket: ClientConnection, count: int) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        frame = json.loads(await socket.recv())
        if frame["type"] == "message":
            found.append(frame["data"])
    return found


def text(data: str) -> Message:
    return Message(DataType.TEXT, data.encode(), None)


async def test_a_session_that_has_moved_is_found_where_it_is(fleet: Fleet, observer: Observer) -> None:
    here, there = fleet.services[1:3]
    cluster = observer.cluster
    socket, connected = await open_session(here, "ada", "room")
    one = Target("connection", connected["connectionId"])
    assert await cluster.exists(HUB, one)
    socket.transport.abort()
    socket = await come_back(there, connected)
    await socket.recv()
    assert await cluster.exists(HUB, one)
    await cluster.publish(HUB, one, text("to one"))
    assert await cluster.add_connection_to_group(HUB, "more", one.name)
    await cluster.publish(HUB, Target("group", "more"), text("to more"))
    assert await messages(socket, 2) == ["to one", "to more"]
    granted = await cluster.grant(HUB, "sendToGroup", one.name, "more")
    assert (granted.found, granted.conflict) == (True, False)
    assert await cluster.has_permission(HUB, "sendToGroup", one.name, "more")
    await cluster.close(HUB, one, reason="enough")
    await socket.wait_closed()
    assert not await cluster.exists(HUB, one)
    assert not (await cluster.grant(HUB, "sendToGroup", one.name, "more")).found


async def test_a_session_whose_gateway_was_lost_is_taken_over_and_gets_what_is_sent(
    fleet: Fleet, observer: Observer
) -> None:
    here, there = fleet.services[1:3]
    cluster = observer.cluster
    socket, connected = await open_session(here, "ada", "room")
    one = Target("connection", connected["connectionId"])
    here.kill()
    await socket.wait_closed()
    await until(lambda: len(observer.gateways.alive) == 1, 15, "the lease has ended")
    for target in (Target("group", "room"), Target("user", "ada"), Target("hub")):
        assert await cluster.exists(HUB, target), target
    await cluster.publish(HUB, Target("group", "room"), text("while nobody holds it"))
    await cluster.publish(HUB, one, text("to one"))
    assert await cluster.add_connection_to_group(HUB, "more", one.name)
    await cluster.publish(HUB, Target("group", "more"), text("to more"))
    socket = await come_back(there, connected)
    assert await messages(socket, 3) == ["while nobody holds it", "to one", "to more"]
    await socket.close()


async def test_of_a_lost_gateway_nothing_exists_that_was_not_there(fleet: Fleet, observer: Observer) -> None:
    here = fleet.services[1]
    socket, connected = await open_session(here, "ada", "room")
    here.kill()
    await socket.wait_closed()
    other = Target("connection", "x" * 10 + connected["connectionId"][10:])
    assert not await observer.cluster.exists(HUB, other)
    assert not await observer.cluster.exists(HUB, Target("user", "bob"))


async def test_the_end_of_a_session_that_came_from_a_killed_gateway_is_told_once(fleet: Fleet) -> None:
    """It ends at its second gateway before anybody has looked at what the first one has left."""
    here, there = fleet.services[1:3]
    async with application() as app, behind(fleet.config) as cluster:
        await cluster.handle(app.url)
        socket, connected = await open_session(here, "ada", "room")
        await until(lambda: len(app.of("connected")) == 1, 20, "the handler has heard of the client")
        owed = f"hw.event.{here_of(connected)}.{connected['connectionId']}"

        async def stored() -> bool:
            return await cluster.events.read(owed) is not None

        async def worked_off() -> bool:
            return here_of(connected) not in await cluster.events.outboxes()

        await eventually(stored, 20)
        here.kill()
        await socket.wait_closed()
        socket = await come_back(there, connected)
        await socket.recv()
        await socket.close(1000)
        await until(lambda: len(app.of("disconnected")) >= 1, 20, "the end is told")
        await eventually(worked_off, 60)
        await cluster.until_nothing_waits(30)
        assert [each.connection_id for each in app.of("disconnected")] == [connected["connectionId"]]
        app.assert_in_order()


def here_of(connected: dict[str, str]) -> str:
    """The gateway that has made the connection id."""
    maker = gateway_of(connected["connectionId"])
    assert maker is not None
    return maker
