"""Every method of the cluster port over real routers and gateways (controlplane.cluster)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.members import HUB, Member, assert_all_arrive, until
from support.nats import NatsServer
from support.observer import Observer, observe
from support.processes import Fleet, Service

from controlplane.cluster import Cluster
from controlplane.ports import Target
from hubwire.model.errors import InternalError, InvalidRequest, LimitExceeded, NotFound, Unavailable
from hubwire.model.message import DataType, Message
from hubwire.model.names import gateway_of

EVERYBODY = Target("hub")


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Service, Service]]:
    """Two routers and two gateways serve all tests; each uses names of its own."""
    folder = tmp_path_factory.mktemp("cluster")
    with NatsServer(folder) as nats, Fleet(folder, [nats.url]) as fleet:
        _, _, here, there = fleet.start_all("router", "router", "gateway", "gateway")
        yield fleet, here, there


@pytest.fixture
async def observer(services: tuple[Fleet, Service, Service]) -> AsyncIterator[Observer]:
    async with observe(services[0].config) as observer:
        yield observer


@pytest.fixture
def cluster(observer: Observer) -> Cluster:
    return observer.cluster


class People:
    """Members by name, spread over both gateways, closed at the end."""

    def __init__(self, here: Service, there: Service) -> None:
        self._gateways = [here, there]
        self.members: list[Member] = []

    async def __call__(self, user: str, *groups: str) -> Member:
        gateway = self._gateways[len(self.members) % 2]
        member = await Member.connect(gateway, user, groups)
        self.members.append(member)
        return member


@pytest.fixture
async def people(services: tuple[Fleet, Service, Service]) -> AsyncIterator[People]:
    people = People(*services[1:])
    yield people
    for member in people.members:
        await member.close()


def text(content: str) -> Message:
    return Message(DataType.TEXT, content.encode())


def group(name: str) -> Target:
    return Target("group", name)


def user(name: str) -> Target:
    return Target("user", name)


def connection(member: Member) -> Target:
    return Target("connection", member.connection_id)


async def nothing_but(member: Member, *texts: str) -> None:
    """What has arrived is exactly this; the last one proves that nothing else came before it."""
    await until(lambda: texts[-1] in [t for _, t in member.arrived], 5)
    assert [t for _, t in member.arrived] == list(texts)


# -- sending ----------------------------------------------------------------------------------------


async def test_publish_to_a_group_reaches_its_members_on_every_gateway(
    cluster: Cluster, people: People
) -> None:
    near, far = await people("pg1", "pg"), await people("pg2", "pg")
    out = await people("pg3", "pg-other")
    await cluster.publish(HUB, group("pg"), text("m 0"))
    await cluster.publish(HUB, group("pg-other"), text("end"))
    for member in (near, far):
        await nothing_but(member, "m 0")
    await nothing_but(out, "end")


async def test_publish_to_a_user_reaches_all_its_connections(cluster: Cluster, people: People) -> None:
    first, second, other = await people("pu"), await people("pu"), await people("pu-other")
    await cluster.publish(HUB, user("pu"), text("m 0"))
    await cluster.publish(HUB, user("pu-other"), text("end"))
    for member in (first, second):
        await nothing_but(member, "m 0")
    await nothing_but(other, "end")


async def test_publish_to_one_connection(cluster: Cluster, people: People) -> None:
    one, other = await people("pc"), await people("pc")
    await cluster.publish(HUB, connection(one), text("m 0"))
    await cluster.publish(HUB, connection(other), text("end"))
    await nothing_but(one, "m 0")
    await nothing_but(other, "end")


async def test_publish_to_the_hub_spares_whom_it_should(cluster: Cluster, people: People) -> None:
    members = [await people(f"ph{number}") for number in range(4)]
    excluded = [members[0].connection_id, members[1].connection_id]
    await cluster.publish(HUB, EVERYBODY, text("ph"), excluded=excluded)
    await cluster.publish(HUB, EVERYBODY, text("ph-end"))
    for number, member in enumerate(members):
        await until(lambda member=member: "ph-end" in member.of_server, 5)
        assert ("ph" in member.of_server) == (number > 1)


async def test_the_filter_is_carried_to_the_gateways(cluster: Cluster, people: People) -> None:
    anna, bert = await people("pf-anna", "pf"), await people("pf-bert", "pf")
    await cluster.publish(HUB, group("pf"), text("m 0"), filter="userId eq 'pf-bert'")
    await cluster.publish(HUB, group("pf"), text("m 1"), filter="not ('nowhere' in groups)")
    await nothing_but(anna, "m 1")
    await nothing_but(bert, "m 0", "m 1")


async def test_publishes_one_after_the_other_arrive_in_order(cluster: Cluster, people: People) -> None:
    near, far = await people("po1", "po"), await people("po2", "po")
    texts = [f"po {number}" for number in range(100)]
    for one in texts:
        await cluster.publish(HUB, group("po"), text(one))
    for member in (near, far):
        await nothing_but(member, *texts)


async def test_what_a_client_publishes_after_the_call_returned_comes_after_it(
    cluster: Cluster, people: People
) -> None:
    near, far = await people("pa1", "pa"), await people("pa2", "pa")
    for number in range(20):
        await cluster.publish(HUB, group("pa"), text(f"rest {number}"))
        assert await near.publish("pa", f"client {number}")
    wanted = [f"{who} {number}" for number in range(20) for who in ("rest", "client")]
    await nothing_but(far, *wanted)


async def test_a_message_as_big_as_messages_may_be(cluster: Cluster, people: People) -> None:
    member = await people("pb", "pb")
    big = "x" * (1024 * 1024)
    await cluster.publish(HUB, group("pb"), text(big))
    await nothing_but(member, big)


async def test_a_message_that_no_envelope_can_hold_is_refused_and_the_next_one_goes(
    cluster: Cluster, people: People
) -> None:
    member = await people("pl", "pl")
    with pytest.raises(LimitExceeded):
        await cluster.publish(HUB, group("pl"), text("x" * (5 * 1024 * 1024)))
    with pytest.raises(LimitExceeded):
        await cluster.publish(HUB, connection(member), text("x" * (5 * 1024 * 1024)))
    await cluster.publish(HUB, group("pl"), text("end"))
    await nothing_but(member, "end")


async def test_publish_to_nobody_is_accepted(cluster: Cluster) -> None:
    for target in (group("nobody"), user("nobody"), Target("connection", "nonsense")):
        await cluster.publish(HUB, target, text("x"))


# -- existence --------------------------------------------------------------------------------------


async def test_exists(cluster: Cluster, people: People) -> None:
    member = await people("ex", "ex-group")
    for target in (connection(member), user("ex"), group("ex-group")):
        assert await cluster.exists(HUB, target)
    for target in (
        Target("connection", "A" * 22 + (gateway_of(member.connection_id) or "")),
        Target("connection", "A" * 22 + "0123456ff"),
        Target("connection", "nonsense"),
        user("nobody"),
        group("nobody"),
    ):
        assert not await cluster.exists(HUB, target)
    assert not await cluster.exists("another", connection(member))


async def test_one_reads_what_one_wrote(cluster: Cluster, people: People) -> None:
    member = await people("rw")
    for number in range(20):
        name = f"rw{number}"
        assert await cluster.add_connection_to_group(HUB, name, member.connection_id)
        assert await cluster.exists(HUB, group(name))
        await cluster.remove_connection_from_group(HUB, name, member.connection_id)
        assert not await cluster.exists(HUB, group(name))


async def test_a_group_is_gone_for_whoever_asks_after_the_ack_of_its_last_leave(
    cluster: Cluster, people: People
) -> None:
    """A client's leave was once acked before the owner had heard of it."""
    near, far = await people("lv1"), await people("lv2")
    for number in range(100):
        name = f"lv{number}"
        assert await near.join(name)
        assert await far.join(name)
        assert await near.leave(name)
        assert await cluster.exists(HUB, group(name))
        assert await far.leave(name)
        assert not await cluster.exists(HUB, group(name))


async def until_not_exists(cluster: Cluster, target: Target) -> None:
    for _ in range(200):
        if not await cluster.exists(HUB, target):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{target} still exists")


# -- closing ----------------------------------------------------------------------------------------


async def test_close_one_connection(cluster: Cluster, people: People) -> None:
    one, other = await people("cc"), await people("cc")
    await cluster.close(HUB, connection(one), reason="because")
    await until(lambda: not one.open, 5)
    assert other.open
    await until_not_exists(cluster, connection(one))
    assert await cluster.exists(HUB, user("cc"))
    await cluster.close(HUB, Target("connection", "nonsense"))


async def test_close_a_group_and_a_user_with_exceptions(cluster: Cluster, people: People) -> None:
    members = [await people("cg", "cg") for _ in range(4)]
    await cluster.close(HUB, group("cg"), excluded=[members[0].connection_id, members[1].connection_id])
    await until(lambda: not members[2].open and not members[3].open, 5)
    assert members[0].open
    assert members[1].open
    await cluster.close(HUB, user("cg"), excluded=[members[0].connection_id])
    await until(lambda: not members[1].open, 5)
    assert members[0].open


# -- groups -----------------------------------------------------------------------------------------


async def test_a_connection_is_added_and_what_is_published_then_reaches_it(
    cluster: Cluster, people: People
) -> None:
    member = await people("gc")
    assert await cluster.add_connection_to_group(HUB, "gc", member.connection_id)
    assert await cluster.add_connection_to_group(HUB, "gc", member.connection_id), "again does no harm"
    await cluster.publish(HUB, group("gc"), text("m 0"))
    await cluster.remove_connection_from_group(HUB, "gc", member.connection_id)
    await cluster.publish(HUB, group("gc"), text("m 1"))
    await cluster.publish(HUB, user("gc"), text("end"))
    await nothing_but(member, "m 0", "end")
    assert not await cluster.add_connection_to_group(HUB, "gc", "A" * 22 + "0123456ff")
    await cluster.remove_connection_from_group(HUB, "gc", "nonsense")


async def test_a_user_is_added_with_all_connections_it_has(cluster: Cluster, people: People) -> None:
    first, second = await people("gu"), await people("gu")
    assert await cluster.add_user_to_group(HUB, "gu-group", "gu")
    await cluster.publish(HUB, group("gu-group"), text("m 0"))
    await cluster.remove_user_from_group(HUB, "gu-group", "gu")
    await cluster.publish(HUB, group("gu-group"), text("m 1"))
    await cluster.publish(HUB, user("gu"), text("end"))
    for member in (first, second):
        await nothing_but(member, "m 0", "end")
    assert not await cluster.add_user_to_group(HUB, "gu-group", "nobody")
    await cluster.remove_user_from_group(HUB, "gu-group", "nobody")


async def test_everything_is_left_at_once(cluster: Cluster, people: People) -> None:
    first, second = await people("ga", "ga1", "ga2"), await people("ga", "ga1", "ga3")
    await cluster.remove_connection_from_all_groups(HUB, first.connection_id)
    await until_not_exists(cluster, group("ga2"))
    assert await cluster.exists(HUB, group("ga1"))
    await cluster.remove_user_from_all_groups(HUB, "ga")
    for name in ("ga1", "ga3"):
        await until_not_exists(cluster, group(name))
    assert second.open
    await cluster.remove_connection_from_all_groups(HUB, "nonsense")
    await cluster.remove_user_from_all_groups(HUB, "nobody")


async def test_connections_of_the_hub_are_added_by_a_filter(cluster: Cluster, people: People) -> None:
    anna, bert = await people("gf-anna"), await people("gf-bert")
    await cluster.add_to_groups(HUB, ["gf1", "gf2"], "startswith(userId, 'gf-anna')")
    for name in ("gf1", "gf2"):
        await cluster.publish(HUB, group(name), text(f"{name} 0"))
    await cluster.publish(HUB, user("gf-bert"), text("end"))
    await assert_all_arrive(anna, "gf1", ["gf1 0"])
    await assert_all_arrive(anna, "gf2", ["gf2 0"])
    await nothing_but(bert, "end")
    await cluster.remove_from_groups(HUB, ["gf1"], None)
    await until_not_exists(cluster, group("gf1"))
    assert await cluster.exists(HUB, group("gf2"))
    with pytest.raises(InvalidRequest):
        await cluster.add_to_groups(HUB, ["gf1"], "this is no filter")


async def test_the_members_of_a_group_are_listed_page_by_page_over_all_gateways(
    cluster: Cluster, people: People
) -> None:
    members = [await people(f"li{number}", "li") for number in range(9)]
    wanted = sorted((member.connection_id, member.user) for member in members)
    found: list[tuple[str, str | None]] = []
    while True:
        after = found[-1][0] if found else ""
        page = await cluster.list_group(HUB, "li", after=after, limit=4)
        found += [(one.connection_id, one.user_id) for one in page]
        if len(page) < 4:
            break
    assert found == wanted
    assert await cluster.list_group(HUB, "nobody", after="", limit=4) == []


# -- permissions ------------------------------------------------------------------------------------


async def test_permissions_of_a_connection(cluster: Cluster, people: People) -> None:
    member = await people("pe")
    nobody = "A" * 22 + "0123456ff"
    assert (await cluster.grant(HUB, "sendToGroup", member.connection_id, "pe")).found
    assert await cluster.has_permission(HUB, "sendToGroup", member.connection_id, "pe")
    assert not (await cluster.grant(HUB, "sendToGroup", nobody, "pe")).found
    assert (await cluster.revoke(HUB, "sendToGroup", member.connection_id, "pe")).found
    assert not await cluster.has_permission(HUB, "sendToGroup", member.connection_id, "pe")
    assert not await member.publish("pe", "x 0")
    assert not (await cluster.revoke(HUB, "sendToGroup", nobody, "pe")).found
    assert not await cluster.has_permission(HUB, "joinLeaveGroup", nobody, "pe")


# -- trouble ----------------------------------------------------------------------------------------


async def test_many_calls_at_once(cluster: Cluster, people: People) -> None:
    members = [await people("ma", "ma") for _ in range(4)]
    answers = await asyncio.gather(
        *(cluster.exists(HUB, user("ma")) for _ in range(300)),
        *(cluster.exists(HUB, user("nobody")) for _ in range(300)),
        *(cluster.publish(HUB, group("ma"), text(f"ma{n} 0")) for n in range(300)),
    )
    assert answers[:300] == [True] * 300
    assert answers[300:600] == [False] * 300
    for member in members:
        await assert_all_arrive(member, "ma", [f"ma{n} 0" for n in range(300)])


async def test_an_unknown_command_is_an_invalid_request(
    observer: Observer, cluster: Cluster, people: People
) -> None:
    member = await people("un")
    with pytest.raises(InvalidRequest):
        await cluster._ask_holder(HUB, member.connection_id, "dance", [])
    with pytest.raises(InternalError):
        await cluster._ask_holder(HUB, member.connection_id, "exists", ["wrong number"])
    assert cluster.trouble() == ""


async def test_a_gateway_that_does_not_answer_makes_the_answer_unavailable_until_its_lease_has_ended(
    tmp_path: Path,
) -> None:
    with NatsServer(tmp_path) as nats, Fleet(tmp_path, [nats.url]) as fleet:
        _, hung = fleet.start_all("router", "gateway")
        async with observe(fleet.config, deadline_seconds=1.0) as observer:
            member = await Member.connect(hung, "hung", ["room"])
            hung.pause()
            with pytest.raises(Unavailable):
                await observer.cluster.list_group(HUB, "room", after="", limit=10)
            name = gateway_of(member.connection_id)
            assert name is not None
            await until(lambda: observer.gateways.certainly_ended(name), 10)
            assert await observer.cluster.list_group(HUB, "room", after="", limit=10) == []
            assert not await observer.cluster.exists(HUB, user("hung"))
            with pytest.raises(NotFound):
                await observer.cluster._ask(name, "exists", [HUB, "user", "hung"])
            hung.kill()
            await member.close()


async def test_without_routers_calls_end_unavailable_within_their_deadline(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as nats, Fleet(tmp_path, [nats.url]) as fleet:
        async with observe(fleet.config, deadline_seconds=0.5) as observer:
            async with asyncio.timeout(3):
                with pytest.raises(Unavailable):
                    await observer.cluster.publish(HUB, group("room"), text("x"))
                with pytest.raises(Unavailable):
                    await observer.cluster.exists(HUB, user("x"))
