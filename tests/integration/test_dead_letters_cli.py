"""`hubwire events dead-letters` with events that an application server refused, behind `hubwire up`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiohttp import web
from support.examples import SECONDS, hubwire
from support.stack import until
from support.topology import HubwireUp
from support.upstreams import AppServer, Seen, app_server
from support.world import World

SYSTEM = "system=connected,disconnected"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubwireUp]:
    with HubwireUp(tmp_path_factory.mktemp("up")) as one:
        yield one


@pytest.fixture
async def app() -> AsyncIterator[AppServer]:
    async with app_server() as one:
        yield one


class Letters:
    """The command, and the hub of a test."""

    def __init__(self, up: HubwireUp, hub: str) -> None:
        self.world = World(up, hub)
        self._service = f"Endpoint={up.up.endpoint};AccessKey={up.key};Version=1.0;"

    async def cli(self, *words: str) -> str:
        return await asyncio.to_thread(hubwire, self._service, *words)

    async def handle(self, app: AppServer) -> None:
        handler = (f"url={app.base}/{{event}}?code=s3cr3t", SYSTEM)
        await self.cli("hubs", "set", self.world.hub, "--event-handler", *handler)

    async def kept(self) -> list[dict[str, Any]]:
        shown = await self.cli("events", "dead-letters", "list", "--hub", self.world.hub, "--json")
        return list(json.loads(shown))

    async def wait(self, count: int) -> list[dict[str, Any]]:
        """Until there are so many; one is kept a moment after the refusal."""
        async with asyncio.timeout(SECONDS):
            while len(found := await self.kept()) != count:
                pass
        return found

    async def refused(self, app: AppServer) -> list[dict[str, Any]]:
        """A client comes and goes, and the application wants to know of neither."""
        yes, app.answer = app.answer, no
        client = await self.world.json("ada")
        await until(lambda: len(app.seen) == 1)
        await client.close()
        found = await self.wait(2)
        app.answer = yes
        app.seen.clear()
        return found


async def no(_: web.Request) -> web.StreamResponse:
    return web.Response(status=404)


def told(seen: Seen) -> tuple[str, str, str]:
    """Event, number and connection of what the application got."""
    names = ("ce-eventName", "ce-id", "ce-connectionId")
    event, number, connection = ((seen.value(name) or b"").decode() for name in names)
    return event, number, connection


async def test_a_letter_says_what_was_refused_and_why_without_secrets(up: HubwireUp, app: AppServer) -> None:
    letters = Letters(up, "telling")
    await letters.handle(app)
    async with letters.world:
        first, second = await letters.refused(app)
    assert [first["event"], second["event"]] == ["connected", "disconnected"]
    assert (first["hub"], first["category"], first["status"]) == ("telling", "status", 404)
    assert first["connectionId"] == second["connectionId"]
    assert "404" in first["reason"]
    table = await letters.cli("events", "dead-letters", "list", "--hub", "telling")
    assert "status 404" in table
    assert first["connectionId"] in table
    assert "s3cr3t" not in table + json.dumps([first, second])


async def test_a_letter_that_is_tried_again_is_sent_as_it_was_and_is_a_letter_no_more(
    up: HubwireUp, app: AppServer
) -> None:
    letters = Letters(up, "retried")
    await letters.handle(app)
    async with letters.world:
        first, second = await letters.refused(app)
        said = await letters.cli("events", "dead-letters", "retry", str(second["id"]))
        assert "1 queued again." in said
        await until(lambda: len(app.seen) == 1)
        assert told(app.seen[0]) == ("disconnected", "2", second["connectionId"])
        assert app.seen[0].value("ce-signature")
        assert [left["id"] for left in await letters.kept()] == [first["id"]]
        await letters.cli("events", "dead-letters", "retry", str(first["id"]))
        await until(lambda: len(app.seen) == 2)
        assert told(app.seen[1]) == ("connected", "1", first["connectionId"])
        assert await letters.kept() == []
        with pytest.raises(AssertionError, match=r"(?s)ended with 1.*404"):
            await letters.cli("events", "dead-letters", "retry", str(first["id"]))


async def test_a_letter_that_is_refused_again_is_kept_again(up: HubwireUp, app: AppServer) -> None:
    letters = Letters(up, "refused")
    await letters.handle(app)
    async with letters.world:
        first, _ = await letters.refused(app)
        app.answer = no
        await letters.cli("events", "dead-letters", "retry", str(first["id"]))
        await until(lambda: len(app.seen) == 1)
        kept = await letters.wait(2)
        assert first["id"] not in [one["id"] for one in kept]
        assert sorted(one["event"] for one in kept) == ["connected", "disconnected"]


async def test_a_letter_that_is_dropped_is_never_sent(up: HubwireUp, app: AppServer) -> None:
    letters = Letters(up, "dropped")
    await letters.handle(app)
    async with letters.world:
        first, second = await letters.refused(app)
        assert "1 dropped." in await letters.cli("events", "dead-letters", "drop", str(first["id"]))
        assert [left["id"] for left in await letters.kept()] == [second["id"]]
        with pytest.raises(AssertionError, match=r"(?s)ended with 1.*404"):
            await letters.cli("events", "dead-letters", "retry", str(first["id"]))
        # What comes after it was asked for has come, and it has not.
        await letters.cli("events", "dead-letters", "retry", str(second["id"]))
        client = await letters.world.json("bob")
        await until(lambda: len(app.seen) == 2)
        assert {told(seen) for seen in app.seen} == {
            ("disconnected", "2", second["connectionId"]),
            ("connected", "1", client.connection_id),
        }
        assert await letters.kept() == []


@pytest.mark.parametrize(("what", "sent"), [("retry", 2), ("drop", 0)])
async def test_all_letters_of_a_hub_leave_at_once_and_those_of_others_stay(
    up: HubwireUp, app: AppServer, what: str, sent: int
) -> None:
    letters, others = Letters(up, f"all_{what}"), Letters(up, f"others_{what}")
    async with letters.world, others.world:
        for one in (letters, others):
            await one.handle(app)
        await others.refused(app)
        found = await letters.refused(app)
        await letters.cli("events", "dead-letters", what, "--all", "--hub", letters.world.hub)
        assert await letters.kept() == []
        assert len(await others.kept()) == 2
        client = await letters.world.json("bob")
        await until(lambda: len(app.seen) == sent + 1)
        connections = [told(seen)[2] for seen in app.seen]
        assert sorted(connections) == sorted([client.connection_id, *[found[0]["connectionId"]] * sent])
