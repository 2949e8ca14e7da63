"""The limits in a hub's settings, on the wire: each is kept, and changes for connections that are open.

Client-protocols.md 1.4 (step 9), 1.11, 8; what is Azure's has its answers, the rest its way of saying no.
"""

import asyncio
import json

import pytest
import pytest_asyncio
import uvloop
from support.stack import CLOSE, CONTINUATION, SECONDS, TEXT, Stack, masked, on_uvloop, until

from hubwire.model.cluster_settings import ClusterSettings
from hubwire.model.errors import PermissionDenied
from hubwire.model.settings import HubLimits, HubSettings

pytestmark = [pytest.mark.asyncio(loop_scope="module"), on_uvloop]
FLOOD = 30


@pytest.fixture(scope="module")
def event_loop_policy():
    return uvloop.EventLoopPolicy()  # as in production


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory):
    async with Stack(tmp_path_factory.mktemp("stack")) as one:
        yield one


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def nothing_is_left(stack):
    yield
    await limit(stack)  # first, so that nobody is held up who has to leave
    await stack.nothing_left()


async def limit(stack, hub="chat", **limits):
    await stack.worker.settings.put_hub(hub, HubSettings(limits=HubLimits(**limits)))


async def ack_of(client, message, ack_id):
    client.say({**message, "ackId": ack_id})
    while True:
        heard = await client.hear()
        if heard["type"] == "ack":
            assert heard["ackId"] == ack_id
            return heard


def join(group):
    return {"type": "joinGroup", "group": group}


def send(group, data):
    return {"type": "sendToGroup", "group": group, "dataType": "text", "data": data}


async def handshake(stack, hub="chat", **token):
    path = f"/client/hubs/{hub}?access_token={stack.token('u', hub=hub, **token)}"
    return await stack.ask(stack.request(path))


# --- connections ---


async def test_one_connection_more_than_the_limit_is_429_and_those_that_are_open_stay(stack):
    await limit(stack, max_connections_per_gateway=2)
    async with await stack.json() as first, await stack.json():
        status, headers, _ = await handshake(stack)
        assert (status, headers["retry-after"]) == (429, "5")
        async with await stack.json(hub="another"):
            pass
        await limit(stack, max_connections_per_gateway=3)
        async with await stack.json():
            await limit(stack, max_connections_per_gateway=1)
            assert (await handshake(stack))[0] == 429
            assert (await ack_of(first, join("g"), 1))["success"] is True
    await stack.nothing_left()
    async with await stack.json():
        pass


# --- the size of messages ---


@pytest.mark.parametrize("fragments", [False, True])
async def test_a_message_over_the_limit_closes_with_1009_and_one_at_the_limit_does_not(stack, fragments):
    text = json.dumps({**send("g", "x" * 500), "ackId": 1}).encode()
    await limit(stack, max_message_bytes=len(text))
    async with await stack.json() as client:
        client.send(masked(TEXT, text))
        assert (await client.hear())["success"] is True
        if fragments:
            client.send(masked(TEXT, text, fin=False) + masked(CONTINUATION, b" "))
        else:
            client.send(masked(TEXT, text + b" "))
        assert await client.closed() == (1009, f"Messages are limited to {len(text)} bytes.")


async def test_the_first_fragment_alone_may_be_too_large(stack):
    await limit(stack, max_message_bytes=100)
    async with await stack.json() as client:
        client.send(masked(TEXT, b" " * 101, fin=False))
        assert (await client.closed())[0] == 1009


async def test_the_limit_of_message_bytes_changes_for_open_connections_and_the_clusters_holds_for_all(stack):
    async with await stack.json() as client, await stack.json(hub="another") as other:
        assert (await ack_of(client, send("g", "x" * 5000), 1))["success"] is True
        common = ClusterSettings(hub_limits=HubLimits(max_message_bytes=1000))
        await stack.worker.settings.change_cluster(lambda _: common)
        await limit(stack, max_message_bytes=9000)
        assert (await ack_of(client, send("g", "x" * 5000), 2))["success"] is True
        other.say(send("g", "x" * 5000))
        assert await other.closed() == (1009, "Messages are limited to 1000 bytes.")
        await limit(stack)
        client.say(send("g", "x" * 5000))
        assert await client.closed() == (1009, "Messages are limited to 1000 bytes.")
        await stack.worker.settings.change_cluster(lambda _: ClusterSettings())


# --- the outbox ---


async def test_a_lower_limit_of_what_waits_closes_an_open_slow_consumer_and_spares_another_hubs(stack):
    async with (
        await stack.json("slow", groups=["g"], receive_buffer=4096) as slow,
        await stack.json("slow", hub="another", groups=["g"], receive_buffer=4096),
        await stack.json("fast") as sender,
        await stack.json("fast", hub="another") as other_sender,
    ):
        receivers = [c for c in stack.service.hubs if c.user_id == "slow"]
        number = 0
        while min(receiver.queued_bytes for receiver in receivers) < 50_000:
            number += 1
            await ack_of(sender, send("g", "x" * 5000), number)
            await ack_of(other_sender, send("g", "x" * 5000), number)
        await limit(stack, outbox_bytes=20_000)
        await ack_of(sender, send("g", "x" * 5000), number + 1)
        await ack_of(other_sender, send("g", "x" * 5000), number + 1)
        assert await slow.closed() == (1008, "The client does not read fast enough.")
        assert [c.hub for c in stack.service.hubs if c.user_id == "slow"] == ["another"]


# --- groups ---


async def test_a_group_more_than_the_limit_is_forbidden_and_nobody_is_put_out(stack):
    await limit(stack, max_groups_per_connection=2)
    async with await stack.json(groups=["a"]) as client:
        assert (await ack_of(client, join("b"), 1))["success"] is True
        refused = await ack_of(client, join("c"), 2)
        assert (refused["success"], refused["error"]["name"]) == (False, "Forbidden")
        assert refused["error"]["message"] == "A connection of this hub may be in 2 groups at most."
        assert (await ack_of(client, join("a"), 3))["success"] is True, "it is in it already"
        (connection,) = stack.service.hubs
        with pytest.raises(PermissionDenied):
            await stack.service.commands.join("chat", "connection", connection.id, ["c"], None)
        assert (await ack_of(client, {"type": "leaveGroup", "group": "a"}, 4))["success"] is True
        assert (await ack_of(client, join("c"), 2))["success"] is True, "a failed id may be used again"
        await limit(stack, max_groups_per_connection=1)
        assert connection.groups == {"b", "c"}
        await limit(stack)
        assert (await ack_of(client, join("d"), 5))["success"] is True


async def test_a_token_with_more_groups_than_the_limit_is_refused(stack):
    await limit(stack, max_groups_per_connection=2)
    status, _, text = await handshake(stack, groups=["a", "b", "c"])
    assert (status, text) == (400, "A connection of this hub may be in 2 groups at most.\n")
    async with await stack.json(groups=["a", "b", "b"]):
        pass


# --- the rate ---


async def test_what_is_above_the_rate_waits_and_nothing_is_lost(stack):
    await limit(stack, messages_per_second=20)
    async with await stack.json(groups=["g"]) as client:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in range(FLOOD):
            client.say({**send("g", f"{number}"), "ackId": number})
        heard = [await client.hear() for _ in range(2 * FLOOD)]
        assert loop.time() - began >= (FLOOD - 20) / 20 - 0.01
        acks = [one["ackId"] for one in heard if one["type"] == "ack"]
        assert acks == list(range(FLOOD))
        assert [one["data"] for one in heard if one["type"] == "message"] == [f"{n}" for n in acks]


async def test_who_is_held_up_is_not_read_and_others_and_pings_are_served(stack):
    await limit(stack, messages_per_second=1)
    async with await stack.json("flood") as flood, await stack.json("calm") as calm:
        (connection,) = [c for c in stack.service.hubs if c.user_id == "flood"]
        flood.send(masked(TEXT, json.dumps(send("g", "x" * 50_000)).encode()) * 300)
        await until(lambda: connection.reading_paused)
        assert connection.waiting_bytes < 3_000_000
        assert (await ack_of(calm, join("g"), 1))["success"] is True
        calm.say(send("g", "now it waits"))
        calm.say({"type": "ping"})
        assert await calm.hear() == {"type": "pong"}
        assert connection.reading_paused
        await limit(stack)
        await until(lambda: connection.waiting is None)


async def test_bytes_above_the_rate_wait_and_nothing_is_lost(stack):
    await limit(stack, bytes_per_second=2000)
    async with await stack.json(groups=["g"]) as client:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in range(6):
            client.say({**send("g", "x" * 500), "ackId": number})
        heard = [await client.hear() for _ in range(12)]
        assert loop.time() - began >= (6 * 500 - 2000) / 2000
        assert [one["ackId"] for one in heard if one["type"] == "ack"] == list(range(6))


async def test_the_clients_of_a_hub_share_its_rate_and_a_flood_holds_up_nobody_for_long(stack):
    await limit(stack, hub_messages_per_second_per_gateway=20)
    held = stack.service.tallies.of("chat").held
    async with await stack.json("flood") as flood, await stack.json("calm") as calm:
        for _ in range(1000):
            flood.say(send("g", "x"))
        await until(lambda: stack.service.tallies.of("chat").held > held)
        (connection,) = [c for c in stack.service.hubs if c.user_id == "flood"]
        assert (await ack_of(calm, send("g", "x"), 1))["success"] is True
        assert connection.waiting  # served in turn, not behind all of the flood
        await limit(stack)
        await until(lambda: connection.waiting is None)


async def test_a_rate_that_is_lifted_lets_go_what_waits(stack):
    await limit(stack, messages_per_second=1)
    async with await stack.json() as client:
        for number in range(FLOOD):
            client.say({**send("g", "x"), "ackId": number})
        assert (await client.hear())["ackId"] == 0
        await limit(stack)
        async with asyncio.timeout(SECONDS):  # at the old rate it takes half a minute
            assert [(await client.hear())["ackId"] for _ in range(FLOOD - 1)] == list(range(1, FLOOD))


async def test_who_leaves_while_held_up_leaves_nothing_behind(stack):
    await limit(stack, messages_per_second=1)
    async with await stack.json() as rude, await stack.json() as polite:
        for client in (rude, polite):
            for _ in range(3):
                client.say(send("g", "x"))
        await until(lambda: [c for c in stack.service.hubs if c.waiting] == list(stack.service.hubs))
        rude.close()
        polite.send(masked(CLOSE, (1000).to_bytes(2, "big") + b"done"))
        assert await polite.closed() == (1000, "done")
    await stack.nothing_left()
