"""Routers are killed, added, stopped and paused while messages flow."""

from __future__ import annotations

import asyncio
import time

import pytest
from support.members import HUB, Member, assert_all_arrive, until
from support.observer import Observer, observe
from support.processes import Fleet
from support.traffic import GROUPS, Traffic

from hubwire.bus.envelopes import (
    JOIN,
    NOT_MINE,
    PUBLISH,
    batch_to_router,
    deliver_item,
    deliver_to_gateway,
    pack_body,
    unpack,
)
from hubwire.bus.keys import group_key, partition_of
from hubwire.bus.subjects import gateway_subject, router_subject
from hubwire.model.message import DataType, Message

TAKEOVER_SECONDS = 2.0  # the requirement's


async def owned_by(observer: Observer, count: int) -> set[str]:
    """The names of the owners, once the table names so many, and no partition is without."""
    await until(
        lambda: "" not in (named := observer.owners_named()) and len(named) == count,
        10,
        f"the table names {count} routers",
    )
    return observer.owners_named()


async def test_what_is_acked_arrives_when_a_router_is_killed_and_the_takeover_takes_less_than_two_seconds(
    fleet: Fleet,
) -> None:
    victim, _, here, there = fleet.start_all("router", "router", "gateway", "gateway")
    async with observe(fleet.config) as observer:
        await owned_by(observer, 2)
        traffic = await Traffic.start(here, there)
        await traffic.flow()
        await asyncio.to_thread(victim.kill)
        await owned_by(observer, 1)
        await traffic.flow()
    await traffic.stop()
    print("outages in seconds:", traffic.longest_outages)
    assert max(traffic.longest_outages.values()) < TAKEOVER_SECONDS
    await traffic.assert_nothing_lost()
    await traffic.close()


async def test_a_planned_stop_of_a_router_loses_nothing(fleet: Fleet) -> None:
    leaver, _, here, there = fleet.start_all("router", "router", "gateway", "gateway")
    async with observe(fleet.config) as observer:
        await owned_by(observer, 2)
        traffic = await Traffic.start(here, there)
        await traffic.flow()
        assert await asyncio.to_thread(leaver.stop) == 0
        await traffic.flow()
        assert len(await owned_by(observer, 1)) == 1
    await traffic.stop()
    await traffic.assert_nothing_lost()
    await traffic.close()


async def test_a_router_that_is_added_takes_its_share_while_messages_flow_and_nothing_is_lost(
    fleet: Fleet,
) -> None:
    _, here, there = fleet.start_all("router", "gateway", "gateway")
    async with observe(fleet.config) as observer:
        traffic = await Traffic.start(here, there)
        await traffic.flow()
        for routers in (2, 3):
            await asyncio.to_thread(fleet.start, "router")
            await owned_by(observer, routers)
            await traffic.flow()
    await traffic.stop()
    await traffic.assert_nothing_lost()
    await traffic.close()


async def test_the_only_router_may_be_killed_and_started_again(fleet: Fleet) -> None:
    router, here, there = fleet.start_all("router", "gateway", "gateway")
    traffic = await Traffic.start(here, there)
    await traffic.flow(30)
    await asyncio.to_thread(router.kill)
    connecting = asyncio.create_task(Member.connect(here, "late"))
    joining = asyncio.create_task(traffic.publishers[0].join("g1"))
    await asyncio.sleep(0)
    await asyncio.to_thread(router.start)
    assert await joining, "a join that began while there was no router is confirmed by the next one"
    late = await connecting
    assert await late.join("g0")
    await traffic.flow(30)
    await traffic.stop()
    await traffic.assert_nothing_lost()
    published = "late 0"
    assert await traffic.publishers[0].publish("g0", published)
    await assert_all_arrive(late, "g0", [published])
    await late.close()
    await traffic.close()


async def test_a_paused_router_confirms_nothing_of_what_was_taken_over_when_it_wakes(fleet: Fleet) -> None:
    paused, _, here, there = fleet.start_all("router", "router", "gateway", "gateway")
    async with observe(fleet.config) as observer:
        both = await owned_by(observer, 2)
        before = observer.owners.table.owners
        traffic = await Traffic.start(here, there)
        await traffic.flow()
        paused.pause()
        survivor = next(iter(await owned_by(observer, 1)))
        (sleeper,) = both - {survivor}
        await traffic.flow()

        # What reaches it while it sleeps: a publish and a join for every group, of whoever owned it.
        body = pack_body(Message(DataType.TEXT, b"ghost 0"))
        parts = []
        for group in GROUPS:
            key = group_key(HUB, group)
            partition = partition_of(key)
            owner = before[partition]
            assert owner is not None
            entries = [[PUBLISH, partition, key, 1, body], [JOIN, partition, key, 1, 0]]
            parts.append((partition, owner.epoch, entries))
        answer = asyncio.create_task(
            observer.bus.ask(router_subject(sleeper), batch_to_router("0123456ff", parts), 20.0)
        )
        await observer.bus.synchronize()
        paused.resume()
        _, answers = unpack(await answer)
        assert answers == [NOT_MINE] * 2 * len(parts)
        await traffic.flow()
        await until(lambda: any("lease_lost" in line for line in paused.lines()), 10, "it notices")
        assert len(await owned_by(observer, 2)) == 2, "it takes part again, under another name"
        assert sleeper not in observer.owners_named()
        await traffic.flow()
    await traffic.stop()
    await traffic.assert_nothing_lost()
    assert not any(text == "ghost 0" for member in traffic.members for _, text in member.arrived)
    await traffic.close()


async def test_what_an_owner_of_before_still_sends_is_dropped_by_the_gateways(fleet: Fleet) -> None:
    old, _, here, there = fleet.start_all("router", "router", "gateway", "gateway")
    async with observe(fleet.config) as observer:
        await owned_by(observer, 2)
        before = observer.owners.table.owners
        traffic = await Traffic.start(here, there)
        await traffic.flow(30)
        await asyncio.to_thread(old.stop)
        await owned_by(observer, 1)
        await traffic.flow(30)
        after = observer.owners.table.owners
        body = pack_body(Message(DataType.TEXT, b"ghost 0"))
        moved = 0
        for group in GROUPS:
            key = group_key(HUB, group)
            partition = partition_of(key)
            was, is_now = before[partition], after[partition]
            assert was is not None
            assert is_now is not None
            if was != is_now:
                assert is_now.epoch > was.epoch
                moved += 1
                item = deliver_item(partition, was.epoch, "0123456ff", 1, key, body)
                for gateway in observer.gateways.alive:
                    observer.bus.publish(gateway_subject(gateway), deliver_to_gateway(was.router, [item]))
        assert moved
        await observer.bus.synchronize()
        await traffic.flow(30)
    await traffic.stop()
    await traffic.assert_nothing_lost()
    assert not any(text == "ghost 0" for member in traffic.members for _, text in member.arrived)
    await traffic.close()


@pytest.mark.parametrize("first", ["router", "gateway"])
async def test_routers_and_gateways_start_in_any_order(fleet: Fleet, first: str) -> None:
    begin = time.monotonic()
    if first == "router":
        fleet.start("router")
        gateway = await asyncio.to_thread(fleet.start, "gateway")
    else:
        gateway = fleet.make("gateway").launch()
        await asyncio.to_thread(gateway.wait_ready)
        await asyncio.to_thread(fleet.start, "router")
    async with await Member.connect(gateway, "early") as member:
        assert await member.join("g")
        assert await member.publish("g", "m 0")
        await assert_all_arrive(member, "g", ["m 0"])
    print("seconds:", round(time.monotonic() - begin, 2))
