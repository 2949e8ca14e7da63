"""Handshakes over a real socket: every refusal, half handshakes, slow writers, clients that go meanwhile.

Client-protocols.md 1.1 to 1.8. What each header and parameter leads to is tested without sockets in
tests/unit/test_handshake.py.
"""

import asyncio
import json
import socket

import pytest
import pytest_asyncio
import uvloop
from support.stack import (
    JSON,
    KEY,
    PROTOBUF,
    SECONDARY,
    TEXT,
    Stack,
    masked,
    on_uvloop,
    until,
)
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway import front as front_module
from gateway.http_head import MAX_HEAD_BYTES
from gateway.settings import GatewayLimits
from hubwire.model.errors import Unavailable
from hubwire.model.settings import HubSettings

pytestmark = [pytest.mark.asyncio(loop_scope="module"), on_uvloop]


@pytest.fixture(scope="module")
def event_loop_policy():
    return uvloop.EventLoopPolicy()  # as in production


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory):
    async with Stack(tmp_path_factory.mktemp("stack"), limits=GatewayLimits(max_connections=20)) as one:
        yield one


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def nothing_is_left(stack):
    tasks = other_tasks()
    yield
    await stack.nothing_left()
    await until(lambda: other_tasks() <= tasks)


def other_tasks():
    return asyncio.all_tasks() - {asyncio.current_task()}


def path(stack, user=None, **more):
    return f"/client/hubs/chat?access_token={stack.token(user, **more)}"


# --- what is accepted ---


@pytest.mark.parametrize("key", [KEY, SECONDARY])
@pytest.mark.parametrize("form", ["/client/hubs/chat?", "/client/?hub=chat&", "/client?hub=CHAT&"])
async def test_both_keys_and_every_form_of_the_url_are_accepted(stack, form, key):
    url = f"ws://{stack.authority}{form}access_token={stack.token('alice', key=key)}"
    async with connect(url, subprotocols=[JSON]) as client:
        assert json.loads(await client.recv())["userId"] == "alice"


async def test_a_token_in_the_header_is_accepted(stack):
    headers = {"Authorization": f"Bearer {stack.token('bob')}"}
    url = f"ws://{stack.authority}/client/hubs/chat"
    async with connect(url, additional_headers=headers, subprotocols=[JSON]) as client:
        assert json.loads(await client.recv())["userId"] == "bob"


async def test_the_answer_has_the_subprotocol_in_the_clients_spelling_and_no_extension(stack):
    async with await stack.socket() as raw:
        offer = ["mine", "Protobuf.WebPubSub.azure.v1", JSON]
        raw.send(stack.request(path(stack), offer, headers=["Sec-WebSocket-Extensions: permessage-deflate"]))
        status, headers = await raw.head()
        assert status == 101
        assert headers["sec-websocket-protocol"] == "Protobuf.WebPubSub.azure.v1"
        assert "sec-websocket-extensions" not in headers


async def test_an_unknown_subprotocol_is_not_confirmed_and_the_client_is_a_simple_one(stack):
    async with await stack.socket() as raw:
        raw.send(stack.request(path(stack), ["mine"]))
        status, headers = await raw.head()
        assert status == 101
        assert "sec-websocket-protocol" not in headers
        raw.send(masked(TEXT, b"an event without a handler"))
        assert (await raw.closed())[0] == 1011


async def test_a_head_may_come_byte_by_byte(stack):
    async with await stack.socket() as raw:
        for byte in stack.request("/client/hubs/chat?access_token=x"):
            raw.send(bytes((byte,)))
            await raw.writer.drain()
        assert (await raw.head())[0] == 401


async def test_a_token_of_sixteen_kilobytes_fits(stack):
    async with await stack.client(extra={"filling": "x" * 12_000}) as raw:
        assert (await raw.hear())["event"] == "connected"


# --- what is refused ---


async def test_refusals_have_their_status_and_a_sentence(stack):
    upgrade = stack.request
    good = path(stack)
    for status, request in [
        (404, upgrade("/")),
        (404, upgrade("/api/hubs/chat/:send")),
        (404, upgrade("/client/other")),
        (400, upgrade(good, drop=["Upgrade"])),
        (400, upgrade(good, drop=["Sec-WebSocket-Key"])),
        (400, upgrade(good, drop=["Host"])),
        (400, upgrade(good).replace(b"GET", b"POST")),
        (400, upgrade(good).replace(b"HTTP/1.1", b"HTTP/1.0")),
        (400, b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03 hello in TLS\r\n\r\n"),
        (400, b"\r\n\r\nGET\r\n\r\n"),
        (400, upgrade(f"/client/hubs/1?{good.partition('?')[2]}")),
        (401, upgrade("/client/hubs/chat")),
        (401, upgrade(path(stack, key="x" * 44))),
        (401, upgrade(path(stack, now=0))),
        (401, upgrade(path(stack, hub="other"))),
        (401, upgrade(path(stack, endpoint="http://elsewhere"))),
        (400, upgrade(path(stack, groups=[" "]))),
        (400, upgrade(good + "&webpubsub_mode=x", [])),
        (431, upgrade(good + "&x=" + "y" * MAX_HEAD_BYTES)),
        (431, b"GET " + b"/" * 100_000),
    ]:
        found, headers, body = await stack.ask(request)
        assert found == status, (request[:100], body)
        assert headers["connection"] == "close"
        assert body.endswith(".\n")


async def test_what_a_client_writes_can_not_become_a_header_of_ours(stack):
    injected = "a%0d%0aX-Injected:%20yes"
    token = stack.token(hub="chat", groups=["g\r\nX-Injected: yes"], user=None)
    for target in (
        f"/client/hubs/{injected}?access_token={token}",
        f"/client/?hub={injected}&access_token={token}",
        f"/client/{injected}",
        f"/client/hubs/chat?awps_connection_id={injected}",
        f"/client/hubs/chat?access_token={token}&group={injected}",
    ):
        async with await stack.socket() as raw:
            raw.send(stack.request(target, [JSON, "a\tb", "é:x"]))
            _, headers = await raw.head()
            assert "x-injected" not in headers


async def test_a_polite_client_sees_the_status_of_a_refusal(stack):
    with pytest.raises(InvalidStatus) as caught:
        await connect(f"ws://{stack.authority}/client/hubs/chat", subprotocols=[JSON])
    assert caught.value.response.status_code == 401
    assert b"No access token" in caught.value.response.body


async def test_a_refused_client_that_goes_on_sending_still_gets_to_read_why(stack):
    """Closing with bytes unread resets the connection, and the answer is lost on its way."""
    async with await stack.socket() as raw:
        raw.send(b"POST /client/hubs/chat HTTP/1.1\r\nHost: h\r\n\r\n" + b"x" * 2_000_000)
        status, headers = await raw.head()
        assert status == 400
        assert "upgrade" in await raw.body(headers)


async def test_a_refused_socket_does_not_stay(stack, monkeypatch):
    monkeypatch.setattr("hubwire.runtime.linger.LINGER_SECONDS", 0.2)
    async with await stack.socket() as raw:
        raw.send(stack.request("/client/hubs/chat"))
        assert (await raw.head())[0] == 401
        await raw.gone()

        async def send_until_reset():
            while True:
                raw.send(b"still here")
                await raw.writer.drain()
                await asyncio.sleep(0.01)

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(send_until_reset(), 5)


@pytest.mark.parametrize("sent", [b"", b"GET /client/hubs/chat HT", b"GET / HTTP/1.1\r\nHost: h\r\n"])
async def test_a_head_that_does_not_come_in_time_is_408(stack, monkeypatch, sent):
    monkeypatch.setattr(front_module, "HEAD_SECONDS", 0.2)
    async with await stack.socket() as raw:
        raw.send(sent)
        assert (await raw.head())[0] == 408
    async with await stack.socket() as raw:  # and one that trickles is not better off
        request = stack.request(path(stack))
        for byte in request[:100]:
            raw.send(bytes((byte,)))
            await asyncio.sleep(0.005)
        assert (await raw.head())[0] == 408


async def test_a_client_that_goes_before_or_within_its_head_leaves_nothing(stack):
    request = stack.request(path(stack))
    for cut in (0, 1, 20, len(request) - 1):
        async with await stack.socket() as raw:
            raw.send(request[:cut])
            await raw.writer.drain()
            if cut % 2:
                raw.writer.write_eof()
                await raw.gone()


async def test_the_429_comes_at_the_limit_and_goes_when_somebody_leaves(stack):
    clients = [await stack.json() for _ in range(20)]
    status, headers, body = await stack.ask(stack.request(path(stack)))
    assert (status, body) == (429, "Too many connections.\n")
    assert headers["retry-after"] == "5"
    assert (await stack.ask(stack.request("/client/hubs/chat")))[0] == 401  # checked before
    clients.pop().close()
    await until(lambda: len(stack.service.hubs) == 19)
    clients.append(await stack.json())
    for client in clients:
        client.close()


async def test_the_limit_counts_those_once_that_are_being_admitted(stack):
    """A connection was counted as admitted and as being admitted, so that half the limit was the limit."""
    clients = await asyncio.gather(*(stack.json(groups=[f"g{n}"]) for n in range(20)))
    for client in clients:
        client.close()


# --- recovery of what is not there ---


@pytest.mark.parametrize("offer", [[JSON], ["json.reliable.webpubsub.azure.v1"], []])
async def test_a_recovery_is_upgraded_and_then_closed_with_1008(stack, offer):
    async with await stack.socket() as raw:
        raw.send(stack.request("/client/hubs/chat?awps_connection_id=x&access_token=bad", offer))
        status, headers = await raw.head()
        assert status == 101
        assert headers.get("sec-websocket-protocol") == (offer[0] if offer else None)
        assert (await raw.closed())[0] == 1008
    assert len(stack.service.hubs) == 0


# --- settings change live ---


async def test_the_anonymous_policy_counts_from_the_next_handshake_on(stack):
    request = stack.request("/client/hubs/changing")
    assert (await stack.ask(request))[0] == 401
    await stack.worker.settings.put_hub("changing", HubSettings(anonymous_connect_policy="allow"))
    async with await stack.socket() as raw:
        raw.send(request)
        assert (await raw.head())[0] == 101
        greeting = await raw.hear()
        assert greeting["userId"] is None
        await stack.worker.settings.put_hub("changing", HubSettings())
        assert (await stack.ask(request))[0] == 401
        raw.say({"type": "ping"})
        assert (await raw.hear())["type"] == "pong"


async def test_a_regenerated_key_refuses_the_old_tokens_and_the_other_key_goes_on(tmp_path):
    async with Stack(tmp_path) as stack:
        await stack.worker.settings.regenerate("Primary")
        assert (await stack.ask(stack.request(path(stack))))[0] == 401
        async with await stack.json(key=SECONDARY) as client:
            client.say({"type": "ping"})
            assert (await client.hear())["type"] == "pong"


# --- while the decision is made ---


class Held:
    """Owners confirm nothing until `release`."""

    def __init__(self, stack, monkeypatch):
        self.waiting = []
        real = stack.service.registrar.when_all_confirmed

        def hold(keys, confirmed):
            self.waiting.append((real, keys, confirmed))

        monkeypatch.setattr(stack.service.registrar, "when_all_confirmed", hold)

    async def some(self, count=1):
        await until(lambda: len(self.waiting) >= count)

    def release(self, error=None):
        for real, keys, confirmed in self.waiting:
            if error is not None:
                confirmed(error)
            else:
                real(keys, confirmed)
        self.waiting.clear()


@pytest.fixture
def held(stack, monkeypatch):
    return Held(stack, monkeypatch)


async def test_a_client_that_goes_during_the_decision_leaves_no_ghost(stack, held):
    for polite in (False, True):
        async with await stack.socket() as raw:
            raw.send(stack.request(path(stack, groups=["g"])))
            await held.some()
            assert len(stack.service.hubs) == 1
            if polite:
                raw.writer.write_eof()
            else:
                raw.close()
            await until(lambda: len(stack.service.hubs) == 0)
            held.release()


async def test_frames_that_come_during_the_decision_wait_and_too_many_are_not_read(stack, held):
    text = masked(TEXT, b'{"type":"ping"}')
    async with await stack.socket() as raw:
        raw.send(stack.request(path(stack)) + text * 200_000)
        await held.some()
        (front,) = stack.service.door.fronts
        await until(lambda: front._paused)
        assert len(front._buffer) < 1_000_000
        held.release()
        assert (await raw.head())[0] == 101
        assert (await raw.hear())["event"] == "connected"
        for _ in range(200_000 // 1000):
            for _ in range(1000):
                assert (await raw.frame())[1] == b'{"type":"pong"}'


async def test_a_registration_that_fails_is_503_and_leaves_nothing(stack, held):
    async with await stack.socket() as raw:
        raw.send(stack.request(path(stack, groups=["g"])))
        await held.some()
        held.release(Unavailable("No router answered in time."))
        status, headers = await raw.head()
        assert status == 503
        assert headers["retry-after"] == "1"
        assert await raw.body(headers) == "The cluster does not answer; try again.\n"


async def test_an_error_of_ours_is_500_without_details_and_leaves_nothing(stack, monkeypatch):
    monkeypatch.setattr(stack.service.registrar, "when_all_confirmed", lambda *_: 1 / 0)
    status, _, body = await stack.ask(stack.request(path(stack)))
    assert (status, body) == (500, "Internal error.\n")


async def test_a_decision_may_take_longer_than_a_head(stack, held, monkeypatch):
    """The timer of the head ran on: a slow decision was answered 408, and later 101 as well."""
    monkeypatch.setattr(front_module, "HEAD_SECONDS", 0.1)
    async with await stack.socket() as raw:
        raw.send(stack.request(path(stack)))
        await held.some()
        await asyncio.sleep(0.3)
        held.release()
        assert (await raw.head())[0] == 101


async def test_one_that_is_closed_by_rest_while_it_is_admitted_is_refused_and_not_half_open(stack, held):
    async with await stack.socket() as raw:
        raw.send(stack.request(path(stack)))
        await held.some()
        (connection,) = stack.service.hubs
        connection.close_administratively("Application server closed the connection.")
        held.release()
        assert (await raw.head())[0] == 503


async def test_what_is_published_during_the_decision_comes_never_before_connected(stack, held):
    async with await stack.socket() as raw, await stack.socket() as other:
        for one in (raw, other):
            one.send(stack.request(path(stack, groups=["g"])))
        await held.some(2)
        held.release()
        for one in (raw, other):
            assert (await one.head())[0] == 101
            assert (await one.hear())["event"] == "connected"
        other.say({"type": "sendToGroup", "group": "g", "data": 1})
        assert (await raw.hear())["data"] == 1


async def test_many_sockets_that_say_nothing_are_no_trouble_for_one_that_does(stack):
    idle = []
    for _ in range(300):
        one = socket.socket()
        one.connect(("127.0.0.1", stack.port))
        idle.append(one)
    try:
        async with await stack.client(subprotocols=[PROTOBUF]) as client:
            await client.frame()
    finally:
        for one in idle:
            one.close()
