"""Real routers and a real NATS: what they confirm stands in every inbox concerned, once and in order,
whatever is killed, paused, lost or full."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.members import HUB, Member, until
from support.nats import NatsCluster, NatsServer
from support.processes import Fleet
from support.reliable_gateway import ReliableGateway

from hubwire.bus.envelopes import DUPLICATE, OK
from hubwire.bus.jetstream import call
from hubwire.bus.keys import group_key
from hubwire.bus.subjects import inbox_stream
from hubwire.model.errors import Unavailable

KEY = group_key("chat", "room")
OTHER = group_key("chat", "other room")


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path) as nats:
        yield nats


@pytest.fixture
def fleet(nats: NatsServer, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path, [nats.url]) as fleet:
        fleet.start_all("router", "router")
        yield fleet


@pytest.fixture
async def pair(nats: NatsServer, fleet: Fleet) -> AsyncIterator[tuple[ReliableGateway, ReliableGateway]]:
    """Two gateways with reliable members of one key."""
    async with ReliableGateway([nats.url]) as one, ReliableGateway([nats.url]) as two:
        await asyncio.gather(one.join(KEY), two.join(KEY))
        yield one, two


async def publish_all(gateway: ReliableGateway, name: str, count: int) -> list[str]:
    """Numbered texts, a few at a time; those that were confirmed."""
    acked: list[str] = []

    async def one(text: str) -> None:
        if await gateway.publish(KEY, text) == OK:
            acked.append(text)

    for start in range(0, count, 5):
        await asyncio.gather(*(one(f"{name} {n}") for n in range(start, min(start + 5, count))))
    return acked


class Publishing:
    """Gateways that publish all the time, until told to stop; then all of it must have been confirmed."""

    def __init__(self, *gateways: ReliableGateway) -> None:
        self.acked: list[str] = []
        self._stop = False
        self._tasks = [
            asyncio.create_task(self._run(gateway, f"p{number}")) for number, gateway in enumerate(gateways)
        ]

    async def _run(self, gateway: ReliableGateway, name: str) -> None:
        number = 0
        while not self._stop:
            texts = [f"{name} {number + n}" for n in range(3)]
            number += 3
            answers = await asyncio.gather(*(gateway.publish(KEY, text) for text in texts))
            assert answers == [OK] * 3
            self.acked += texts
            await asyncio.sleep(0.005)

    async def more(self) -> None:
        """Wait until everybody's publishes are confirmed again, several times."""
        async with asyncio.timeout(20):
            for _ in range(3):
                before = len(self.acked)
                while len(self.acked) < before + 3 * len(self._tasks):  # noqa: ASYNC110 (it is not told)
                    await asyncio.sleep(0.01)

    async def stop(self) -> list[str]:
        self._stop = True
        await asyncio.gather(*self._tasks)
        return self.acked


async def judge(gateways: tuple[ReliableGateway, ...], acked: list[str]) -> None:
    """All that was confirmed is in each log once, everybody's in order, and all logs say the same."""
    logs = [await gateway.log(KEY) for gateway in gateways]
    for log in logs:
        assert len(set(log)) == len(log)
        assert set(acked) <= set(log)
        for name in {text.split()[0] for text in log}:
            numbers = [int(text.split()[1]) for text in log if text.split()[0] == name]
            assert numbers == sorted(numbers)
    assert all(log == logs[0] for log in logs)


async def test_what_is_confirmed_stands_in_every_inbox_in_one_order(pair: Any) -> None:
    one, two = pair
    acked = await asyncio.gather(publish_all(one, "one", 200), publish_all(two, "two", 200))
    assert [len(texts) for texts in acked] == [200, 200]
    await judge(pair, [*acked[0], *acked[1]])
    assert len(await one.log(KEY)) == 400


async def test_a_joining_is_followed_by_all_that_is_published_then(nats: NatsServer, pair: Any) -> None:
    one, _ = pair
    async with ReliableGateway([nats.url]) as late:
        begun = asyncio.create_task(publish_all(one, "one", 300))
        await asyncio.sleep(0)
        await late.join(KEY)
        after = await publish_all(late, "late", 20)
        acked = await begun
        assert [text for text in await late.log(KEY) if text.startswith("late")] == after
        await judge(pair, acked + after)


async def test_answers_that_get_lost_cost_time_and_nothing_else(pair: Any) -> None:
    one, _ = pair
    chance = random.Random(7)
    told = one.bus.nats.on_reply
    lost = 0

    def forgetful(subject: str, data: bytes, nobody: bool) -> None:
        nonlocal lost
        if lost < 4 and chance.random() < 0.2:
            lost += 1
        else:
            told(subject, data, nobody)

    one.bus.nats.on_reply = forgetful
    acked = await publish_all(one, "one", 60)
    assert len(acked) == 60
    assert lost == 4
    await judge(pair, acked)


async def test_a_publish_that_is_sent_again_over_another_gateway_is_a_duplicate(pair: Any) -> None:
    one, two = pair
    assert await one.publish(KEY, "one 0", ("connection", 1)) == OK
    assert await two.publish(KEY, "one 0", ("connection", 1)) == DUPLICATE
    assert await two.publish(KEY, "one 1", ("connection", 2)) == OK
    assert await two.log(KEY) == ["one 0", "one 1"]


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_what_is_sent_again_elsewhere_reaches_a_plain_member_once_though_no_owner_knows_it(
    nats: NatsServer, fleet: Fleet, how: str
) -> None:
    gateway = await asyncio.to_thread(fleet.start, "gateway")
    key = group_key(HUB, "room")
    async with (
        ReliableGateway([nats.url]) as one,
        ReliableGateway([nats.url]) as two,
        await Member.connect(gateway, "plain") as member,
    ):
        assert await member.join("room")
        assert await one.publish(key, "one 0", ("connection", 1)) == OK
        for number, router in enumerate(fleet.services[:2]):  # no owner of before is left
            await asyncio.to_thread(router.kill if how == "kill" else router.stop)
            await asyncio.to_thread(router.start)
            assert await one.publish(key, f"between {number}") == OK
        assert await two.publish(key, "one 0", ("connection", 1)) in (OK, DUPLICATE)
        assert await two.publish(key, "one 1", ("connection", 2)) == OK
        await until(lambda: ("room", "one 1") in member.arrived, 30, "the last one arrives")
    texts = [text for _, text in member.arrived]
    assert [text for text in texts if text.startswith("one")] == ["one 0", "one 1"]
    assert len(texts) == len(set(texts)) == 4


@pytest.mark.parametrize("how", ["kill", "stop", "pause"])
async def test_another_router_goes_on_and_nothing_is_lost_or_twice(fleet: Fleet, pair: Any, how: str) -> None:
    publishing = Publishing(*pair)
    await publishing.more()
    for router in fleet.services[:2]:
        if how == "pause":
            router.pause()
            await publishing.more()
            router.resume()
        else:
            await asyncio.to_thread(router.kill if how == "kill" else router.stop)
            await publishing.more()
            await asyncio.to_thread(router.start)
        await publishing.more()
    await judge(pair, await publishing.stop())


async def test_an_inbox_that_is_not_there_is_waited_for_no_longer_than_that_is_proved(pair: Any) -> None:
    one, two = pair
    await two.inbox.delete()
    async with asyncio.timeout(5):
        assert await one.publish(KEY, "one 0") == OK
    assert await one.log(KEY) == ["one 0"]


async def test_a_full_inbox_refuses_in_time_and_nothing_is_confirmed_that_is_not_stored(
    nats: NatsServer, fleet: Fleet
) -> None:
    async with ReliableGateway([nats.url]) as one, ReliableGateway([nats.url], max_bytes=64 * 1024) as two:
        await asyncio.gather(one.join(KEY, OTHER), two.join(KEY))
        acked = []
        for number in range(20):
            try:
                await one.publish(KEY, f"one {number} " + "x" * 20_000, timeout=1.5)
                acked.append(number)
            except Unavailable:
                break
        assert acked == [0, 1, 2]
        async with asyncio.timeout(2):  # what goes elsewhere goes on, also behind it in its partition
            assert await one.publish(OTHER, "beside") == OK
        await two.inbox.resize(1024 * 1024)
        assert await one.publish(KEY, "one 99") == OK
        texts = [text.split()[1] for text in await two.log(KEY)]
        assert texts == [*map(str, range(len(texts) - 1)), "99"]
        assert texts == [text.split()[1] for text in await one.log(KEY)]


async def test_a_lost_gateways_inbox_is_written_to_until_it_is_gone_whoever_owns(
    nats: NatsServer, fleet: Fleet, pair: Any
) -> None:
    one, two = pair
    async with ReliableGateway([nats.url]) as lost:
        await lost.join(KEY)
        await lost.end()
        assert await one.publish(KEY, "one 0") == OK
        for router in fleet.services[:2]:
            await asyncio.to_thread(router.kill)
            await asyncio.to_thread(router.start)
        assert await one.publish(KEY, "one 1") == OK
        await judge((one, two, lost), ["one 0", "one 1"])
        await lost.inbox.delete()
        assert await one.publish(KEY, "one 2") == OK


async def test_the_loss_of_the_node_that_leads_an_inbox_delays_and_no_more(tmp_path: Path) -> None:
    with NatsCluster(tmp_path) as cluster, Fleet(tmp_path, cluster.urls, durability="replicated") as fleet:
        fleet.start_all("router", "router")
        async with (
            ReliableGateway(cluster.urls, replicas=3) as one,
            ReliableGateway(cluster.urls, replicas=3) as two,
        ):
            await asyncio.gather(one.join(KEY), two.join(KEY))
            publishing = Publishing(one, two)
            await publishing.more()
            leads = (await call(one.bus, "INFO", inbox_stream(two.name), {}))["cluster"]["leader"]
            node = next(node for node in cluster.nodes if node.settings.name == leads)
            await asyncio.to_thread(node.kill)
            await publishing.more()
            await judge((one, two), await publishing.stop())
