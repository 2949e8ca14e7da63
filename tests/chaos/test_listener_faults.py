"""Event listeners while gateways are killed: what must be in the stream afterwards, and in which order."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from nats.js.api import DiscardPolicy, StreamConfig
from support.members import HUB, Member, until
from support.nats import NatsServer
from support.notified import Cluster, behind, eventually
from support.processes import Fleet, Service

from hubwire.model.settings import EventListener, EventNameFilter, HubSettings, NatsEndpoint

STREAM = "HEARD"
EVERYTHING = EventNameFilter(system_events=("connected", "disconnected"), user_event_pattern="*")
SECONDS = 30.0


@pytest.fixture
def fleet(tmp_path: Path, nats: NatsServer) -> Iterator[Fleet]:
    with Fleet(tmp_path, [nats.url], lease_seconds=1.0) as fleet:
        yield fleet
        print(fleet.logs())


@pytest_asyncio.fixture
async def cluster(fleet: Fleet) -> AsyncIterator[Cluster]:
    async with behind(fleet.config) as cluster:
        await cluster.bus.js.add_stream(stream_of(-1))
        yield cluster


@pytest_asyncio.fixture
async def gateways(fleet: Fleet, cluster: Cluster) -> list[Service]:
    services = fleet.start_all("router", "gateway", "gateway")
    listener = EventListener(NatsEndpoint(STREAM, "heard"), EVERYTHING)
    await cluster.settings.put_hub(HUB, HubSettings(event_listeners=(listener,)))
    return services[1:]


def stream_of(most: int) -> StreamConfig:
    """With `most` messages it takes no more, -1: any number."""
    return StreamConfig(name=STREAM, subjects=["heard.>"], max_msgs=most, discard=DiscardPolicy.NEW)


class Stored:
    """What the stream has, in its order: names of system events by connection, bodies of user events."""

    def __init__(self) -> None:
        self.told: dict[str, list[str]] = defaultdict(list)
        self.said: list[str] = []


async def stored(cluster: Cluster) -> Stored:
    found = Stored()
    state = (await cluster.bus.js.stream_info(STREAM)).state
    for number in range(max(1, state.first_seq), state.last_seq + 1):
        message = await cluster.bus.js.get_msg(STREAM, number)
        head = message.headers or {}
        if "ce-type" not in head:
            continue
        if ".sys." in head["ce-type"]:
            found.told[head["ce-connectionid"]].append(head["ce-eventname"])
        else:
            found.said.append((message.data or b"").decode())
    return found


async def until_all_are_told(cluster: Cluster, members: list[Member]) -> None:
    async def told() -> bool:
        ends = [names for names in (await stored(cluster)).told.values() if "disconnected" in names]
        return len(ends) >= len(members)

    await eventually(told, SECONDS)
    found = (await stored(cluster)).told
    assert {*found} == {member.connection_id for member in members}
    assert all(names == ["connected", "disconnected"] for names in found.values()), found


async def test_listeners_hear_of_the_end_of_the_clients_of_a_gateway_that_is_killed(
    gateways: list[Service], cluster: Cluster
) -> None:
    victim, _ = gateways
    ghosts = await asyncio.gather(*(Member.connect(victim, f"ghost-{n}") for n in range(20)))

    async def announced() -> bool:
        return len((await stored(cluster)).told) == len(ghosts)

    await eventually(announced, SECONDS)
    await cluster.until_nothing_waits(SECONDS)
    await asyncio.to_thread(victim.kill)
    await until_all_are_told(cluster, ghosts)
    await cluster.until_empty(1, SECONDS)
    await asyncio.gather(*(each.close() for each in ghosts))


async def test_what_a_killed_gateway_could_not_yet_tell_a_listener_is_told_by_another(
    gateways: list[Service], cluster: Cluster
) -> None:
    """It waited in the gateway's memory, and died with it."""
    victim, _ = gateways
    await cluster.bus.js.publish("heard.full", b"")
    await cluster.bus.js.update_stream(stream_of(1))
    ghosts = await asyncio.gather(*(Member.connect(victim, f"ghost-{n}") for n in range(20)))
    await asyncio.gather(*(each.close() for each in ghosts[:10]))

    async def all_wait() -> bool:
        return await cluster.records() >= len(ghosts)

    await eventually(all_wait, SECONDS)
    await asyncio.to_thread(victim.kill)
    assert (await stored(cluster)).told == {}
    await cluster.bus.js.update_stream(stream_of(-1))
    await until_all_are_told(cluster, ghosts)
    await cluster.until_empty(1, SECONDS)
    await asyncio.gather(*(each.close() for each in ghosts))


async def test_every_user_event_that_a_client_saw_acked_is_in_the_stream_though_its_gateway_was_killed(
    gateways: list[Service], cluster: Cluster
) -> None:
    victim, _ = gateways
    acked: list[str] = []
    members = await asyncio.gather(*(Member.connect(victim, f"says-{n}") for n in range(8)))

    async def say(member: Member) -> None:
        number = 0
        while True:
            text = f"{member.user}/{number}"
            ack = await member.request(type="event", event="said", dataType="text", data=text)
            if not ack["success"]:
                return
            acked.append(text)
            number += 1

    saying = [asyncio.create_task(say(member)) for member in members]
    await until(lambda: len(acked) > 100, SECONDS, "they are answered")
    await asyncio.to_thread(victim.kill)
    await asyncio.gather(*saying)
    said = (await stored(cluster)).said
    assert {*acked} <= {*said}
    assert len(said) == len({*said}), "and none is there twice"
    for member in members:
        mine = [int(text.rpartition("/")[2]) for text in said if text.startswith(f"{member.user}/")]
        assert mine == [*range(len(mine))]
    await asyncio.gather(*(each.close() for each in members))
