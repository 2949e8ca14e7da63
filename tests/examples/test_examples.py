"""The programs in examples/, run as their READMEs say, against a real `hubwire up`."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from azure.messaging.webpubsubservice import WebPubSubServiceClient
from support.browser import Chromium, Page, find_chromium
from support.examples import EXAMPLES, SECONDS, install, node, run, run_python, serving
from support.topology import HubwireUp
from support.world import World

QUICKSTART = ["connected as ada", "ada to news: Hello, group", "server to all: Hello, everybody"]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubwireUp]:
    """One service for all examples: none of them minds the others."""
    with HubwireUp(tmp_path_factory.mktemp("up")) as one:
        yield one


@pytest.fixture(scope="module")
def connection_string(up: HubwireUp) -> str:
    return f"Endpoint={up.up.endpoint};AccessKey={up.key};Version=1.0;"


@pytest.fixture(scope="module")
def chat(connection_string: str) -> Iterator[str]:
    """The URL of the chat page, as its server prints it."""
    command, folder = [node(), "server.mjs"], install("chat-page")
    with serving(command, folder, connection_string, PORT="0") as line:
        yield line.rpartition(" ")[2]


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Chromium]:
    if find_chromium() is None:
        pytest.skip("there is no Chromium on this machine")
    with Chromium(tmp_path) as browser:
        yield browser


def test_the_quickstart_in_python_connects_joins_sends_and_hears_the_server(connection_string: str) -> None:
    assert run_python("quickstart-python/main.py", connection_string) == QUICKSTART


def test_the_quickstart_in_javascript_connects_joins_sends_and_hears_the_server(
    connection_string: str,
) -> None:
    command = [node(), "main.mjs"]
    assert run(command, install("quickstart-javascript"), connection_string) == QUICKSTART


async def test_a_notification_reaches_the_user_and_another_one_everybody(
    up: HubwireUp, connection_string: str
) -> None:
    async with World(up, "notifications") as world:
        ada, bob = await world.json("ada"), await world.json("bob")
        text, news = "Your parcel has arrived", "We close at six"
        printed = await asyncio.to_thread(
            run_python, "notification-sender/notify.py", connection_string, "ada", text, "--everybody", news
        )
        assert printed == ["ada is connected."]
        # Two REST calls: which of the two arrives first is not defined.
        heard: list[Any] = [await ada.data(), await ada.data()]
        assert sorted(heard, key=lambda one: str(one["kind"])) == [
            {"kind": "news", "text": news},
            {"kind": "personal", "text": text},
        ]
        assert await bob.data() == {"kind": "news", "text": news}


def test_a_notification_for_a_user_who_is_away_is_no_failure(connection_string: str) -> None:
    printed = run_python("notification-sender/notify.py", connection_string, "nobody", "Are you there?")
    assert printed == ["nobody is not connected, and has not got it."]


def enter(chromium: Chromium, url: str, user: str) -> Page:
    page = chromium.open(url)
    page.fill("#enter input", user)
    page.press_enter()
    page.wait("!document.getElementById('say').hidden")
    return page


def state(page: Page) -> str:
    return str(page.run("document.getElementById('state').textContent"))


def say(page: Page, text: str) -> None:
    page.fill("#say input", text)
    page.press_enter()


def wait_for_lines(page: Page, lines: list[list[str]]) -> None:
    """Until the page shows exactly these messages, as name and text."""
    items = "[...document.querySelectorAll('#messages li')]"
    shown = f"{items}.map(li => [...li.childNodes].map(node => node.textContent))"
    page.wait(f"JSON.stringify({shown}) === JSON.stringify({json.dumps(lines)})")


def test_two_tabs_of_the_chat_page_hear_each_other(chat: str, chromium: Chromium) -> None:
    ada, bob = enter(chromium, chat, "Ada"), enter(chromium, chat, "Bob")
    assert state(ada) == "Connected as Ada."

    say(ada, "Hello, Bob")
    wait_for_lines(bob, [["Ada", "Hello, Bob"]])
    say(bob, "<b>Hello</b>, Ada")
    both = [["Ada", "Hello, Bob"], ["Bob", "<b>Hello</b>, Ada"]]
    wait_for_lines(ada, both)
    wait_for_lines(bob, both)
    assert (ada.errors, bob.errors) == ([], [])


def test_the_chat_page_comes_back_to_the_group_when_its_connection_is_closed(
    chat: str, connection_string: str, chromium: Chromium
) -> None:
    page, other = enter(chromium, chat, "Ada"), enter(chromium, chat, "Bob")
    with WebPubSubServiceClient.from_connection_string(connection_string, "chat") as service:
        page.run(
            "window.states = [];"
            "new MutationObserver(() => states.push(document.getElementById('state').textContent))"
            ".observe(document.getElementById('state'), { childList: true })"
        )
        service.close_user_connections("Ada", reason="a test")
        page.wait("states.at(-1) === 'Connected as Ada.'")
        # The client joins again by itself, shortly after.
        deadline = time.monotonic() + SECONDS
        while len(list(service.list_connections(group="lobby"))) < 2:
            assert time.monotonic() < deadline, "it did not join again"
    assert page.run("states")[0] == "Connecting again ..."
    say(other, "Are you back?")
    wait_for_lines(page, [["Bob", "Are you back?"]])


@pytest.mark.parametrize("user", ["", "%20", "x" * 41])
def test_the_chat_server_makes_no_url_without_a_proper_name(chat: str, user: str) -> None:
    with pytest.raises(HTTPError, match="404") as refused:
        urlopen(Request(f"{chat}client-url?user={user}", method="POST"), timeout=SECONDS)
    refused.value.close()


REQUIREMENTS = [
    (path.parent.name, *line.split("=="))
    for path in sorted(EXAMPLES.glob("*/requirements.txt"))
    for line in path.read_text().splitlines()
]
LOCKS = sorted(EXAMPLES.glob("*/package-lock.json"))


@pytest.mark.parametrize(("example", "name", "wanted"), REQUIREMENTS)
def test_an_example_asks_for_the_version_that_is_tested(example: str, name: str, wanted: str) -> None:
    assert version(name) == wanted


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.parent.name)
def test_a_lock_file_names_no_registry(path: Path) -> None:
    assert not re.search(r'"resolved"|https?://[^"]*registry', path.read_text())
