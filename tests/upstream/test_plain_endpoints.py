"""Application servers without any SDK, in aiohttp and Flask, behind a whole `hubwire up` and a cluster.

Both verify the signature of every event themselves (tests/upstream/plain). The client is the vendor's.
"""

from __future__ import annotations

import json
import queue
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from azure.messaging.webpubsubclient import WebPubSubClient, WebPubSubClientCredential
from azure.messaging.webpubsubclient.models import (
    CallbackType,
    SendMessageError,
    WebPubSubDataType,
    WebPubSubProtocolType,
)
from support.balancer import Balancer
from support.examples import hubwire, serving
from support.topology import HubwireCluster, HubwireUp, Topology
from support.world import World
from websockets.exceptions import InvalidStatus

FOLDER = Path(__file__).parent / "plain"
SECONDS = 20.0


class Place(NamedTuple):
    """A service, and the one address at which clients and servers find it."""

    topology: Topology
    endpoint: str


@pytest.fixture(scope="module", params=["up", "cluster"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "up":
        with HubwireUp(folder) as up:
            yield Place(up, up.up.endpoint)
        return
    with HubwireCluster(folder, gateways=2) as cluster, Balancer(cluster) as balancer:
        yield Place(cluster, balancer.endpoint)


class Plain:
    """One application server and its hub."""

    def __init__(self, topology: Topology, hub: str, base: str) -> None:
        self.world = World(topology, hub)
        self.base = base

    def told(self) -> list[str]:
        with urlopen(f"{self.base}/told", timeout=SECONDS) as answer:
            return list(json.load(answer))

    def wait_told(self, *events: str) -> None:
        """Until it was told of all of these; notifications come in their own time."""
        deadline = time.monotonic() + SECONDS
        while not set(events) <= set(self.told()):
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.02)


@contextmanager
def plain(place: Place, kind: str, hub: str, key: str | None = None) -> Iterator[Plain]:
    """Started with the service's primary key unless told another."""
    at = f"Endpoint={place.endpoint};AccessKey={{}};Version=1.0;"
    with serving([sys.executable, f"{kind}_app.py"], FOLDER, at.format(key or place.topology.key)) as line:
        base = f"http://127.0.0.1:{json.loads(line)['port']}"
        handler = (f"url={base}/events", "events=*", "system=connect,connected,disconnected")
        real = at.format(place.topology.key)
        assert "agrees to be called" in hubwire(real, "hubs", "set", hub, "--event-handler", *handler)
        yield Plain(place.topology, hub, base)


@pytest.fixture(scope="module", params=["aiohttp", "flask"])
def server(request: pytest.FixtureRequest, place: Place) -> Iterator[Plain]:
    with plain(place, request.param, f"plain_{request.param}") as one:
        yield one


@contextmanager
def client(url: str) -> Iterator[WebPubSubClient]:
    one = WebPubSubClient(
        WebPubSubClientCredential(lambda: url),
        protocol_type=WebPubSubProtocolType.JSON,
        ack_timeout=SECONDS,
        message_retry_total=0,
        auto_reconnect=False,
    )
    one.open()
    try:
        yield one
    finally:
        one.close()


def test_the_vendors_client_is_let_in_answered_and_told_of(server: Plain) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    with client(server.world.client_url(user_id="ada", roles=["webpubsub.sendToGroup"])) as ada:
        ada.subscribe(CallbackType.SERVER_MESSAGE, answers.put)
        server.wait_told("connected ADA")
        for count in (1, 2):
            ada.send_event("echo", {"n": count}, WebPubSubDataType.JSON)
            answer = answers.get(timeout=SECONDS)
            assert answer.data_type == WebPubSubDataType.JSON
            assert answer.data == {"said": {"n": count}, "by": "ADA", "count": count}
        # The answer to connect put the client into the group.
        groups: queue.Queue[Any] = queue.Queue()
        ada.subscribe(CallbackType.GROUP_MESSAGE, groups.put)
        ada.send_to_group("lobby", "hello", WebPubSubDataType.TEXT)
        message = groups.get(timeout=SECONDS)
        assert (message.group, message.from_user_id, message.data) == ("lobby", "ADA", "hello")
    server.wait_told("disconnected ADA")
    assert [event for event in server.told() if event.endswith(" ADA")] == [
        "connected ADA",
        "disconnected ADA",
    ]


def test_a_fault_of_the_application_is_a_failed_event_and_the_client_stays(server: Plain) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    with client(server.world.client_url(user_id="bob")) as bob:
        bob.subscribe(CallbackType.SERVER_MESSAGE, answers.put)
        with pytest.raises(SendMessageError) as failed:
            bob.send_event("crash", {}, WebPubSubDataType.JSON)
        assert failed.value.error_detail is not None
        assert failed.value.error_detail.name == "InternalServerError"
        bob.send_event("echo", {}, WebPubSubDataType.JSON)
        assert answers.get(timeout=SECONDS).data["count"] == 1


async def test_who_is_not_wanted_is_refused_in_the_words_of_the_application(server: Plain) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await server.world.json("mallory")
    assert (refused.value.response.status_code, refused.value.response.body) == (403, b"not you")


@pytest.mark.parametrize("signature", [None, "sha256=00", "sha256=" + "0" * 64 + ",sha256=x"])
def test_what_the_service_did_not_sign_is_refused(server: Plain, signature: str | None) -> None:
    """The check of the two servers can fail."""
    headers = {"ce-connectionId": "x", "ce-type": "azure.webpubsub.sys.connected"}
    if signature is not None:
        headers["ce-signature"] = signature
    with pytest.raises(HTTPError, match="401") as refused:
        urlopen(Request(f"{server.base}/events", b"{}", headers, method="POST"), timeout=SECONDS)
    refused.value.close()


@pytest.mark.parametrize("kind", ["aiohttp", "flask"])
async def test_a_server_with_the_secondary_key_works_and_one_with_another_lets_nobody_in(
    place: Place, kind: str
) -> None:
    with plain(place, kind, f"second_{kind}", place.topology.secondary_key) as one:
        async with one.world:
            assert (await one.world.json("ada")).user_id == "ADA"
    with plain(place, kind, f"foreign_{kind}", "somebody-elses-key") as one:
        with pytest.raises(InvalidStatus) as refused:
            await one.world.json("ada")
        assert (refused.value.response.status_code, refused.value.response.body) == (401, b"not signed")
