"""Event handlers as clients see them: real application servers, real clients, a real router between.

Server-events.md 1.4, 3 and 4; client-protocols.md 1.4 to 1.7, 3.5 and 6. What an answer means by itself
is tested in tests/unit/test_upstream_answers.py; here it is what becomes of the client.
"""

import asyncio
import itertools
import json
import time

import pytest
import pytest_asyncio
import uvloop
from aiohttp import web
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
from support.upstreams import app_server
from support.webpubsub_proto import DownstreamMessage, UpstreamMessage

import gateway.app
from gateway.settings import GatewayLimits, upstream_config
from gateway.upstream.outcome import DeliveryFailure
from hubwire.model.settings import EventHandler, HubSettings

pytestmark = [pytest.mark.asyncio(loop_scope="module"), on_uvloop]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def event_loop_policy():
    return uvloop.EventLoopPolicy()  # as in production


def without_repeats(patch):
    """The pauses of 4.8 would only make the tests wait: that they happen is tested elsewhere."""
    patch.setattr(
        gateway.app, "upstream_config", lambda config: upstream_config(config)._replace(retry_seconds=())
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        without_repeats(patch)
        async with Stack(tmp_path_factory.mktemp("stack"), upstream_addresses="any") as one:
            yield one


@pytest_asyncio.fixture(loop_scope="module")
async def app():
    async with app_server() as one:
        yield one


@pytest.fixture
def hub():
    """A hub of the test's own."""
    return f"hub{next(_numbers)}"


def asks(app, pattern="*", system=("connect",)):
    return EventHandler(app.base + "/hooks/{hub}/{event}", pattern, system)


async def settle(stack, hub, *handlers, **more):
    """Give the hub these handlers, and wait until the gateway has them."""
    settings = HubSettings(event_handlers=handlers, **more)
    await stack.worker.settings.put_hub(hub, settings)
    await until(lambda: stack.worker.settings.hub(hub) == settings)


def answering(status=200, body=b"", content_type=None, headers=None):
    async def answer(_request):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        more = {"Content-Type": content_type} if content_type else {}
        return web.Response(status=status, body=data or None, headers={**(headers or {}), **more})

    return answer


class Gate:
    """An answer that waits until the test lets it go. `asked` counts who waits."""

    def __init__(self, status=204):
        self.open = asyncio.Event()
        self.asked = 0
        self.status = status

    async def __call__(self, _request):
        self.asked += 1
        await self.open.wait()
        return web.Response(status=self.status)


def connection(stack, hub):
    """The only connection of the hub."""
    (one,) = [each for each in stack.service.hubs if each.hub == hub]
    return one


async def handshake(stack, hub, subprotocols=(JSON,), *, user="ada", query="", headers=(), **token):
    """A client that has sent its request: the socket."""
    raw = await stack.socket()
    target = f"/client/hubs/{hub}?access_token={stack.token(user, hub=hub, **token)}{query}"
    raw.send(stack.request(target, subprotocols, headers=headers))
    return raw


# -- connect: accepted (4.2) ---------------------------------------------------------------------------

ROLES = ["webpubsub.sendToGroup.a"]


@pytest.mark.parametrize(
    ("answer", "user", "roles", "groups"),
    [
        (answering(204), "ada", "a", {"g1"}),
        (answering(200), "ada", "a", {"g1"}),
        (answering(200, b"null"), "ada", "a", {"g1"}),
        (answering(200, {}), "ada", "a", {"g1"}),
        (answering(200, {"userId": None, "roles": None, "groups": None}), "ada", "a", {"g1"}),
        (answering(200, {"userId": "bob"}), "bob", "a", {"g1"}),
        (answering(200, {"userId": "用户"}), "用户", "a", {"g1"}),
        (answering(200, {"userId": ""}), None, "a", {"g1"}),
        (answering(200, {"groups": ["g2", "g3"]}), "ada", "a", {"g2", "g3"}),
        (answering(200, {"groups": []}), "ada", "a", {"g1"}),
        (answering(200, {"roles": ["webpubsub.sendToGroup.b"]}), "ada", "b", {"g1"}),
        (answering(200, {"roles": []}), "ada", "", {"g1"}),
        (answering(200, {"GROUPS": ["g2"], "extra": 1}, "text/plain"), "ada", "a", {"g2"}),
    ],
)
async def test_an_accepted_client_is_what_the_answer_makes_of_it(
    stack, app, hub, answer, user, roles, groups
):
    await settle(stack, hub, asks(app))
    app.answer = answer
    async with await handshake(stack, hub, roles=ROLES, groups=["g1"]) as raw:
        status, headers = await raw.head()
        assert (status, headers["sec-websocket-protocol"]) == (101, JSON)
        connected = await raw.hear()
        assert connected.get("userId") == user
        one = connection(stack, hub)
        assert (one.user_id, one.groups) == (user, groups)
        assert [name for name in "ab" if one.permissions.can_send(name)] == list(roles)
        (seen,) = app.seen
        assert seen.value("ce-connectionId").decode() == connected["connectionId"]
        # It is reached by what it is now.
        await stack.service.commands.close(hub, "group", min(groups), (), None)
        assert (await raw.hear())["event"] == "disconnected"


@pytest.mark.parametrize(
    ("offered", "answer", "echo", "speaks"),
    [
        ([JSON, PROTOBUF], {}, JSON, JSON),
        ([JSON, PROTOBUF], {"subprotocol": PROTOBUF}, PROTOBUF, PROTOBUF),
        (["mine", JSON], {"subprotocol": "mine"}, "mine", ""),
        (["mine"], {"subprotocol": "mine"}, "mine", ""),
        (["mine"], {}, None, ""),
        ([], {}, None, ""),
        ([], {"subprotocol": "mine"}, None, ""),
    ],
)
async def test_the_answer_chooses_the_subprotocol_among_those_offered(
    stack, app, hub, offered, answer, echo, speaks
):
    await settle(stack, hub, asks(app))
    app.answer = answering(200, answer)
    async with await handshake(stack, hub, offered) as raw:
        status, headers = await raw.head()
        assert (status, headers.get("sec-websocket-protocol")) == (101, echo)
        assert connection(stack, hub).codec.name == speaks
        app.answer = answering(204)
        if speaks:
            await raw.frame()
            event = UpstreamMessage(event_message={"event": "e", "data": {"text_data": "x"}})
            raw.send(masked(BINARY, event.SerializeToString())) if speaks == PROTOBUF else raw.say(
                {"type": "event", "event": "e", "data": 1}
            )
        else:
            raw.send(masked(TEXT, b"hello"))
        await until(lambda: len(app.seen) == 2)
        assert app.seen[1].value("ce-subprotocol") == (echo.encode() if echo else None)


async def test_a_client_that_becomes_a_simple_one_has_its_mode_of_the_query(stack, app, hub):
    await settle(stack, hub, asks(app))
    app.answer = answering(200, {"subprotocol": "mine"})
    query = "&webpubsub_mode=sendToGroup&group=g&noEcho=true"
    async with await handshake(stack, hub, [JSON, "mine"], query=query) as raw:
        assert (await raw.head())[0] == 101
        assert (connection(stack, hub).mode.group, connection(stack, hub).mode.no_echo) == ("g", True)
    async with await handshake(stack, hub, [JSON, "mine"], query="&webpubsub_mode=what") as raw:
        assert (await raw.head())[0] == 400


async def test_the_application_server_is_told_who_wants_in(stack, app, hub):
    await settle(stack, hub, asks(app))
    headers = ["Authorization: Bearer x", "Cookie: a=b", "User-Agent: shop/2.1"]
    query = "&tab=3&tab=4"
    async with await handshake(stack, hub, [JSON, "mine"], query=query, headers=headers) as raw:
        assert (await raw.head())[0] == 101
    (seen,) = app.seen
    assert seen.target == f"/hooks/{hub}/connect"
    assert (seen.value("ce-id"), seen.value("ce-userId"), seen.value("ce-hub")) == (
        b"0",
        b"ada",
        hub.encode(),
    )
    assert seen.value("ce-subprotocol") is None
    assert seen.value("WebHook-Request-Origin") == b"127.0.0.1"
    body = json.loads(seen.body)
    assert body["claims"]["sub"] == ["ada"]
    assert body["query"] == {"tab": ["3", "4"]}
    assert body["subprotocols"] == [JSON, "mine"]
    assert body["headers"]["Cookie"] == ["a=b"]
    assert body["headers"]["User-Agent"] == ["shop/2.1"]
    assert "Authorization" not in body["headers"]
    assert stack.token("ada", hub=hub).split(".")[0] not in seen.body.decode()


async def test_a_client_without_a_token_is_decided_upon_too(stack, app, hub):
    await settle(stack, hub, asks(app), anonymous_connect_policy="allow")
    app.answer = answering(200, {"userId": "guest", "groups": ["lobby"]})
    async with await stack.socket() as raw:
        raw.send(stack.request(f"/client/hubs/{hub}"))
        assert (await raw.head())[0] == 101
        assert (await raw.hear())["userId"] == "guest"
        assert connection(stack, hub).groups == {"lobby"}
    assert app.seen[0].value("ce-userId") is None
    assert json.loads(app.seen[0].body)["claims"] == {}


async def test_who_is_refused_already_is_not_asked_about(stack, app, hub):
    await settle(stack, hub, asks(app))
    assert (await stack.ask(stack.request(f"/client/hubs/{hub}?access_token=x")))[0] == 401
    assert (await stack.ask(stack.request(f"/client/hubs/{hub}")))[0] == 401
    async with await handshake(stack, hub, query="&awps_connection_id=x") as raw:  # nor who recovers
        assert (await raw.head())[0] == 101
        assert (await raw.closed())[0] == 1008
    assert app.seen == []


# -- connect: refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 499])
async def test_a_refusal_reaches_the_client_with_its_words(stack, app, hub, status):
    await settle(stack, hub, asks(app))
    app.answer = answering(
        status, b'{"no": "way"}', "application/json", {"WWW-Authenticate": "x", "Set-Cookie": "y"}
    )
    async with await handshake(stack, hub) as raw:
        found, headers = await raw.head()
        assert (found, headers["content-type"]) == (status, "application/json")
        assert await raw.body(headers) == '{"no": "way"}'
        assert not {"www-authenticate", "set-cookie"} & set(headers)
    assert [each for each in stack.service.hubs if each.hub == hub] == []


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (answering(500, b"stack trace"), 500),
        (answering(503, b"stack trace"), 503),
        (answering(302, headers={"Location": "/elsewhere"}), 500),
        (answering(200, b"{"), 500),
        (answering(200, {"groups": [" "]}), 500),
        (answering(200, {"roles": [None]}), 500),
        (answering(200, {"subprotocol": "other"}), 500),
    ],
)
async def test_a_failed_connect_tells_the_client_nothing_but_its_status(stack, app, hub, answer, status):
    await settle(stack, hub, asks(app))
    app.answer = answer
    async with await handshake(stack, hub) as raw:
        found, headers = await raw.head()
        assert found == status
        assert "stack trace" not in await raw.body(headers)
    failure = stack.worker.upstream.failures.latest()[0]
    assert (failure.hub, failure.event, failure.told) == (hub, "connect", f"HTTP {status}")


async def test_an_application_server_that_is_not_there_or_does_not_agree_refuses_with_500(stack, app, hub):
    app.allow = "other.example"
    await settle(stack, hub, asks(app))
    async with await handshake(stack, hub) as raw:
        assert (await raw.head())[0] == 500
    await settle(stack, hub, EventHandler("http://127.0.0.1:1/{event}", None, ("connect",)))
    async with await handshake(stack, hub) as raw:
        assert (await raw.head())[0] == 500
    assert app.seen == []


async def test_a_client_that_leaves_while_it_is_decided_upon_leaves_nothing(stack, app, hub):
    await settle(stack, hub, asks(app))
    gate = app.answer = Gate()
    raw = await handshake(stack, hub, groups=["g"])
    await until(lambda: gate.asked)
    assert len(stack.service.events.connecting) == 1
    raw.close()
    await until(lambda: not stack.service.events.connecting)
    assert all(each.pending == 0 for each in stack.worker.upstream.upstreams())
    failures = stack.worker.upstream.failures.latest()
    assert hub not in [each.hub for each in failures], "it is nobody's failure"
    gate.open.set()
    await stack.nothing_left()


async def test_who_waits_for_a_decision_counts_against_the_limit(tmp_path):
    async with (
        Stack(tmp_path, limits=GatewayLimits(max_connections=1), upstream_addresses="any") as stack,
        app_server() as app,
    ):
        await settle(stack, "chat", asks(app))
        gate = app.answer = Gate()
        async with await handshake(stack, "chat") as raw:
            await until(lambda: gate.asked)
            async with await handshake(stack, "chat") as second:
                assert (await second.head())[0] == 429
            gate.open.set()
            assert (await raw.head())[0] == 101
        assert len(app.seen) == 1


async def test_a_cluster_calls_no_private_address_unless_told_so(tmp_path):
    async with Stack(tmp_path) as stack, app_server() as app:
        await settle(stack, "chat", asks(app))
        async with await handshake(stack, "chat") as raw:
            assert (await raw.head())[0] == 500
        assert "private" in stack.worker.upstream.failures.latest()[0].reason
        assert (app.seen, app.validations) == ([], [])


# -- user events: answers (4.5) ------------------------------------------------------------------------

ANSWERS = [
    ("text/plain", b"hi", TEXT, {"dataType": "text", "data": "hi"}),
    ("text/plain; charset=utf-8", "grüße".encode(), TEXT, {"dataType": "text", "data": "grüße"}),
    ("application/json", b'{"a": [1, null]}', TEXT, {"dataType": "json", "data": {"a": [1, None]}}),
    ("application/octet-stream", b"\0\xff", BINARY, {"dataType": "binary", "data": "AP8="}),
]


@pytest.mark.parametrize(("content_type", "body", "_opcode", "expected"), ANSWERS)
async def test_the_answer_reaches_a_json_client_before_its_ack(
    stack, app, hub, content_type, body, _opcode, expected
):
    await settle(stack, hub, asks(app))
    async with await stack.json("ada", hub=hub) as client:
        app.answer = answering(200, body, content_type)
        client.say({"type": "event", "event": "order.created", "data": {"sku": "a1"}, "ackId": 7})
        assert await client.hear() == {"type": "message", "from": "server", **expected}
        assert await client.hear() == {"type": "ack", "ackId": 7, "success": True}
    seen = app.seen[-1]
    assert seen.target == f"/hooks/{hub}/order.created"
    assert (seen.value("content-type"), seen.body) == (b"application/json", b'{"sku": "a1"}')
    assert seen.value("ce-type") == b"azure.webpubsub.user.order.created"


@pytest.mark.parametrize(("content_type", "body", "opcode", "_expected"), ANSWERS)
async def test_the_answer_reaches_a_simple_client_as_a_frame(
    stack, app, hub, content_type, body, opcode, _expected
):
    await settle(stack, hub, asks(app))
    async with await stack.client("ada", hub=hub, subprotocols=[]) as client:
        app.answer = answering(200, body, content_type)
        for kind, payload in ((TEXT, b'{"type":"ping"}'), (BINARY, b"\0\1")):
            client.send(masked(kind, payload))
            assert await client.frame() == (opcode, body)
    text, binary = app.seen[-2:]
    assert (text.value("ce-eventName"), text.body) == (b"message", b'{"type":"ping"}')
    assert (binary.value("content-type"), binary.body) == (b"application/octet-stream", b"\0\1")


@pytest.mark.parametrize(
    ("content_type", "body", "member", "value"),
    [
        ("text/plain", b"hi", "text_data", "hi"),
        ("application/json", b'{"a":1}', "json_data", '{"a":1}'),
        ("application/octet-stream", b"\0\xff", "binary_data", b"\0\xff"),
    ],
)
async def test_the_answer_reaches_a_protobuf_client(stack, app, hub, content_type, body, member, value):
    await settle(stack, hub, asks(app))
    async with await stack.client("ada", hub=hub, subprotocols=[PROTOBUF]) as client:
        await client.frame()
        app.answer = answering(200, body, content_type)
        event = UpstreamMessage(event_message={"event": "e", "ack_id": 3, "data": {"binary_data": b"\1"}})
        client.send(masked(BINARY, event.SerializeToString()))
        message, ack = [DownstreamMessage.FromString((await client.frame())[1]) for _ in range(2)]
        assert getattr(message.data_message.data, member) == value
        assert getattr(message.data_message, "from") == "server"
        assert (ack.ack_message.ack_id, ack.ack_message.success) == (3, True)
    assert (app.seen[-1].value("content-type"), app.seen[-1].body) == (b"application/octet-stream", b"\1")


async def test_protobuf_goes_there_and_back(stack, app, hub):
    await settle(stack, hub, asks(app))
    async with await stack.client("ada", hub=hub, subprotocols=[PROTOBUF]) as client:
        await client.frame()
        message = UpstreamMessage(event_message={"event": "e"})
        message.event_message.data.protobuf_data.type_url = "t"
        anything = message.event_message.data.protobuf_data.SerializeToString()
        app.answer = answering(200, anything, "application/x-protobuf")
        client.send(masked(BINARY, message.SerializeToString()))
        answer = DownstreamMessage.FromString((await client.frame())[1])
        assert answer.data_message.data.protobuf_data.SerializeToString() == anything
    assert (app.seen[-1].value("content-type"), app.seen[-1].body) == (b"application/x-protobuf", anything)


@pytest.mark.parametrize("status", [204, 200, 202])
async def test_an_answer_without_a_body_is_only_an_ack(stack, app, hub, status):
    await settle(stack, hub, asks(app))
    async with await stack.json("ada", hub=hub) as client:
        app.answer = answering(status, b"", "application/octet-stream")
        client.say({"type": "event", "event": "e", "data": 1})
        client.say({"type": "event", "event": "e", "data": 1, "ackId": 1})
        assert await client.hear() == {"type": "ack", "ackId": 1, "success": True}


async def test_metadata_goes_there_and_back(stack, app, hub):
    await settle(stack, hub, asks(app))
    async with await stack.json("ada", hub=hub) as client:
        app.answer = answering(200, b"", None, {"X-WebPubSub-Metadata-Trace": "t2"})
        client.say({"type": "event", "event": "e", "data": 1, "metadata": {"Trace": "t1"}, "ackId": 1})
        message = await client.hear()
        assert (message["metadata"], message["dataType"], message["data"]) == ({"trace": "t2"}, "text", "")
        assert (await client.hear())["success"] is True
    assert app.seen[-1].value("x-webpubsub-metadata-trace") == b"t1"


async def test_a_large_answer_is_delivered(stack, app, hub):
    await settle(stack, hub, asks(app))
    async with await stack.client("ada", hub=hub, subprotocols=[]) as client:
        app.answer = answering(200, b"x" * 3_000_000)
        client.send(masked(TEXT, b"y" * 1_000_000))
        assert await client.frame() == (BINARY, b"x" * 3_000_000)


# -- user events: failures (4.6) -----------------------------------------------------------------------

FAILED = {
    "type": "ack",
    "success": False,
    "error": {"name": "InternalServerError", "message": "Internal server error"},
}


@pytest.mark.parametrize(
    "answer",
    [
        answering(500, b"stack trace"),
        answering(401, b"stack trace"),
        answering(302, headers={"Location": "/"}),
        answering(200, b"<p>", "text/html"),
        answering(200, b"{", "application/json"),
        answering(200, b"\xff", "text/plain"),
    ],
)
async def test_a_failed_event_is_a_failed_ack_and_may_be_tried_again(stack, app, hub, answer):
    await settle(stack, hub, asks(app))
    async with await stack.json("ada", hub=hub) as client:
        app.answer = answer
        client.say({"type": "event", "event": "e", "data": 1})  # of which nothing is heard
        client.say({"type": "event", "event": "e", "data": 1, "ackId": 1})
        assert await client.hear() == {**FAILED, "ackId": 1}
        app.answer = answering(204)
        client.say({"type": "event", "event": "e", "data": 1, "ackId": 1})
        assert await client.hear() == {"type": "ack", "ackId": 1, "success": True}
        asked = len(app.seen)
        client.say({"type": "event", "event": "e", "data": 1, "ackId": 1})
        assert (await client.hear())["error"]["name"] == "Duplicate"
        assert len(app.seen) == asked
    told = [each.told for each in stack.worker.upstream.failures.latest() if each.hub == hub]
    assert sorted(told) == ["failed ack", "nothing"]


async def test_a_simple_client_is_closed_when_its_event_fails(stack, app, hub):
    await settle(stack, hub, asks(app))
    async with await stack.client("ada", hub=hub, subprotocols=[]) as client:
        app.answer = answering(500, b"stack trace")
        client.send(masked(TEXT, b"a") + masked(TEXT, b"b"))
        assert await client.closed() == (1011, "The message could not be handled.")
        assert [seen.body for seen in app.seen[1:]] == [b"a"]
    assert stack.service.closed["SendEventFailed"] >= 1


PUBSUB_FAILURES = [
    ("ping", 500, "The message could not be handled.", "SendEventFailed", "status"),
    ("other", 204, "No event handler is there for this message.", "EventHandlerNotFound", "no_handler"),
]


@pytest.mark.parametrize("ack_id", [None, 1])
@pytest.mark.parametrize("subprotocol", [JSON, PROTOBUF])
@pytest.mark.parametrize(("name", "status", "why", "category", "cause"), PUBSUB_FAILURES)
async def test_a_hub_may_have_clients_closed_whose_event_fails(
    stack, app, hub, subprotocol, ack_id, name, status, why, category, cause
):
    """A `disconnected` message, then 1011, and no ack: it would say that the connection stays (4.6)."""
    await settle(stack, hub, asks(app, "ping"), close_on_event_failure=True)
    closed = stack.service.closed[category]
    async with await stack.client("ada", hub=hub, subprotocols=[subprotocol]) as client:
        await client.frame()
        app.answer = answering(204)
        say_event(client, subprotocol, "ping", 7)
        await client.frame()  # a good event's ack: it stays
        app.answer = answering(status, b"stack trace" if status == 500 else b"")
        say_event(client, subprotocol, name, ack_id)
        say_event(client, subprotocol, "ping", 8)  # too late
        opcode, payload = await client.frame()
        if subprotocol == JSON:
            assert (opcode, json.loads(payload)) == (
                TEXT,
                {"type": "system", "event": "disconnected", "message": why},
            )
        else:
            told = DownstreamMessage.FromString(payload).system_message.disconnected_message
            assert (opcode, told.reason) == (BINARY, why)
        assert await client.frame() == (CLOSE, (1011).to_bytes(2, "big"))
    assert stack.service.closed[category] == closed + 1
    assert len(app.seen) == (3 if cause == "status" else 2)  # with `connect`
    found = [each for each in stack.worker.upstream.failures.latest() if each.hub == hub]
    assert [(each.category, each.told) for each in found] == [(cause, "closed 1011")]


async def test_closing_clients_whose_event_fails_begins_and_ends_with_the_next_event(stack, app, hub):
    async with await stack.json("ada", hub=hub) as client:
        client.say({"type": "event", "event": "e", "data": 1, "ackId": 1})
        assert await client.hear() == {**FAILED, "ackId": 1}
        await settle(stack, hub, close_on_event_failure=True)
        await settle(stack, hub)
        client.say({"type": "event", "event": "e", "data": 1, "ackId": 2})
        assert await client.hear() == {**FAILED, "ackId": 2}
        await settle(stack, hub, close_on_event_failure=True)
        client.say({"type": "event", "event": "e", "data": 1, "ackId": 3})
        assert (await client.hear())["event"] == "disconnected"
        assert (await client.closed())[0] == 1011


def say_event(client, subprotocol, name, ack_id):
    if subprotocol == JSON:
        more = {} if ack_id is None else {"ackId": ack_id}
        client.say({"type": "event", "event": name, "data": 1, **more})
        return
    event = {"event": name, "data": {"text_data": "x"}} | ({} if ack_id is None else {"ack_id": ack_id})
    client.send(masked(BINARY, UpstreamMessage(event_message=event).SerializeToString()))


async def test_an_event_that_no_handler_wants_fails(stack, app, hub):
    await settle(stack, hub, asks(app, "ping, PONG"))
    async with await stack.json("ada", hub=hub) as client:
        for ack_id, name, success in ((1, "pong", True), (2, "other", False), (3, "Ping", True)):
            client.say({"type": "event", "event": name, "data": 1, "ackId": ack_id})
            assert (await client.hear())["success"] is success
        assert [seen.value("ce-id") for seen in app.seen] == [b"0", b"2", b"4"]  # 1 is `connected`
    async with await stack.client("ada", hub=hub, subprotocols=[]) as simple:
        simple.send(masked(TEXT, b"a"))
        assert (await simple.closed())[0] == 1011
    # Who wonders why an event does nothing finds out where all failures are.
    found = [each for each in stack.worker.upstream.failures.latest() if each.hub == hub]
    assert [(each.event, each.category, each.attempts, each.told) for each in found] == [
        ("message", "no_handler", 0, "closed 1011"),
        ("other", "no_handler", 0, "failed ack"),
    ]


async def test_a_hub_without_handlers_gets_no_task_and_counts_its_events(stack, hub, app):
    async with await stack.json("ada", hub=hub) as client:
        for ack_id in (1, 2):
            client.say({"type": "event", "event": "e", "data": 1, "ackId": ack_id})
            assert await client.hear() == {**FAILED, "ackId": ack_id}
        assert not stack.service.events._tasks
        await settle(stack, hub, asks(app))
        client.say({"type": "event", "event": "e", "data": 1, "ackId": 3})
        assert (await client.hear())["success"] is True
        (seen,) = app.seen
        assert (seen.value("ce-id"), seen.value("ce-subprotocol")) == (b"4", JSON.encode())


# -- state (4.4) ---------------------------------------------------------------------------------------


async def test_state_is_kept_from_answer_to_event(stack, app, hub):
    await settle(stack, hub, asks(app))
    app.answer = answering(200, {}, None, {"ce-connectionState": "one"})
    async with await stack.json("ada", hub=hub) as client:
        for ack_id, (status, state) in enumerate(
            [(204, None), (204, "two"), (500, "bad"), (204, ""), (204, None)], 1
        ):
            app.answer = answering(status, headers={} if state is None else {"ce-connectionState": state})
            client.say({"type": "event", "event": "e", "data": 1, "ackId": ack_id})
            await client.hear()
    states = [seen.value("ce-connectionState") for seen in app.seen]
    assert states == [None, b"one", b"one", b"two", b"two", b""]


# -- order and independence (3.17) ---------------------------------------------------------------------


async def test_events_of_a_connection_go_out_one_at_a_time_in_their_order(stack, app, hub):
    await settle(stack, hub, asks(app))

    async def echo(request):
        await asyncio.sleep(0)
        return web.Response(body=await request.read(), content_type="application/json")

    async with await stack.json("ada", hub=hub, groups=["g"]) as client:
        app.most_running = 0
        app.answer = echo
        for number in range(100):
            client.say({"type": "event", "event": "e", "data": number, "ackId": number + 1})
        client.say({"type": "sendToGroup", "group": "g", "data": "last", "ackId": 101})
        heard = [await client.hear() for _ in range(202)]
    assert [h["data"] for h in heard if h["type"] == "message"] == [*range(100), "last"]
    assert [h["ackId"] for h in heard if h["type"] == "ack"] == list(range(1, 102))
    for number in range(100):
        assert (heard[2 * number]["type"], heard[2 * number + 1]["type"]) == ("message", "ack")
    assert [int(seen.body) for seen in app.seen[1:]] == list(range(100))
    assert [int(seen.value("ce-id")) for seen in app.seen[1:]] == list(range(2, 102))
    assert app.most_running == 1


async def test_events_that_a_client_sent_before_it_closed_are_all_sent(stack, app, hub):
    """A close frame once overtook the events before it: they were dropped without a trace."""
    await settle(stack, hub, asks(app))
    app.answer = answering(204)
    for number in range(10):
        async with await stack.json("ada", hub=hub) as client:
            for event in range(3):
                client.say({"type": "event", "event": "e", "data": 10 * number + event})
            client.send(masked(CLOSE, (1000).to_bytes(2, "big")))
            assert await client.closed() == (1000, "")
    told = [int(seen.body) for seen in app.seen if seen.value("ce-eventName") == b"e"]
    assert told == [10 * number + event for number in range(10) for event in range(3)]


async def test_a_slow_application_server_delays_only_who_waits_for_it(stack, app, hub):
    async with app_server() as slow:
        await settle(stack, hub, asks(slow, "slow", ()), asks(app, "*", ()))
        gate = slow.answer = Gate()
        app.answer = answering(200, b"quick", "text/plain")
        async with (
            await stack.json(hub=hub, groups=["g"]) as one,
            await stack.json(hub=hub, groups=["g"]) as other,
        ):
            one.say({"type": "event", "event": "slow", "data": 1, "ackId": 1})
            one.say({"type": "sendToGroup", "group": "g", "data": "behind", "ackId": 2})
            await until(lambda: gate.asked)
            started = time.monotonic()
            other.say({"type": "event", "event": "fast", "data": 1, "ackId": 1})
            assert [(await other.hear())["type"] for _ in range(2)] == ["message", "ack"]
            other.say({"type": "sendToGroup", "group": "g", "data": "hello", "ackId": 2})
            assert {(await other.hear())["type"] for _ in range(2)} == {"message", "ack"}
            assert (await one.hear())["data"] == "hello"  # and who waits still hears others
            one.say({"type": "ping"})
            assert await one.hear() == {"type": "pong"}
            assert time.monotonic() - started < 5
            assert gate.asked == 1
            gate.open.set()
            assert await one.hear() == {"type": "ack", "ackId": 1, "success": True}
            assert (await other.hear())["data"] == "behind"


async def test_many_connections_are_asked_about_at_the_same_time(stack, app, hub):
    await settle(stack, hub, asks(app, "*", ()))
    gate = app.answer = Gate()
    clients = [await stack.json(hub=hub) for _ in range(20)]
    for client in clients:
        client.say({"type": "event", "event": "e", "data": 1, "ackId": 1})
    await until(lambda: gate.asked == 20)
    gate.open.set()
    for client in clients:
        assert (await client.hear())["success"] is True
    assert not stack.service.events._running  # nothing is kept for connections that are idle again
    for client in clients:
        client.close()


async def test_an_event_is_cancelled_when_its_connection_ends(stack, app, hub):
    await settle(stack, hub, asks(app, "*", ()))
    gate = app.answer = Gate(500)
    lost, closed = await stack.json(hub=hub), await stack.json(hub=hub, user="bob")
    for client in (lost, closed):
        client.say({"type": "event", "event": "e", "data": 1, "ackId": 1})
        client.say({"type": "event", "event": "never", "data": 1, "ackId": 2})
    await until(lambda: gate.asked == 2)
    lost.close()
    await stack.service.commands.close(hub, "user", "bob", (), "out")
    assert (await closed.hear())["event"] == "disconnected"
    assert (await closed.closed())[0] == 1000
    await until(lambda: not stack.service.events._tasks)
    assert not stack.service.events._running
    assert all(each.pending == 0 for each in stack.worker.upstream.upstreams())
    gate.open.set()
    assert gate.asked == 2
    assert hub not in [each.hub for each in stack.worker.upstream.failures.latest()]
    closed.close()
    await stack.nothing_left()


async def test_settings_are_followed_while_events_flow(stack, app, hub):
    async with app_server() as other, await stack.json(hub=hub) as client:
        await settle(stack, hub, asks(app, "*", ()))
        app.answer = answering(200, b'"first"', "application/json")
        other.answer = answering(200, b'"second"', "application/json")
        answers = []
        stop = False

        async def flow():
            for ack_id in itertools.count(1):
                client.say({"type": "event", "event": "e", "data": 1, "ackId": ack_id})
                heard = await client.hear()
                answers.append(heard.get("data"))
                if heard["type"] == "message":
                    assert (await client.hear())["success"] is True
                else:
                    assert heard == {**FAILED, "ackId": ack_id}
                if stop:
                    return

        flowing = asyncio.create_task(flow())
        for settings, said in (
            ((asks(other, "*", ()),), "second"),
            ((), None),
            ((asks(app, "*", ()),), "first"),
        ):
            before = len(answers)
            await until(lambda before=before: len(answers) > before + 3)
            await settle(stack, hub, *settings)
            after = len(answers) + 1  # one may be on its way
            await until(lambda after=after: len(answers) > after + 3)
            assert set(answers[after:]) == {said}
        stop = True
        await flowing


async def test_a_stop_ends_what_is_asked(tmp_path):
    async with Stack(tmp_path, upstream_addresses="any") as stack, app_server() as app:
        await settle(stack, "chat", asks(app, "*", ("connect",)))
        client = await stack.json()
        gate = app.answer = Gate()
        client.say({"type": "event", "event": "e", "data": 1, "ackId": 1})
        waiting = await handshake(stack, "chat")
        await until(lambda: gate.asked == 2)
        await stack.stop_gateway()
        assert (await client.hear())["event"] == "disconnected"
        assert (await client.closed())[0] == 1001
        assert not await waiting.gone()
        assert not stack.service.events._tasks
        assert not stack.service.events.connecting
        gate.open.set()
        client.close()


# -- listeners -----------------------------------------------------------------------------------------


class Heard:
    def __init__(self, wanted, failure=None):
        self.wanted = wanted
        self.failure = failure


class Ears:
    """Listeners that hear the events with some name."""

    def __init__(self, name, failure=None):
        self.name = name
        self.failure = failure
        self.heard = []

    def wants(self, _hub, event):
        return event.name == self.name

    async def user_event(self, context):
        if context.name != self.name:
            return Heard(False)
        self.heard.append((context.event_id, context.data))
        return Heard(True, self.failure)


async def test_an_event_that_only_a_listener_wants_succeeds(stack, app, hub, monkeypatch):
    ears = Ears("heard")
    monkeypatch.setattr(stack.service.events, "_listeners", ears)
    await settle(stack, hub, asks(app, "both", ()))
    async with await stack.json(hub=hub) as client:
        for ack_id, (name, success) in enumerate([("heard", True), ("both", True), ("neither", False)], 1):
            client.say({"type": "event", "event": name, "data": name, "ackId": ack_id})
            assert (await client.hear())["success"] is success
        ears.name = "both"
        client.say({"type": "event", "event": "both", "data": 1, "ackId": 9})
        assert (await client.hear())["success"] is True
    assert ears.heard == [(2, b'"heard"'), (5, b"1")]
    assert [seen.value("ce-id") for seen in app.seen] == [b"3", b"5"]  # both see the same number


async def test_an_event_that_a_required_listener_did_not_get_fails_before_the_handler(
    stack, app, hub, monkeypatch
):
    ears = Ears("e", DeliveryFailure("network", None, "No broker.", 1, 0.0, "nats://x"))
    monkeypatch.setattr(stack.service.events, "_listeners", ears)
    await settle(stack, hub, asks(app, "*", ()))
    async with await stack.json(hub=hub) as client:
        client.say({"type": "event", "event": "e", "data": 1, "ackId": 1})
        assert await client.hear() == {**FAILED, "ackId": 1}
        assert app.seen == []


# -- what is told of a connection's life (gateway.notifications) ---------------------------------------


class Notes:
    def __init__(self):
        self.told = []

    def announced(self, connection):
        self.told.append(("announced", connection.hub))

    def over(self, connection, reason):
        self.told.append(("over", reason))

    def joined(self, connection, group):
        self.told.append(("joined", group))

    def left(self, connection, group):
        self.told.append(("left", group))


@pytest.fixture
def notes(stack, monkeypatch):
    one = Notes()
    monkeypatch.setattr(stack.service, "_notifications", one)
    return one


async def test_changes_of_membership_are_told_once_each_and_not_those_of_start_and_end(stack, hub, notes):
    async with await stack.json("ada", hub=hub, groups=["start"]) as client:
        commands = stack.service.commands
        for ack_id, (kind, group) in enumerate(
            [
                ("joinGroup", "a"),
                ("joinGroup", "a"),
                ("joinGroup", "start"),
                ("leaveGroup", "b"),
                ("leaveGroup", "a"),
            ],
            1,
        ):
            client.say({"type": kind, "group": group, "ackId": ack_id})
            assert (await client.hear())["success"] is True
        await commands.join(hub, "user", "ada", ["c", "start"], None)
        await commands.leave(hub, "user", "ada", ["c", "none"], None)
        await commands.join(hub, "user", "ada", ["d"], None)
        await commands.leave_all(hub, "user", "ada")
        await commands.join(hub, "user", "ada", ["end"], None)
        await commands.close(hub, "user", "ada", (), "enough")
        assert (await client.hear())["event"] == "disconnected"
    *changes, third, fourth, fifth, end = notes.told[1:]
    assert notes.told[0] == ("announced", hub)
    assert changes == [("joined", "a"), ("left", "a"), ("joined", "c"), ("left", "c"), ("joined", "d")]
    assert {third, fourth} == {("left", "d"), ("left", "start")}
    assert (fifth, end) == (("joined", "end"), ("over", "enough"))


async def test_joins_that_meet_are_one_change_and_one_that_is_withdrawn_is_none(stack, hub, notes):
    async with await stack.json("ada", hub=hub):
        commands = stack.service.commands
        await asyncio.gather(*(commands.join(hub, "user", "ada", ["a"], None) for _ in range(5)))
        ends = []
        stack.service.join(connection(stack, hub), "b", ends.append)
        assert "b" in connection(stack, hub).groups
        stack.service.leave(connection(stack, hub), "b", lambda _error: None)
        await until(lambda: ends)
        assert not stack.service._joining
    await stack.nothing_left()
    assert notes.told == [("announced", hub), ("joined", "a"), ("over", None)]


@pytest.mark.parametrize("subprotocols", [[JSON], []])
async def test_the_end_is_told_once_with_the_words_of_who_ended_it(stack, hub, notes, subprotocols):
    async with await stack.client(hub=hub, subprotocols=subprotocols) as client:
        client.send(masked(8, b"\x03\xe8bye"))
        await client.closed()
    async with await stack.client(hub=hub, subprotocols=subprotocols) as client:
        await stack.service.commands.close(hub, "hub", "", (), None)
        await client.closed()
    await stack.nothing_left()
    assert notes.told == [("announced", hub), ("over", "bye"), ("announced", hub), ("over", None)]


async def test_nothing_is_told_of_who_was_not_let_in(stack, app, hub, notes):
    await settle(stack, hub, asks(app))
    app.answer = answering(403)
    async with await handshake(stack, hub, groups=["g"]) as raw:
        assert (await raw.head())[0] == 403
    app.answer = answering(200, {"groups": ["g"]})
    async with await handshake(stack, hub) as raw:
        assert (await raw.head())[0] == 101
    await stack.nothing_left()
    assert notes.told == [("announced", hub), ("over", None)]
