"""What clients leave behind in a gateway: nothing, neither in memory nor in the log; and how it stops."""

import asyncio
import io
import json
import logging
import os
import random
import resource

import pytest
import structlog
import uvloop
from support.stack import (
    BINARY,
    CLOSE,
    JSON,
    PROTOBUF,
    TEXT,
    Stack,
    masked,
    on_uvloop,
    until,
)

from gateway.settings import GatewayLimits
from hubwire.bus.keys import group_key, hub_key, user_key
from hubwire.model.limits import MAX_MESSAGE_BYTES
from hubwire.runtime.logs import configure_logs

pytestmark = on_uvloop


@pytest.fixture
def event_loop_policy():
    return uvloop.EventLoopPolicy()  # as in production


@pytest.fixture
async def stack(tmp_path):
    async with Stack(tmp_path) as one:
        yield one


def other_tasks():
    return asyncio.all_tasks() - {asyncio.current_task()}


def memory() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def sockets() -> int:
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:
            pass
    return count


async def one_of_many(stack, number):
    """A short life, each of a different kind."""
    kind = number % 8
    if kind == 0:  # a refusal
        await stack.ask(stack.request("/client/hubs/chat?access_token=bad"))
        return
    if kind == 1:  # half a handshake
        async with await stack.socket() as raw:
            raw.send(b"GET /client/hubs/chat")
            await raw.writer.drain()
        return
    subprotocols = [[JSON], [PROTOBUF], []][number % 3]
    async with await stack.client(
        f"user{number % 50}", groups=[f"g{number % 20}", f"own{number}"], subprotocols=subprotocols
    ) as raw:
        if kind == 2:  # in the middle of everything
            if subprotocols == [JSON]:
                for ack_id in range(5):
                    raw.say({"type": "joinGroup", "group": f"j{number}", "ackId": ack_id})
            await raw.writer.drain()
        elif kind == 3:  # politely
            raw.send(masked(CLOSE, b"\x03\xe8"))
            await raw.gone()
        elif kind == 4:  # a violation
            raw.send(masked(3))
            await raw.gone()
        elif kind == 5:  # half-closed
            raw.writer.write_eof()
            await raw.gone()
        elif kind == 6:  # the wrong kind of frame, unless it is a simple client: then an event
            raw.send(masked(TEXT, b"{"))
            await raw.closed()
        # kind 7: gone without a word


async def test_after_a_thousand_clients_of_all_kinds_nothing_is_left(stack):
    service = stack.service
    tasks, open_sockets = other_tasks(), sockets()
    for start in range(0, 1040, 40):
        await asyncio.gather(*(one_of_many(stack, number) for number in range(start, start + 40)))
    await stack.nothing_left()
    await until(lambda: other_tasks() <= tasks)
    assert service.registrar._unconfirmed == {}
    assert service._command_tasks == set()
    await until(lambda: service.opened == sum(service.closed.values()))
    assert service.opened == 1040 * 6 // 8
    await until(lambda: service.registrar._unanswered == 0)
    await until(lambda: sockets() <= open_sockets)
    # The owners know it too: nobody is a member of anything any more.
    async with await stack.json(groups=["g1"]):
        assert service.registrar.membership.keys() == service.hubs.keys()
    await stack.nothing_left()


async def test_clients_that_come_and_go_cost_no_memory(stack):
    async def some():
        for _ in range(10):
            clients = [await stack.json(groups=["g"]) for _ in range(50)]
            for client in clients:
                client.close()
        await stack.nothing_left()

    for _ in range(3):
        await some()
    before = memory()
    for _ in range(3):
        await some()
    assert memory() - before < 3_000_000


async def test_a_large_message_costs_an_idle_connection_nothing(stack):
    """The parser's buffer stayed at two megabytes: a hundred such clients would make 200."""
    clients = [await stack.json() for _ in range(100)]
    text = b'{"type":"sendToGroup","group":"nobody","ackId":1,"dataType":"text","data":"'
    message = masked(TEXT, text + b"x" * (MAX_MESSAGE_BYTES - len(text) - 2) + b'"}')

    async def say_large(client):
        client.send(message)
        assert (await client.hear())["success"]

    for client in clients[:5]:
        await say_large(client)
    before = memory()
    for client in clients[5:]:
        await say_large(client)
    assert memory() - before < 30_000_000
    for client in clients:
        client.close()


async def test_a_connection_that_is_lost_is_no_member_of_its_groups_any_more(stack):
    async with await stack.json(groups=["g"]):
        assert stack.service.registrar.membership.keys() >= {group_key("chat", "g")}
    await stack.nothing_left()


# --- logs ---


@pytest.fixture
def logged():
    stream = io.StringIO()
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    configure_logs("debug", "json", stream=stream)
    yield stream
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


async def test_no_token_and_no_payload_is_logged_whatever_happens(logged, tmp_path, monkeypatch):
    secret = "SECRETPAYLOAD"
    async with Stack(tmp_path, limits=GatewayLimits(outbox_bytes=50_000)) as stack:
        tokens = [stack.token("alice", groups=["g"]), stack.token("alice", key="z" * 44), secret]
        for token in tokens:
            async with await stack.socket() as raw:
                raw.send(stack.request(f"/client/hubs/chat?access_token={token}&x={secret}"))
                await raw.head()
                raw.send(masked(TEXT, b'{"type":"event","event":"e","data":"%b"}' % secret.encode()))
                raw.send(masked(TEXT, b'{"type":"%b"' % secret.encode()) + masked(CLOSE))
                await raw.gone()
        for frames in (
            masked(3, secret.encode()),
            masked(CLOSE, b"\x00\x00" + secret.encode()),
            masked(CLOSE, b"\x03\xe8" + secret.encode()),
            masked(BINARY, secret.encode()),
            masked(TEXT, secret.encode() + b"\xff"),
            masked(TEXT, json.dumps({"type": "sendToGroup", "group": secret, "data": secret}).encode()),
        ):
            async with await stack.client("alice") as raw:
                raw.send(frames + masked(3))
                await raw.closed()
        async with await stack.json("alice", groups=["g"]) as raw:
            monkeypatch.setattr(stack.service, "publish", lambda *_: {}[secret])
            raw.say({"type": "sendToGroup", "group": "g", "data": "x"})
            assert (await raw.closed())[0] == 1011
        stack.service._arrived("s", "", b"\x94\x01" + secret.encode())
        stack.service.delivery.envelopes([[secret], [0, 0, "s", 1, group_key("chat", "g"), secret.encode()]])
    lines = logged.getvalue()
    assert "connection_failed" in lines  # the log was on
    for token in tokens[:2]:
        assert token not in lines
        assert token.split(".")[2] not in lines
    # The traceback of our own bug above quotes it; nothing else may.
    assert [line for line in lines.splitlines() if secret in line and "KeyError" not in line] == []


async def test_a_role_that_means_nothing_is_ignored_and_told_once(logged, tmp_path):
    async with Stack(tmp_path) as stack:
        for _ in range(3):
            async with await stack.json(roles=["webpubsub.sendToGroup.ok", "webpubsub.fly"]) as client:
                client.say({"type": "sendToGroup", "group": "ok", "data": 1, "ackId": 1})
                assert (await client.hear())["success"]
    assert logged.getvalue().count("webpubsub.fly") == 1


# --- stopping ---


async def test_a_planned_stop_tells_every_client_to_go_and_closes_with_1001(tmp_path):
    async with Stack(tmp_path) as stack:
        tasks = other_tasks()
        clients = [await stack.json(groups=["g"]) for _ in range(150)]
        simple = await stack.client(subprotocols=[])
        half = await stack.socket()
        half.send(b"GET /cl")
        await until(lambda: stack.service.door.fronts)
        stopping = asyncio.create_task(stack.stop_gateway())
        for client in clients:
            opcode, payload = await client.frame()
            assert (opcode, json.loads(payload)["event"]) == (TEXT, "disconnected")
            assert await client.frame() == (CLOSE, b"\x03\xe9")
            client.send(masked(CLOSE, b"\x03\xe9"))
            assert await client.gone() == b""
        assert await simple.frame() == (CLOSE, b"\x03\xe9")
        simple.send(masked(CLOSE, b"\x03\xe9"))
        assert await half.gone() == b""
        await stopping
        assert stack.service.registrar._unanswered == 0  # the owners have every leave
        await stack.nothing_left()
        await until(lambda: not (other_tasks() - tasks))


async def test_clients_that_do_not_answer_do_not_hold_up_the_stop(tmp_path):
    async with Stack(tmp_path, drain_seconds=0.5) as stack:
        clients = [await stack.json() for _ in range(5)]
        loop = asyncio.get_running_loop()
        began = loop.time()
        await stack.stop_gateway()
        assert loop.time() - began < 3
        for client in clients:
            assert (await client.closed())[0] == 1001


async def test_a_stop_without_time_still_says_why(tmp_path):
    async with Stack(tmp_path, drain_seconds=0.0) as stack:
        client = await stack.json()
        await stack.stop_gateway()
        assert (await client.closed())[0] == 1001


async def test_a_handshake_while_it_stops_is_503_or_refused(tmp_path):
    async with Stack(tmp_path) as stack:
        stack.service.door.draining = True
        status, headers, _ = await stack.ask(stack.request(f"/client/hubs/chat?access_token={stack.token()}"))
        assert (status, headers["retry-after"]) == (503, "1")


# --- anything at all ---


@pytest.mark.parametrize("seed", range(8))
async def test_random_bytes_before_and_after_the_handshake_end_nothing_and_leave_nothing(stack, seed):
    chance = random.Random(seed)
    tasks = other_tasks()
    pieces = [
        masked(TEXT, b'{"type":"joinGroup","group":"g","ackId":1}'),
        masked(TEXT, b'{"type":"sendToGroup","group":"g","data":[1]}'),
        masked(TEXT, b'{"type":"sendTo', fin=False),
        masked(0, b'Group","group":"g","data":{}}'),
        masked(9, b"ping"),
        masked(8, b"\x03\xe8"),
        masked(BINARY, b"\x0a\x05\x0a\x01g\x1a\x00"),
        b"\r\n\r\n",
    ]

    def nonsense():
        choice = chance.random()
        if choice < 0.4:
            return chance.choice(pieces)
        if choice < 0.7:
            piece = bytearray(chance.choice(pieces))
            piece[chance.randrange(len(piece))] ^= 1 << chance.randrange(8)
            return bytes(piece)
        return chance.randbytes(chance.randrange(300))

    async def attack():
        raw = await stack.socket()
        async with raw:
            target = f"/client/hubs/chat?access_token={stack.token('u', groups=['g'])}"
            head = bytearray(stack.request(target, chance.choice([[JSON], [PROTOBUF], []])))
            if chance.random() < 0.3:
                head[chance.randrange(len(head))] ^= 1 << chance.randrange(8)
            raw.send(bytes(head))
            for _ in range(chance.randrange(12)):
                raw.send(nonsense())
                if chance.random() < 0.3:
                    await asyncio.sleep(0)
            if chance.random() < 0.5:
                try:
                    async with asyncio.timeout(0.05):
                        await raw.reader.read()
                except (TimeoutError, ConnectionError):
                    pass

    for _ in range(6):
        await asyncio.gather(*(attack() for _ in range(25)))
    async with await stack.json(groups=["g"]) as client:
        client.say({"type": "sendToGroup", "group": "g", "data": "alive", "ackId": 1})
        heard = [await client.hear() for _ in range(2)]
        assert {"type": "ack", "ackId": 1, "success": True} in heard
    await stack.nothing_left()
    await until(lambda: other_tasks() <= tasks)
    assert stack.service.closed["ServiceTransientError"] == 0  # no error of ours


async def test_a_client_in_very_many_groups_leaves_them_a_few_at_a_time(stack, monkeypatch):
    client = await stack.json("alice", groups=[f"group{number}" for number in range(1000)])
    bob = await stack.json("bob")
    (alice,) = [c for c in stack.service.hubs if c.user_id == "alice"]
    turns, leave = [0], stack.service.registrar.leave

    def noted(key):
        if turns[-1] == 0:
            asyncio.get_running_loop().call_soon(turns.append, 0)
        turns[-1] += 1
        leave(key)

    monkeypatch.setattr(stack.service.registrar, "leave", noted)
    client.close()
    await until(lambda: sum(turns) == 1001)  # and the user
    assert max(turns) <= 200
    assert len(alice.groups) == 1000
    left = stack.service.registrar.membership.keys()
    assert left == {hub_key("chat"), user_key("chat", "bob")}
    bob.close()


async def test_joining_very_many_groups_by_rest_lets_others_have_their_turn(stack):
    alice = await stack.json("alice")
    turns = 0

    def turn():
        nonlocal turns
        turns += 1
        loop.call_soon(turn)

    loop = asyncio.get_running_loop()
    join, seen = stack.service.commands._join, []

    def noted(connection, group, done):
        seen.append(turns)
        join(connection, group, done)

    stack.service.commands._join = noted
    loop.call_soon(turn)
    groups = [f"group{number}" for number in range(1000)]
    await stack.service.commands.run("join", ["chat", "user", "alice", groups, None])
    assert max(seen.count(one) for one in seen) <= 200
    assert len(next(iter(stack.service.hubs)).groups) == 1000
    alice.close()
