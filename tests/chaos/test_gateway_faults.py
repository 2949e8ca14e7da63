"""Gateways are killed, stopped, paused and come back."""

from __future__ import annotations

import asyncio
import time

from support.members import HUB, Member, assert_all_arrive, until
from support.observer import observe
from support.processes import Fleet
from support.traffic import Traffic

from controlplane.ports import Target
from hubwire.model.names import gateway_of
from hubwire.runtime.lease_bucket import margin_of, read_entry

CHECK_SECONDS = 1.0  # between the end of a lease and its being noticed and told, on a busy machine


async def test_when_a_gateway_is_killed_the_others_go_on_and_its_users_are_gone_within_the_lease(
    fleet: Fleet,
) -> None:
    _, victim, here, there = fleet.start_all("router", "gateway", "gateway", "gateway")
    async with observe(fleet.config) as observer:
        ghosts = await asyncio.gather(*(Member.connect(victim, f"ghost-{n}", ["room"]) for n in range(5)))
        traffic = await Traffic.start(here, there)
        await traffic.flow(30)
        users = [Target("user", ghost.user) for ghost in ghosts]
        exists = [await observer.cluster.exists(HUB, user) for user in users]
        assert exists == [True] * len(users)
        assert await observer.cluster.exists(HUB, Target("group", "room"))

        begin = time.monotonic()
        await asyncio.to_thread(victim.kill)
        lease = fleet.config.lease_seconds
        within = lease + margin_of(lease) + CHECK_SECONDS
        gone_after = 0.0
        while any([await observer.cluster.exists(HUB, user) for user in users]):
            gone_after = time.monotonic() - begin
            assert gone_after < within
            await asyncio.sleep(0.05)
        print("gone after seconds:", round(gone_after, 2))
        assert not await observer.cluster.exists(HUB, Target("group", "room"))
        assert not await observer.cluster.exists(HUB, Target("connection", ghosts[0].connection_id))
        assert await observer.cluster.exists(HUB, Target("user", traffic.members[0].user))
        await traffic.flow(30)
    await traffic.stop()
    await traffic.assert_nothing_lost()
    for ghost in ghosts:
        await until(lambda one=ghost: not one.open, 5)
        await ghost.close()
    await traffic.close()


async def test_a_gateway_that_is_stopped_sends_its_clients_away_and_its_users_are_gone_at_once(
    fleet: Fleet,
) -> None:
    _, leaver, here = fleet.start_all("router", "gateway", "gateway")
    async with observe(fleet.config) as observer:
        leaving = await Member.connect(leaver, "leaving", ["room"])
        staying = await Member.connect(here, "staying", ["room"])
        assert await observer.cluster.exists(HUB, Target("user", "leaving"))
        assert await asyncio.to_thread(leaver.stop) == 0
        await until(lambda: not leaving.open, 5)
        assert leaving.close_code == 1001
        assert not await observer.cluster.exists(HUB, Target("user", "leaving"))
        assert await observer.cluster.exists(HUB, Target("group", "room"))
        assert await staying.publish("room", "m 0")
        await assert_all_arrive(staying, "room", ["m 0"])
        await leaving.close()
        await staying.close()


async def test_a_gateway_that_was_paused_for_longer_than_its_lease_starts_over_and_tells_its_clients_to_go(
    fleet: Fleet,
) -> None:
    _, paused, here = fleet.start_all("router", "gateway", "gateway")
    async with observe(fleet.config) as observer:
        sleeper = await Member.connect(paused, "sleeper", ["room"])
        other = await Member.connect(here, "other", ["room"])
        old_name = gateway_of(sleeper.connection_id)
        assert old_name is not None
        paused.pause()
        await until(lambda: observer.gateways.certainly_ended(old_name), 10, "its lease is ended")
        assert await other.publish("room", "m 0"), "the others do not wait for it"
        assert not await observer.cluster.exists(HUB, Target("user", "sleeper"))
        # The observer only believes it; the router, which judges, makes it so, perhaps a moment later. A
        # gateway that wakes up before that may go on as if nothing had been.
        async with asyncio.timeout(10):
            while not (await read_entry(observer.bus, "gateway", old_name)).ended:  # noqa: ASYNC110 (asks)
                await asyncio.sleep(0.05)
        paused.resume()
        await until(lambda: not sleeper.open, 10, "it closes its clients")
        assert sleeper.close_code == 1001
        again = await Member.connect(paused, "sleeper", ["room"])
        assert gateway_of(again.connection_id) != old_name
        assert await other.publish("room", "m 1")
        await assert_all_arrive(again, "room", ["m 1"])
        assert "m 0" not in again.of("room")
        for member in (sleeper, other, again):
            await member.close()


async def test_a_gateway_whose_lease_was_lost_does_not_take_the_time_of_a_planned_stop(fleet: Fleet) -> None:
    # Its clients hear nothing any more; spread over a drain time of minutes they would sit there deaf.
    fleet.config = fleet.config.replace(drain_seconds=60.0)
    _, paused = fleet.start_all("router", "gateway")
    async with observe(fleet.config) as observer:
        members = [await Member.connect(paused, f"m{number}") for number in range(120)]
        old_name = gateway_of(members[0].connection_id)
        assert old_name is not None
        paused.pause()
        async with asyncio.timeout(10):
            while not (await read_entry(observer.bus, "gateway", old_name)).ended:  # noqa: ASYNC110 (asks)
                await asyncio.sleep(0.05)
        paused.resume()
        await until(lambda: not any(member.open for member in members), 10, "it closes its clients")
        assert {member.close_code for member in members} == {1001}
        await until(lambda: any("gateway_stopped" in line for line in paused.lines()), 10)
        for member in members:
            await member.close()


async def test_a_gateway_that_was_killed_comes_back_under_another_name_and_gets_everything(
    fleet: Fleet,
) -> None:
    _, gateway, here = fleet.start_all("router", "gateway", "gateway")
    traffic = await Traffic.start(here)
    for run in range(3):
        member = await Member.connect(gateway, f"run-{run}")
        assert await member.join("g0")
        mark = f"mark-{run} 0"
        assert await traffic.publishers[1].publish("g0", mark)
        await assert_all_arrive(member, "g0", [mark])
        await asyncio.to_thread(gateway.kill)
        await asyncio.to_thread(gateway.start)
        await member.close()
    await traffic.flow(20)
    await traffic.stop()
    await traffic.assert_nothing_lost()
    await traffic.close()
