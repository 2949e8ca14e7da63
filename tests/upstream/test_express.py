"""The vendor's middleware @azure/web-pubsub-express 1.1.0, unmodified, on Express 4 and 5, as the upstream.

The letters E1 to E24 are the rows of server-events.md 8.1.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.examples import environment, install, node
from support.upstreams import LOCAL, connecting, event, hub, service_for, source

from gateway.upstream.answers import ConnectAccepted, ConnectRefused
from gateway.upstream.contexts import EventAnswered, EventFailed, NotificationDelivered
from gateway.upstream.service import UpstreamService
from hubwire.model.event_handlers import CONNECTED, DISCONNECTED, HandlerEvent
from hubwire.model.message import DataType, Message
from hubwire.model.settings import EventHandler, GroupPresenceEvents

FOLDER = Path(__file__).parent / "express"
DEFAULT_PATH = "/api/webpubsub/hubs/{hub}/"
# The repeats of 4.8 would only make the tests wait: that they happen is tested elsewhere.
CONFIG = LOCAL._replace(retry_seconds=())


@pytest.fixture(scope="module", params=["4", "5"])
def base(request: pytest.FixtureRequest) -> Iterator[str]:
    """The application server's address."""
    install(str(FOLDER))
    process = subprocess.Popen(
        [node(), "server.mjs", request.param],
        cwd=FOLDER,
        env=environment(""),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        port = process.stdout.readline().strip()
        assert port.isdigit(), f"the server did not start: {process.poll()}"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def handler(base: str, path: str = DEFAULT_PATH) -> EventHandler:
    return EventHandler(
        base + path,
        "*",
        ("connect", "connected", "disconnected"),
        group_presence_events=GroupPresenceEvents(("joined", "left")),
    )


@pytest.fixture
async def service(base: str) -> AsyncIterator[UpstreamService]:
    async with service_for(hub(handler(base)), CONFIG) as one:
        yield one


async def seen(base: str, count: int = 1) -> list[dict[str, Any]]:
    """What the server's handlers were called with since the last time."""
    calls: list[dict[str, Any]] = []
    async with aiohttp.ClientSession() as session, asyncio.timeout(10):
        while len(calls) < count:  # notifications are answered first and handled then (E14)
            async with session.get(base + "/seen") as response:
                calls += await response.json()
    assert len(calls) == count
    return calls


# -- the handshake between services (E1 to E8) ---------------------------------------------------------


async def test_the_middleware_agrees_to_be_called(base: str, service: UpstreamService) -> None:
    verdict = await service.validate("orders", handler(base), "awps.example")
    assert (verdict.allowed, verdict.status) == (True, 200)


async def test_allowed_endpoints_are_compared_with_our_host(base: str, service: UpstreamService) -> None:
    """E4: one header line for each endpoint, with its port."""
    allowed = await service.validate("orders", handler(base, "/allowed/"), "")
    assert allowed.allowed
    foreign = await service.validate("orders", handler(base, "/foreign/"), "")
    assert not foreign.allowed
    assert "other.example, third.example" in foreign.reason
    async with service_for(hub(handler(base, "/foreign/")), CONFIG) as refused:
        result = await refused.connect(connecting())
        assert isinstance(result, ConnectRefused)
        assert result.status == 500


async def test_another_hub_or_path_is_not_its_business(base: str, service: UpstreamService) -> None:
    """E7, E8: 404 to OPTIONS, then to GET (E5)."""
    for template in (base + "/elsewhere/", base + "/api/webpubsub/hubs/other/"):
        verdict = await service.validate("orders", EventHandler(template), "")
        assert (verdict.allowed, verdict.status) == (False, 404)


# -- connect (E10 to E13, E23) -------------------------------------------------------------------------


async def test_success_without_words_keeps_what_the_token_says(base: str, service: UpstreamService) -> None:
    result = await service.connect(connecting(offered=("json.webpubsub.azure.v1",)))
    assert isinstance(result, ConnectAccepted)
    assert (result.user_id, result.roles, result.groups) == ("ada", ("r1",), ("g1",))
    assert result.negotiated.echo == "json.webpubsub.azure.v1"
    (call,) = await seen(base)
    context = call["context"]
    assert (context["hub"], context["connectionId"], context["eventName"]) == (
        "orders",
        "conn-0001",
        "connect",
    )
    assert (context["userId"], context["origin"], context["states"]) == ("ada", "awps.example", {})
    assert context["clientProtocol"] == "default"
    assert context["signature"].startswith("sha256=814a0e49")
    assert call["claims"]["sub"] == ["ada"]
    assert call["query"] == {"tab": ["3"]}
    assert call["headers"] == {"Host": ["awps.example"]}
    assert call["subprotocols"] == ["json.webpubsub.azure.v1"]
    assert call["clientCertificates"] == []


async def test_success_with_an_answer_replaces_it(base: str, service: UpstreamService) -> None:
    client = source()
    result = await service.connect(connecting(client, query="case=state", offered=("mine",)))
    assert isinstance(result, ConnectAccepted)
    assert (result.user_id, result.roles, result.groups) == ("bob", ("r2",), ("g2",))
    assert result.negotiated.echo == "mine"
    assert client.state == "eyJjYXJ0IjozfQ=="
    await seen(base)


@pytest.mark.parametrize(
    ("case", "status", "body"),
    [("deny", 401, b"nope"), ("broken", 500, b""), ("details", 400, b"no such room")],
)
async def test_a_refusal_reaches_the_client(
    base: str, service: UpstreamService, case: str, status: int, body: bytes
) -> None:
    result = await service.connect(connecting(query=f"case={case}"))
    assert isinstance(result, ConnectRefused)
    assert (result.status, result.body) == (status, body)
    await seen(base)


async def test_a_user_id_beyond_ascii_arrives_as_its_bytes(base: str, service: UpstreamService) -> None:
    """E23: Node reads header bytes as Latin-1; that is how it is with Azure too."""
    await service.connect(connecting(source(user_id="用户")))
    (call,) = await seen(base)
    assert call["context"]["userId"].encode("latin-1").decode() == "用户"


# -- user events (E15 to E21) --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data_type", "data", "arrives"),
    [
        (DataType.TEXT, "grüße".encode(), "grüße"),
        (DataType.JSON, b'{"sku": "a1", "n": [1, null]}', {"sku": "a1", "n": [1, None]}),
        (DataType.JSON, b'"s"', "s"),
        (DataType.BINARY, b"\x00\xff", {"bytes": [0, 255]}),
    ],
)
async def test_data_of_every_type_arrives_and_comes_back(
    base: str, service: UpstreamService, data_type: DataType, data: bytes, arrives: Any
) -> None:
    result = await service.user_event(event(name="echo", data_type=data_type, data=data))
    (call,) = await seen(base)
    assert call["data"] == arrives
    assert isinstance(result, EventAnswered)
    assert result.message is not None
    assert result.message.data_type is data_type
    assert result.message.data == (data if data_type is not DataType.JSON else data.replace(b" ", b""))


async def test_success_without_data_sends_the_client_nothing(base: str, service: UpstreamService) -> None:
    assert await service.user_event(event(name="nothing")) == EventAnswered(None)
    assert await service.user_event(event(name="binary")) == EventAnswered(
        Message(DataType.BINARY, b"\0\xff")
    )
    await seen(base, 2)


async def test_state_goes_there_and_back(base: str, service: UpstreamService) -> None:
    client = source()
    await service.connect(connecting(client, query="case=state", offered=("mine",)))
    for _ in range(2):
        result = await service.user_event(event(client, name="add"))
        assert isinstance(result, EventAnswered)
        assert result.message is not None
        assert result.message.data_type is DataType.JSON
    assert [call["context"]["states"] for call in await seen(base, 3)] == [{}, {"cart": 3}, {"cart": 4}]
    assert client.state == "eyJjYXJ0Ijo1fQ=="  # {"cart":5}


@pytest.mark.parametrize(("name", "status"), [("fail", 500), ("unauthorized", 401)])
async def test_a_failed_event_says_its_status(
    base: str, service: UpstreamService, name: str, status: int
) -> None:
    result = await service.user_event(event(name=name))
    assert isinstance(result, EventFailed)
    assert (result.failure.category, result.failure.status) == ("status", status)
    await seen(base)


async def test_protobuf_is_not_handled_by_the_middleware(base: str, service: UpstreamService) -> None:
    """E16."""
    result = await service.user_event(event(data_type=DataType.PROTOBUF, data=b"\n\x01t"))
    assert isinstance(result, EventFailed)
    assert result.failure.status == 404


# -- notifications (E14) -------------------------------------------------------------------------------


async def test_notifications_reach_their_handlers(base: str, service: UpstreamService) -> None:
    client = source(state="eyJjYXJ0IjozfQ==", subprotocol="json.webpubsub.azure.v1")
    events = (
        CONNECTED,
        HandlerEvent("gp", "joined", "room"),
        HandlerEvent("gp", "left", "room"),
        DISCONNECTED,
    )
    for each in events:
        context = service.notification(client, each, client.next_id(), "bye")
        assert isinstance(await service.notify(context), NotificationDelivered)
    connected, joined, left, disconnected = await seen(base, 4)
    assert [call["what"] for call in (connected, joined, left, disconnected)] == [
        "connected",
        "joined",
        "left",
        "disconnected",
    ]
    assert connected["context"]["states"] == {"cart": 3}
    assert (joined["group"], left["group"], disconnected["reason"]) == ("room", "room", "bye")
