"""A chat on the vendor's middleware, unmodified, Express 4 and 5, behind a whole `hubwire up` and behind a
cluster, where each client is of another gateway."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.examples import environment, install, node
from support.inventory import EXPRESS
from support.topology import HANDLED_HUB, HubwireCluster, HubwireUp
from support.world import World
from websockets.exceptions import InvalidStatus

FOLDER = Path(__file__).parent / "express"


@pytest.fixture(scope="module", params=["4", "5"])
def application(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of the chat."""
    install(str(FOLDER))
    with subprocess.Popen(
        [node(), "chat.mjs", request.param],
        cwd=FOLDER,
        env=environment(""),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as chat:
        assert chat.stdout is not None
        port = chat.stdout.readline().strip()
        assert port.isdigit(), f"the chat did not start: {chat.poll()}"
        yield int(port)


@pytest.fixture(scope="module", params=["up", "cluster"])
def topology(
    request: pytest.FixtureRequest, application: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HubwireUp | HubwireCluster]:
    kind = HubwireUp if request.param == "up" else HubwireCluster
    path = "/api/webpubsub/hubs/{hub}/"
    folder = tmp_path_factory.mktemp(request.param)
    with kind(folder, handler_port=application, handler_path=path) as running:
        yield running


@pytest.fixture
async def chat(topology: HubwireUp | HubwireCluster) -> AsyncIterator[World]:
    async with World(topology, HANDLED_HUB) as one:
        yield one


@pytest.mark.compat(
    EXPRESS, "user, groups and roles of connect", "user events answered", "connection state of its own"
)
async def test_who_has_a_name_is_let_in_with_groups_and_roles_and_is_answered(chat: World) -> None:
    url = chat.client_url(roles=[])  # a token that says nothing
    ada, bob = [await chat.json_by_url(f"{url}&name={name}") for name in ("ada", "bob")]
    assert (ada.user_id, bob.user_id) == ("ada", "bob")
    assert (await ada.request("sendToGroup", group="lobby", data="hello", noEcho=True))["success"] is True
    message = await bob.message()
    assert (message["fromUserId"], message["data"]) == ("ada", "hello")
    assert (await ada.request("joinGroup", group="other"))["error"]["name"] == "Forbidden"
    for said, text in enumerate(("one", {"two": 2}), 1):
        await ada.send(type="event", event="say", data=text, ackId=ada.next_ack_id())
        answer, ack = json.loads(await ada.frame()), json.loads(await ada.frame())
        assert answer["data"] == {"from": "ada", "text": text, "said": said}
        assert (answer["from"], ack["success"]) == ("server", True)
    await bob.send(type="event", event="say", dataType="text", data="hi")
    assert await bob.data() == {"from": "bob", "text": "hi", "said": 1}, "each has a state of its own"


@pytest.mark.compat(EXPRESS, "simple clients")
async def test_a_simple_client_is_answered_too(chat: World) -> None:
    client = await chat.simple(roles=[], query="&name=carol")
    await client.send_frame("hi")
    assert json.loads(await client.frame()) == {"from": "carol", "text": "hi", "said": 1}


@pytest.mark.compat(EXPRESS, "connect refused, with status and words")
async def test_who_has_none_or_is_not_wanted_is_refused_with_the_words_of_the_application(
    chat: World,
) -> None:
    url = chat.client_url(roles=[])
    for query, status, words in (("", 401, b"Say who you are."), ("&name=mallory", 403, b"not you")):
        with pytest.raises(InvalidStatus) as refused:
            await chat.json_by_url(url + query)
        assert (refused.value.response.status_code, refused.value.response.body) == (status, words)


@pytest.mark.compat(EXPRESS, "failure of a user event")
async def test_a_failure_of_the_application_is_a_failed_ack_and_the_connection_stays(chat: World) -> None:
    client = await chat.json_by_url(chat.client_url(roles=[]) + "&name=dan")
    refused = await client.request("event", event="crash", data=1)
    assert (refused["success"], refused["error"]["name"]) == (False, "InternalServerError")
    await client.send(type="event", event="say", data="still here")
    assert (await client.data())["text"] == "still here"
