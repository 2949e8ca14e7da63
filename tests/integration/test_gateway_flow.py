"""Order, acks, bounds and time over a real router: what clients that send and read are promised.

Client-protocols.md 1.10, 3.3 to 3.5, 3.8, 6, 8.2, 8.3; rest-api.md 6.2 (time to live).
"""

import asyncio

import pytest
import pytest_asyncio
import uvloop
from support.stack import (
    BINARY,
    CLOSE,
    JSON,
    PING,
    PONG,
    PROTOBUF,
    TEXT,
    Stack,
    masked,
    on_uvloop,
    until,
)
from support.webpubsub_proto import DownstreamMessage, UpstreamMessage

from gateway.settings import GatewayLimits
from hubwire.model.settings import HubSettings

OUTBOX = 300_000
pytestmark = [pytest.mark.asyncio(loop_scope="module"), on_uvloop]


@pytest.fixture(scope="module")
def event_loop_policy():
    return uvloop.EventLoopPolicy()  # as in production


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory):
    async with Stack(tmp_path_factory.mktemp("stack"), limits=GatewayLimits(outbox_bytes=OUTBOX)) as one:
        yield one


def send(group, data, ack_id=None, **more):
    message = {"type": "sendToGroup", "group": group, "dataType": "text", "data": data, **more}
    return message if ack_id is None else {**message, "ackId": ack_id}


async def data(client, count=1):
    """The next messages' data; acks are passed over."""
    found = []
    while len(found) < count:
        heard = await client.hear()
        if heard["type"] == "message":
            found.append(heard["data"])
    return found


async def acks(client, count):
    found = []
    while len(found) < count:
        heard = await client.hear()
        if heard["type"] == "ack":
            found.append(heard)
    return found


# --- order and acks ---


async def test_pipelined_sends_arrive_in_order_and_each_is_acked_once(stack):
    async with await stack.json(groups=["order"]) as member, await stack.json() as sender:
        for number in range(2000):
            sender.say(send("order", f"{number}", number))
        reading = asyncio.create_task(data(member, 2000))
        assert [ack["ackId"] for ack in await acks(sender, 2000)] == list(range(2000))
        assert await reading == [f"{number}" for number in range(2000)]


async def test_what_is_published_after_the_ack_of_a_join_arrives_and_after_that_of_a_leave_does_not(stack):
    async with await stack.json() as member, await stack.json() as sender:
        for number in range(50):
            member.say({"type": "joinGroup", "group": f"j{number}", "ackId": 2 * number})
            assert (await acks(member, 1))[0]["success"]
            sender.say(send(f"j{number}", "in", 2 * number))
            assert await data(member) == ["in"]
            await acks(sender, 1)
            member.say({"type": "leaveGroup", "group": f"j{number}", "ackId": 2 * number + 1})
            assert (await acks(member, 1))[0]["success"]
            sender.say(send(f"j{number}", "out", 2 * number + 1))
            await acks(sender, 1)
        sender.say(send("last", "x"))
        member.say({"type": "ping"})
        assert (await member.hear())["type"] == "pong"


async def test_a_join_and_a_send_behind_it_without_waiting_reach_the_sender_itself(stack):
    async with await stack.json() as client:
        for number in range(50):
            client.say({"type": "joinGroup", "group": f"own{number}"})
            client.say(send(f"own{number}", f"{number}"))
            client.say({"type": "leaveGroup", "group": f"own{number}"})
        assert await data(client, 50) == [f"{number}" for number in range(50)]


async def test_what_a_client_sent_before_it_closed_is_served_before_its_close_is_answered(stack):
    """A close frame once overtook the messages before it: a join that waited for its owner, and the send
    behind it, were dropped when the client closed at once."""
    async with await stack.json("reader", groups=["parting"]) as reader:
        for number in range(20):
            async with await stack.json() as client:
                client.say({"type": "joinGroup", "group": f"parting{number}"})
                client.say(send("parting", f"{number}"))
                client.say({"type": "leaveGroup", "group": f"parting{number}"})
                client.say(send("parting", f"bye {number}"))
                client.send(masked(CLOSE, (1000).to_bytes(2, "big") + b"done") + masked(TEXT, b"nothing"))
                assert await client.closed() == (1000, "done")
        assert await data(reader, 40) == [text for n in range(20) for text in (f"{n}", f"bye {n}")]


async def test_no_echo_spares_the_connection_and_not_the_user(stack):
    async with await stack.json("u", groups=["e"]) as one, await stack.json("u", groups=["e"]) as two:
        one.say(send("e", "a", 1, noEcho=True))
        one.say(send("e", "b", 2))
        assert await data(two, 2) == ["a", "b"]
        assert await data(one) == ["b"]


async def test_a_repeated_id_is_a_duplicate_also_while_the_first_is_executed(stack):
    async with await stack.json(groups=["d"]) as client:
        for kind in (
            send("d", "once", 7),
            send("d", "twice", 7),
            {"type": "joinGroup", "group": "x", "ackId": 7},
            {"type": "event", "event": "e", "data": 1, "ackId": 7},
        ):
            client.say(kind)
        heard = [await client.hear() for _ in range(5)]
        assert [one["data"] for one in heard if one["type"] == "message"] == ["once"]
        found = [one for one in heard if one["type"] == "ack"]
        assert found[0] == {"type": "ack", "ackId": 7, "success": True}
        error = {"name": "Duplicate", "message": "Message with ack-id: 7 has been processed"}
        assert found[1:] == [{"type": "ack", "ackId": 7, "success": False, "error": error}] * 3


async def test_acks_are_what_the_specification_says_byte_for_byte(stack):
    async with await stack.json(roles=["webpubsub.sendToGroup.ok"]) as client:
        client.send(
            masked(TEXT, b'{"ackId":18446744073709551615,"type":"sendToGroup","group":"ok","data":1}')
        )
        assert (await client.frame())[1] == b'{"type":"ack","ackId":18446744073709551615,"success":true}'
        client.send(masked(TEXT, b'{"type":"joinGroup","group":"no","ackId":0}'))
        assert (await client.frame())[1] == (
            b'{"type":"ack","ackId":0,"success":false,"error":{"name":"Forbidden",'
            b'"message":"The client does not have permission to join group \'no\'."}}'
        )
        client.send(masked(TEXT, b'{"type":"event","event":"e","data":1,"ackId":1}'))
        assert (await client.frame())[1] == (
            b'{"type":"ack","ackId":1,"success":false,"error":{"name":"InternalServerError",'
            b'"message":"Internal server error"}}'
        )
        # Without an ack id nothing is said: no permission, no handler, an ack of the reliable kind.
        client.send(masked(TEXT, b'{"type":"leaveGroup","group":"no"}'))
        client.send(masked(TEXT, b'{"type":"event","event":"e","data":1}'))
        client.send(masked(TEXT, b'{"type":"sequenceAck","sequenceId":5}'))
        client.send(masked(TEXT, b'{"type":"ping"}'))
        assert (await client.frame())[1] == b'{"type":"pong"}'


async def test_a_message_reaches_every_protocol_in_its_own_form(stack):
    async with (
        await stack.json(groups=["all"]) as as_json,
        await stack.client(groups=["all"], subprotocols=[PROTOBUF]) as as_protobuf,
        await stack.client(groups=["all"], subprotocols=[]) as simple,
    ):
        await as_protobuf.frame()
        upstream = UpstreamMessage()
        upstream.send_to_group_message.group = "all"
        upstream.send_to_group_message.data.json_data = '{"a": 1.0}'
        as_protobuf.send(masked(BINARY, upstream.SerializeToString()))
        assert (await as_json.frame())[1].endswith(b'"group":"all","dataType":"json","data":{"a": 1.0}}')
        assert await simple.frame() == (TEXT, b'{"a": 1.0}')
        downstream = DownstreamMessage.FromString((await as_protobuf.frame())[1])
        assert downstream.data_message.data.json_data == '{"a": 1.0}'
        as_json.say({"type": "sendToGroup", "group": "all", "dataType": "binary", "data": "AP8="})
        assert await simple.frame() == (BINARY, b"\x00\xff")


async def test_a_publishing_simple_client_publishes_its_frames(stack):
    query = "&webpubsub_mode=sendToGroup&group=pub"
    async with (
        await stack.json(groups=["pub"]) as member,
        await stack.client("sam", subprotocols=[], query=query, groups=["pub"]) as simple,
    ):
        simple.send(masked(TEXT, b'{"type":"ping"}') + masked(TEXT, b"") + masked(BINARY, b"\x00"))
        heard = [await member.hear() for _ in range(3)]
        assert [(one["dataType"], one["data"], one["fromUserId"]) for one in heard] == [
            ("text", '{"type":"ping"}', "sam"),
            ("text", "", "sam"),
            ("binary", "AA==", "sam"),
        ]
        assert [await simple.frame() for _ in range(3)] == [
            (TEXT, b'{"type":"ping"}'),
            (TEXT, b""),
            (BINARY, b"\x00"),
        ]


# --- bounds ---


async def test_a_slow_consumer_is_closed_at_the_byte_bound_and_nobody_else_is_delayed(stack):
    closed = stack.service.closed["SlowClient"]
    async with (
        await stack.json(groups=["slow"], receive_buffer=4096) as slow,
        await stack.json(groups=["slow"]) as fast,
        await stack.json() as sender,
    ):
        loop = asyncio.get_running_loop()
        worst = 0.0
        for number in range(3000):
            began = loop.time()
            sender.say(send("slow", "x" * 5000, number))
            assert len(await data(fast)) == 1
            await acks(sender, 1)
            worst = max(worst, loop.time() - began)
            if stack.service.closed["SlowClient"] > closed:
                break
        else:
            pytest.fail("the slow consumer was never closed")
        assert worst < 1.0
        code, reason = await slow.closed()
        assert (code, reason) == (1008, "The client does not read fast enough.")
        await until(lambda: len(stack.service.hubs) == 2)


async def test_messages_that_outlive_their_time_in_the_outbox_are_dropped_and_others_are_not(stack):
    async with (
        await stack.json(groups=["ttl"], receive_buffer=4096) as slow,
        await stack.json() as sender,
    ):
        (receiver,) = [c for c in stack.service.hubs if "ttl" in c.groups]
        count = 0
        while receiver.queued_bytes < 20_000:  # until the kernel takes no more
            sender.say(send("ttl", "x" * 5000, count))
            await acks(sender, 1)
            count += 1
        sender.say(send("ttl", "short-lived", 100_001, ttlSeconds=1))
        sender.say(send("ttl", "for ever", 100_002))
        sender.say(send("ttl", "long-lived", 100_003, ttlSeconds=300))
        await acks(sender, 3)
        await until(lambda: receiver.queued_bytes > 20_000)
        await asyncio.sleep(1.2)
        last = (await data(slow, count + 2))[count:]
        assert last == ["for ever", "long-lived"]


async def test_a_flooding_client_is_not_read_while_the_router_is_slow_and_others_are_served(stack):
    async with await stack.json() as flood, await stack.json(groups=["calm"]) as calm:
        (connection,) = [c for c in stack.service.hubs if "calm" not in c.groups]
        text = masked(
            TEXT, b'{"type":"sendToGroup","group":"f","dataType":"text","data":"%b"}' % (b"x" * 100_000)
        )
        for _ in range(300):
            flood.send(text)
        for number in range(20):
            calm.say(send("calm", f"{number}"))
            assert await data(calm) == [f"{number}"]
            waiting = 0 if connection.waiting is None else len(connection.waiting)
            assert waiting < 100
            assert connection.in_flight_bytes < 3_000_000
        flood.say({"type": "ping"})
        while (await flood.frame())[1] != b'{"type":"pong"}':
            pass
        await until(lambda: connection.in_flight == 0)


# --- keep-alive ---


async def test_pings_come_at_the_hubs_interval_and_a_change_of_it_counts_at_once(stack):
    async with await stack.json(hub="lively") as client, await stack.json(hub="calm") as other:
        await stack.worker.settings.put_hub(
            "lively", HubSettings(web_socket_keep_alive_interval_in_seconds=1)
        )
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(3):
            assert await client.frame() == (PING, b"")
            client.send(masked(PONG))
        assert 1.5 < loop.time() - began < 6
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await other.frame()


async def test_a_half_open_peer_is_cut_after_three_silent_intervals_without_a_close_frame(stack):
    await stack.worker.settings.put_hub("short", HubSettings(web_socket_keep_alive_interval_in_seconds=1))
    timeouts = stack.service.closed["PingTimeout"]
    async with (
        await stack.json(hub="short", groups=["x"]) as silent,
        await stack.json(hub="short") as answering,
    ):
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def answer():
            while True:
                opcode, _ = await answering.frame()
                assert opcode == PING
                answering.send(masked(PONG))

        task = asyncio.create_task(answer())
        assert set(await silent.gone()) <= {0x89, 0}  # pings, and nothing else
        assert 2 < loop.time() - began < 7
        assert stack.service.closed["PingTimeout"] == timeouts + 1
        assert len(stack.service.hubs) == 1
        await asyncio.sleep(1.1)
        assert not task.done()
        task.cancel()


async def test_json_pings_keep_a_client_alive_that_answers_no_pings(stack):
    await stack.worker.settings.put_hub("short", HubSettings(web_socket_keep_alive_interval_in_seconds=1))
    async with await stack.client(hub="short", subprotocols=[JSON]) as client:
        for _ in range(10):
            client.say({"type": "ping"})
            await asyncio.sleep(0.5)
        client.say({"type": "joinGroup", "group": "g", "ackId": 1})
        while True:
            heard = await client.hear()
            if heard["type"] == "ack":
                break
