"""The state that an event handler gave a connection, in a `disconnected` that another gateway tells of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from aiohttp import web
from support.members import HUB, Member
from support.nats import NatsServer
from support.notified import Cluster, behind, eventually
from support.processes import Fleet
from support.upstreams import AppServer, app_server

from gateway.upstream.source import SourceSnapshot
from hubwire.bus.event_log import unpack_document
from hubwire.model.settings import EventHandler, HubSettings

SECONDS = 30.0


class Stateful:
    """Sets `connect` as the state of who connects, and what a client says as its state; keeps what came."""

    def __init__(self) -> None:
        self.states: dict[str, list[tuple[str, str | None]]] = {}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        head = request.headers
        name = head["ce-eventName"]
        told = self.states.setdefault(head["ce-connectionId"], [])
        told.append((name, head.get("ce-connectionState")))
        if name == "connect":
            return web.Response(status=204, headers={"ce-connectionState": "connect"})
        if name == "say":
            return web.Response(status=204, headers={"ce-connectionState": await request.text()})
        # What answers to notifications say of it is nothing (server-events.md 4.4).
        return web.Response(status=204, headers={"ce-connectionState": "not this"})


@pytest.fixture
def fleet(tmp_path: Path, nats: NatsServer) -> Iterator[Fleet]:
    with Fleet(tmp_path, [nats.url], lease_seconds=1.0) as fleet:
        fleet.config = fleet.config.replace(upstream_addresses="any")
        yield fleet
        print(fleet.logs())


@pytest_asyncio.fixture
async def cluster(fleet: Fleet) -> AsyncIterator[Cluster]:
    async with behind(fleet.config) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def app() -> AsyncIterator[AppServer]:
    async with app_server() as app:
        yield app


async def test_the_end_that_another_gateway_tells_has_the_state_that_the_handler_set_last(
    fleet: Fleet, cluster: Cluster, app: AppServer
) -> None:
    stateful = Stateful()
    app.answer = stateful.answer
    handler = EventHandler(f"{app.base}/events", "*", ("connect", "connected", "disconnected"))
    await cluster.settings.put_hub(HUB, HubSettings(event_handlers=(handler,)))
    _, victim, _ = fleet.start_all("router", "gateway", "gateway")  # which begin with that in force
    silent, talks = [await Member.connect(victim, name) for name in ("silent", "talks")]

    async def both_connected() -> bool:
        return len(stateful.states) == 2 and all(len(told) == 2 for told in stateful.states.values())

    await eventually(both_connected, SECONDS)  # nothing says which is told first, that or an event
    ack = await talks.request(type="event", event="say", dataType="text", data="cart=3")
    assert ack["success"] is True

    async def states_are_stored() -> bool:
        found = set()
        for outbox in await cluster.events.outboxes():
            for subject in await cluster.events.subjects(outbox):
                record = await cluster.events.read(subject)
                owed = unpack_document(record.data).owed if record is not None else None
                if owed is not None:
                    found.add(msgspec.msgpack.decode(owed, type=SourceSnapshot).state)
        return found == {"connect", "cart=3"}

    await eventually(states_are_stored, SECONDS)
    await cluster.until_nothing_waits(SECONDS)
    await asyncio.to_thread(victim.kill)

    async def both_ended() -> bool:
        return all(told[-1][0] == "disconnected" for told in stateful.states.values())

    await eventually(both_ended, SECONDS)
    assert stateful.states == {
        silent.connection_id: [("connect", None), ("connected", "connect"), ("disconnected", "connect")],
        talks.connection_id: [
            ("connect", None),
            ("connected", "connect"),
            ("say", "connect"),
            ("disconnected", "cart=3"),
        ],
    }
    await asyncio.gather(silent.close(), talks.close())
