"""examples/notification-with-state, run as its README says, against a real `hubwire up`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from support.examples import EXAMPLES, SECONDS, hubwire, serving
from support.topology import HubwireUp
from support.world import JsonClient, World

FOLDER = EXAMPLES / "notification-with-state"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubwireUp]:
    with HubwireUp(tmp_path_factory.mktemp("up")) as one:
        yield one


@pytest.fixture(scope="module")
def connection_string(up: HubwireUp) -> str:
    return f"Endpoint={up.up.endpoint};AccessKey={up.key};Version=1.0;"


class Server:
    """Runs the example. It may be started again, as one that was deployed anew is: on the same port."""

    def __init__(self, connection_string: str, port: str = "0") -> None:
        command = [sys.executable, "server.py"]
        self._running = serving(command, FOLDER, connection_string, PORT=port)

    def __enter__(self) -> str:
        return self._running.__enter__().split(" ")[4].rstrip("/,")

    def __exit__(self, *_: object) -> None:
        self._running.__exit__(None, None, None)


def set_up(connection_string: str, url: str) -> None:
    said = hubwire(
        connection_string, "hubs", "set", "topics", "--event-handler", f"url={url}/events",
        "events=subscribe,unsubscribe", "system=disconnected",
    )  # fmt: skip
    assert "agrees to be called" in said


async def ask(client: JsonClient, event: str, topic: object) -> Any:
    """The topics as the server's answer has them."""
    await client.send(type="event", event=event, dataType="json", data=topic)
    return (await client.data())["topics"]


def publish(url: str, topic: str, text: str) -> None:
    urlopen(Request(f"{url}/publish/{topic}", text.encode(), method="POST"), timeout=SECONDS).close()


async def test_topics_are_kept_over_a_restart_and_told_of_at_the_end(
    up: HubwireUp, connection_string: str
) -> None:
    async with World(up, "topics") as world:
        with Server(connection_string) as url:
            set_up(connection_string, url)
            ada, bob = await world.json("ada", roles=[]), await world.json("bob", roles=[])
            assert await ask(ada, "subscribe", "news") == ["news"]
            assert await ask(ada, "subscribe", "größe") == ["größe", "news"]
            assert await ask(bob, "subscribe", "news") == ["news"]
            publish(url, "news", "We close at six")
            for client in (ada, bob):
                assert await client.data() == {"topic": "news", "text": "We close at six"}
        with Server(connection_string, url.rpartition(":")[2]) as again:
            assert again == url
            assert await ask(ada, "unsubscribe", "größe") == ["news"]
            assert await ask(bob, "subscribe", "sports") == ["news", "sports"]
            publish(url, "sports", "1:0")
            assert await bob.data() == {"topic": "sports", "text": "1:0"}
            await ada.close()
            assert await bob.data() == {"topic": "news", "text": "ada does not read this any more."}


async def test_a_topic_that_is_none_is_refused_and_changes_nothing(
    up: HubwireUp, connection_string: str
) -> None:
    async with World(up, "topics") as world:
        with Server(connection_string) as url:
            set_up(connection_string, url)
            ada = await world.json("ada", roles=[])
            assert await ask(ada, "subscribe", "news") == ["news"]
            for topic in ("", "x" * 41, 7):
                refused = await ada.request("event", event="subscribe", dataType="json", data=topic)
                assert refused["success"] is False
            assert await ask(ada, "subscribe", "more") == ["more", "news"]


def test_what_is_not_signed_is_refused(connection_string: str) -> None:
    forged = {"ce-connectionId": "x", "ce-type": "azure.webpubsub.user.subscribe", "ce-signature": "sha256=0"}
    with Server(connection_string) as url:
        with pytest.raises(HTTPError, match="401") as refused:
            urlopen(Request(f"{url}/events", b'"news"', forged, method="POST"), timeout=SECONDS)
        refused.value.close()
