"""azure-messaging-webpubsubclient, unmodified, sync and aio, in its default protocol, the reliable one: it
recovers by itself (client-protocols.md 9.3, 9.5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from azure.messaging.webpubsubclient import WebPubSubClientCredential
from azure.messaging.webpubsubclient.aio import WebPubSubClientCredential as AioCredential
from azure.messaging.webpubsubclient.models import CallbackType, WebPubSubDataType
from support.detour import Detour
from support.inventory import CLIENT, CLIENT_AIO, RELIABLE, python_classes
from support.reliable_world import JSON_RELIABLE
from support.world import SECONDS, World

CLASSES = {area: python_classes()[area] for area in (CLIENT, CLIENT_AIO)}
TEXT = WebPubSubDataType.TEXT
ACK_SECONDS = 1.0
KINDS = (
    CallbackType.CONNECTED,
    CallbackType.DISCONNECTED,
    CallbackType.GROUP_MESSAGE,
    CallbackType.SERVER_MESSAGE,
    CallbackType.REJOIN_GROUP_FAILED,
)
every_client = pytest.mark.parametrize("area", CLASSES)


class Recovering:
    """Either client: awaitable methods; messages in a queue, all other callbacks in another."""

    def __init__(self, area: str, world: World, detour: Detour, compat: Any, **token: Any) -> None:
        self._sync = area == CLIENT

        def new_url() -> str:
            return world.client_url(user_id="alice", gateway=detour.endpoint, **token)

        async def new_url_async() -> str:
            return new_url()

        # The sync client waits for an ack without looking whether it has come already (9.3); then it waits
        # for its whole `ack_timeout`, and succeeds.
        client = CLASSES[area](
            WebPubSubClientCredential(new_url) if self._sync else AioCredential(new_url_async),
            ack_timeout=ACK_SECONDS if self._sync else SECONDS,
            reconnect_retry_backoff_factor=0.1,
        )
        self._client = compat.watch(client, area)
        self._loop = asyncio.get_running_loop()
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        self.events: asyncio.Queue[tuple[CallbackType, Any]] = asyncio.Queue()

    async def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        method = getattr(self._client, name)
        if self._sync:
            return await asyncio.to_thread(method, *arguments, **options)
        return await method(*arguments, **options)

    async def open(self) -> Any:
        """Open it; what its first `connected` event says."""
        for kind in KINDS:
            await self.call("subscribe", kind, self._listener(kind))
        await self.call("open")
        return await self.event(CallbackType.CONNECTED)

    def _listener(self, kind: CallbackType) -> Any:
        def heard(told: Any) -> None:
            if kind in (CallbackType.GROUP_MESSAGE, CallbackType.SERVER_MESSAGE):
                self._loop.call_soon_threadsafe(self.messages.put_nowait, told)
            else:
                self._loop.call_soon_threadsafe(self.events.put_nowait, (kind, told))

        async def heard_async(told: Any) -> None:
            heard(told)

        return heard if self._sync else heard_async

    async def event(self, kind: CallbackType) -> Any:
        """The next callback that is for no message, which must be of this kind."""
        async with asyncio.timeout(SECONDS):
            found, told = await self.events.get()
        assert found == kind, (found, told)
        return told

    async def got(self, count: int) -> list[tuple[int, str]]:
        """Sequence ids and data of the next messages. The sync client calls back in a thread of its own for
        each message, so its callbacks overtake each other."""
        found: list[tuple[int, str]] = []
        for _ in range(count):
            async with asyncio.timeout(SECONDS):
                message = await self.messages.get()
            found.append((message.sequence_id, message.data))
        return sorted(found) if self._sync else found


@asynccontextmanager
async def recovering(area: str, world: World, compat: Any, **token: Any) -> AsyncIterator[tuple[Any, Any]]:
    """A client that is not open, and the detour that it takes. Closed afterwards."""
    async with Detour(world.topology.gateways) as detour:
        client = Recovering(area, world, detour, compat, **token)
        try:
            yield client, detour
        finally:
            detour.open_way()
            await client.call("close")


@pytest.mark.compat(RELIABLE, JSON_RELIABLE)
@every_client
async def test_it_joins_sends_and_receives_with_numbers(world, compat, area):
    async with recovering(area, world, compat) as (client, _):
        connected = await client.open()
        assert connected.user_id == "alice"
        await client.call("join_group", "room")
        await client.call("send_to_group", "room", "own", TEXT)
        await client.call("send_to_group", "room", "quiet", TEXT, no_echo=True)
        headers = {"Content-Type": "text/plain"}
        await world.rest("POST", "/users/alice/:send", data="server", headers=headers)
        assert await client.got(2) == [(1, "own"), (2, "server")]
        await client.call("leave_group", "room")
        await world.gone("/groups/room")
        await client.call("close")
        await world.gone(f"/connections/{connected.connection_id}")


@every_client
async def test_after_losses_it_has_every_message_once_and_in_order_and_hears_of_nothing(world, compat, area):
    """Some are sent while it is away, some while it is there, and none is lost between the two."""
    compat.used(RELIABLE, f"{area} recovers by itself")
    sender = await world.json("bob")
    async with recovering(area, world, compat) as (client, detour):
        await client.open()
        await client.call("join_group", "room")
        sent = 0
        for _ in range(3):
            taken = detour.taken
            detour.close_way()
            for _ in range(20):
                await sender.publish("room", f"m{(sent := sent + 1)}", "text")
            detour.open_way()
            for _ in range(20):
                await sender.publish("room", f"m{(sent := sent + 1)}", "text")
            assert await client.got(40) == [(n, f"m{n}") for n in range(sent - 39, sent + 1)]
            assert detour.taken > taken
        await client.call("send_to_group", "room", "still may", TEXT)
        assert await client.got(1) == [(sent + 1, "still may")]
        assert client.events.empty(), "neither connected nor disconnected was raised again"


@every_client
async def test_what_it_publishes_while_it_loses_its_way_arrives(world, compat, area):
    """It tries again by itself, under another id: at least once is what its applications get (4.6)."""
    member = await world.json(groups=["room"])
    async with recovering(area, world, compat) as (client, detour):
        await client.open()
        for number in range(3):
            sending = asyncio.create_task(client.call("send_to_group", "room", f"m{number}", TEXT))
            await asyncio.sleep(0)
            detour.lose()
            await sending
        seen = []
        while "m2" not in seen:
            seen.append(await member.data())
        assert [*dict.fromkeys(seen)] == [f"m{number}" for number in range(3)]
        assert client.events.empty()


@every_client
async def test_a_session_that_was_ended_while_it_was_away_begins_anew(world, compat, area):
    """It is told so with 1008, asks for another URL, and joins its groups again."""
    async with recovering(area, world, compat) as (client, detour):
        first = await client.open()
        await client.call("join_group", "room")
        detour.close_way()
        path = f"/connections/{first.connection_id}"
        assert (await world.rest("DELETE", path))[0] == 204
        await world.gone(path)
        detour.open_way()
        assert (await client.event(CallbackType.DISCONNECTED)).connection_id == first.connection_id
        second = await client.event(CallbackType.CONNECTED)
        assert second.connection_id != first.connection_id
        await world.present("/groups/room")
        await (await world.json()).publish("room", "back", "text")
        assert await client.got(1) == [(1, "back")]


@every_client
async def test_rest_close_says_why_and_the_client_begins_anew(world, compat, area):
    async with recovering(area, world, compat) as (client, _):
        first = await client.open()
        await client.call("join_group", "room")
        path = f"/connections/{first.connection_id}"
        assert (await world.rest("DELETE", path, [("reason", "try again")]))[0] == 204
        told = await client.event(CallbackType.DISCONNECTED)
        assert told.message == "Application server closed the connection. Reason: try again"
        assert (await client.event(CallbackType.CONNECTED)).connection_id != first.connection_id


@every_client
async def test_five_thousand_messages_at_once_do_not_end_a_client_that_acknowledges(world, compat, area):
    sender = await world.json()
    async with recovering(area, world, compat, groups=["room"]) as (client, detour):
        await client.open()
        for number in range(1, 5_001):
            await sender.send(type="sendToGroup", group="room", dataType="text", data=f"m{number}")
            if number % 500 == 0:  # no faster than a client can be that acknowledges once a second
                assert await client.got(500) == [(n, f"m{n}") for n in range(number - 499, number + 1)]
                if number == 2_500:
                    detour.lose()
                await asyncio.sleep(0.6)
        assert client.events.empty()
