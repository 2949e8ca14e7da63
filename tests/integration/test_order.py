"""Total order: every member of a group sees its messages in one order, wherever they come from and go to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
from support.members import HUB, Member, assert_all_arrive, assert_at_most_once_in_order
from support.nats import NatsCluster, NatsServer
from support.observer import observe
from support.processes import Fleet

from controlplane.ports import Target
from hubwire.model.message import DataType, Message

PUBLISHERS = 8
MESSAGES = 60


@pytest.fixture(scope="module", params=[1, 3], ids=["one-nats", "three-nats"])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two routers and three gateways, for all tests; each has clients and groups of its own."""
    folder = tmp_path_factory.mktemp("order")
    with contextlib.ExitStack() as stack:
        if request.param == 1:
            nats = stack.enter_context(NatsServer(folder))
            fleet = stack.enter_context(Fleet(folder, [nats.url]))
        else:
            cluster = stack.enter_context(NatsCluster(folder))
            fleet = stack.enter_context(Fleet(folder, cluster.urls, durability="replicated"))
        fleet.start_all("router", "router", "gateway", "gateway", "gateway")
        yield fleet


@pytest.fixture
async def crowd(fleet: Fleet) -> AsyncIterator[tuple[list[Member], list[Member]]]:
    """Publishers and members, each kind on every one of three gateways."""
    gateways = fleet.services[2:]
    publishers = [await Member.connect(gateways[n % 3], f"p{n}") for n in range(PUBLISHERS)]
    members = [await Member.connect(gateways[n % 3], f"m{n}", ["one", "two"]) for n in range(6)]
    yield publishers, members
    for member in [*publishers, *members]:
        await member.close()


async def test_all_members_see_the_messages_of_a_group_in_one_order(
    fleet: Fleet, crowd: tuple[list[Member], list[Member]]
) -> None:
    publishers, members = crowd

    async def publish(number: int, group: str) -> None:
        acks = await publishers[number].publish_all(
            group, (f"p{number}-{group} {n}" for n in range(MESSAGES))
        )
        assert all(acks)

    async def rest() -> None:
        async with observe(fleet.config) as observer:
            for n in range(MESSAGES):
                message = Message(DataType.TEXT, f"rest {n}".encode())
                await observer.cluster.publish(HUB, Target("group", "one"), message)

    await asyncio.gather(*(publish(n, group) for n in range(PUBLISHERS) for group in ("one", "two")), rest())
    for group in ("one", "two"):
        wanted = {f"p{n}-{group} {m}" for n in range(PUBLISHERS) for m in range(MESSAGES)}
        if group == "one":
            wanted |= {f"rest {n}" for n in range(MESSAGES)}
        for member in members:
            await assert_all_arrive(member, group, wanted)
            assert member.of(group) == members[0].of(group)
            assert len(member.of(group)) == len(wanted), "nothing twice"
        assert_at_most_once_in_order(members[0].of(group))


async def test_a_publisher_that_is_a_member_sees_its_own_messages_where_the_others_do(
    crowd: tuple[list[Member], list[Member]],
) -> None:
    publishers, members = crowd
    for publisher in publishers:
        assert await publisher.join("own")
    assert await members[0].join("own")
    acks = await asyncio.gather(
        *(p.publish_all("own", [f"{p.user} {n}" for n in range(MESSAGES)]) for p in publishers)
    )
    assert all(all(mine) for mine in acks)
    wanted = {f"{p.user} {n}" for p in publishers for n in range(MESSAGES)}
    for member in [*publishers, members[0]]:
        await assert_all_arrive(member, "own", wanted)
        assert member.of("own") == publishers[0].of("own")
