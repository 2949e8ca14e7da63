"""azure-messaging-webpubsubclient, unmodified: each public method of both clients, sync and aio.

As in test_python_service.py, one exercise a method serves both. The clients use the protocol that is not
reliable (the default is). The sync client waits for an ack without looking whether it has come already; then
it waits for its whole `ack_timeout` and succeeds, so that is short here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from azure.messaging.webpubsubclient import WebPubSubClientCredential
from azure.messaging.webpubsubclient.aio import WebPubSubClientCredential as AioCredential
from azure.messaging.webpubsubclient.models import (
    CallbackType,
    OpenClientError,
    SendMessageError,
    WebPubSubDataType,
    WebPubSubProtocolType,
)
from support.inventory import CLIENT, CLIENT_AIO, public_methods, python_classes
from support.world import EVERYTHING, SECONDS, World

CLASSES = {area: python_classes()[area] for area in (CLIENT, CLIENT_AIO)}
ACK_SECONDS = 1.0


class PythonClient:
    """One interface to both clients: awaitable methods, and what the callbacks were given as a queue."""

    def __init__(self, area: str, credential: Any, watch: Callable[[Any, str], Any]) -> None:
        self.sync = area == CLIENT
        self.client = CLASSES[area](
            credential,
            protocol_type=WebPubSubProtocolType.JSON,
            ack_timeout=ACK_SECONDS if self.sync else SECONDS,
            message_retry_total=0,
            reconnect_retry_total=3,
            reconnect_retry_backoff_factor=0.1,
        )
        self._watched = watch(self.client, area)
        self._loop = asyncio.get_running_loop()
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self._listeners: dict[CallbackType, Any] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._watched, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            if self.sync or name == "is_connected":
                return await asyncio.to_thread(method, *arguments, **options)
            return await method(*arguments, **options)

        return call

    async def listen(self, *kinds: CallbackType) -> None:
        """Put what these callbacks are given into `events`, with the kind."""
        for kind in kinds:
            self._listeners[kind] = self._listener(kind)
            await self.subscribe(kind, self._listeners[kind])

    async def listen_no_more(self, kind: CallbackType) -> None:
        await self.unsubscribe(kind, self._listeners.pop(kind))

    def _listener(self, kind: CallbackType) -> Any:
        def heard(*arguments: Any) -> None:
            told = (kind, *arguments)
            self._loop.call_soon_threadsafe(self.events.put_nowait, told)

        async def heard_async(*arguments: Any) -> None:
            heard(*arguments)

        return heard if self.sync else heard_async

    async def next(self, kind: CallbackType) -> Any:
        """What the next callback was given, which must be of this kind."""
        async with asyncio.timeout(SECONDS):
            told, *arguments = await self.events.get()
        assert told == kind, (told, arguments)
        return arguments[0] if arguments else None


class Exercises:
    """One for each public method, by its name. `client` is not open yet."""

    def __init__(self, world: World, client: PythonClient) -> None:
        self.world = world
        self.client = client

    async def open(self) -> None:
        await self.client.listen(CallbackType.CONNECTED)
        await self.client.open()
        connected = await self.client.next(CallbackType.CONNECTED)
        assert connected.user_id == "alice"
        assert (await self.world.rest("HEAD", f"/connections/{connected.connection_id}"))[0] == 200
        with pytest.raises(OpenClientError):
            await self.client.open()

    async def close(self) -> None:
        await self.client.listen(CallbackType.CONNECTED, CallbackType.STOPPED)
        await self.client.open()
        connected = await self.client.next(CallbackType.CONNECTED)
        await self.client.close()
        await self.client.next(CallbackType.STOPPED)
        await self.world.gone(f"/connections/{connected.connection_id}")
        await self.client.open()  # it may be opened again
        again = await self.client.next(CallbackType.CONNECTED)
        assert again.connection_id != connected.connection_id

    async def is_connected(self) -> None:
        assert await self.client.is_connected() is False
        await self.client.open()
        assert await self.client.is_connected() is True
        await self.client.close()
        assert await self.client.is_connected() is False

    async def join_group(self) -> None:
        await self.client.listen(CallbackType.GROUP_MESSAGE)
        await self.client.open()
        await self.client.join_group("room")
        await self.client.join_group("other", ack_id=77)
        sender = await self.world.json("bob")
        for group in ("room", "other"):
            await sender.publish(group, {"n": 1})
            message = await self.client.next(CallbackType.GROUP_MESSAGE)
            assert (message.group, message.from_user_id, message.data) == (group, "bob", {"n": 1})
            assert message.data_type == WebPubSubDataType.JSON
            assert message.sequence_id is None

    async def leave_group(self) -> None:
        await self.client.listen(CallbackType.GROUP_MESSAGE)
        await self.client.open()
        for group in ("a", "b"):
            await self.client.join_group(group)
        await self.client.leave_group("a")
        sender = await self.world.json()
        await sender.publish("a", "lost")
        await sender.publish("b", "end")
        assert (await self.client.next(CallbackType.GROUP_MESSAGE)).data == "end"

    async def send_to_group(self) -> None:
        await self.client.listen(CallbackType.GROUP_MESSAGE)
        await self.client.open()
        await self.client.join_group("room")
        member = await self.world.json(groups=["room"])
        for content, data_type, seen in (
            ("text é", WebPubSubDataType.TEXT, "text é"),
            ({"a": ["é", 1]}, WebPubSubDataType.JSON, {"a": ["é", 1]}),
            (memoryview(b"\0\1"), WebPubSubDataType.BINARY, "AAE="),
            (memoryview(b"\n\1a"), WebPubSubDataType.PROTOBUF, "CgFh"),
        ):
            await self.client.send_to_group("room", content, data_type)
            message = await member.message()
            assert (message["data"], message["fromUserId"]) == (seen, "alice")
            echo = await self.client.next(CallbackType.GROUP_MESSAGE)
            assert (echo.data, echo.data_type) == (content, data_type)
        await self.client.send_to_group("room", "quiet", WebPubSubDataType.TEXT, no_echo=True, ack_id=99)
        await self.client.send_to_group("room", "no ack", WebPubSubDataType.TEXT, ack=False)
        # A request that was done is a success for the client, and is not done again.
        await self.client.send_to_group("room", "again", WebPubSubDataType.TEXT, ack_id=99)
        assert [await member.data(), await member.data()] == ["quiet", "no ack"]
        assert (await self.client.next(CallbackType.GROUP_MESSAGE)).data == "no ack"

    async def send_event(self) -> None:
        await self.client.open()
        with pytest.raises(SendMessageError) as refused:
            await self.client.send_event("order", {"id": 7}, WebPubSubDataType.JSON)
        assert refused.value.error_detail.name == "InternalServerError"  # nobody handles it
        await self.client.send_event("order", "text", WebPubSubDataType.TEXT, ack=False)
        await self.client.join_group("still-here")

    async def subscribe(self) -> None:
        await self.client.listen(CallbackType.CONNECTED, CallbackType.SERVER_MESSAGE, CallbackType.STOPPED)
        await self.client.open()
        await self.client.next(CallbackType.CONNECTED)
        for content_type, body, seen in (
            ("application/json", b'{"a":1}', {"a": 1}),
            ("text/plain", b"text", "text"),
            ("application/octet-stream", b"\0\1", b"\0\1"),
        ):
            headers = {"Content-Type": content_type}
            await self.world.rest("POST", "/users/alice/:send", data=body, headers=headers)
            message = await self.client.next(CallbackType.SERVER_MESSAGE)
            assert (bytes(message.data) if seen == b"\0\1" else message.data) == seen
        await self.client.close()
        await self.client.next(CallbackType.STOPPED)

    async def unsubscribe(self) -> None:
        await self.client.listen(CallbackType.SERVER_MESSAGE, CallbackType.GROUP_MESSAGE)
        await self.client.open()
        await self.client.join_group("room")
        await self.client.listen_no_more(CallbackType.SERVER_MESSAGE)
        headers = {"Content-Type": "text/plain"}
        await self.world.rest("POST", "/:send", data="unheard", headers=headers)
        await self.world.rest("POST", "/groups/room/:send", data="heard", headers=headers)
        assert (await self.client.next(CallbackType.GROUP_MESSAGE)).data == "heard"


@pytest.fixture
async def client(request, world, compat) -> AsyncIterator[PythonClient]:
    """A client of the area under test that may do everything; closed afterwards."""
    one = PythonClient(request.getfixturevalue("area"), world.client_url(user_id="alice"), compat.watch)
    yield one
    await one.close()


@pytest.mark.parametrize(
    ("area", "method"), [(area, method) for area, cls in CLASSES.items() for method in public_methods(cls)]
)
async def test_method(world, client, compat, area, method):
    exercise = getattr(Exercises(world, client), method, None)
    assert exercise is not None, f"{method} of {area} has no exercise"
    compat.used(area, method)
    await exercise()


@pytest.mark.parametrize("area", CLASSES)
async def test_a_client_without_a_role_is_told_that_it_is_forbidden(world, compat, area):
    client = PythonClient(area, world.client_url(roles=[]), compat.watch)
    await client.open()
    with pytest.raises(SendMessageError) as refused:
        await client.join_group("room")
    assert refused.value.error_detail.name == "Forbidden"
    await client.close()


@pytest.mark.parametrize("area", CLASSES)
async def test_a_client_that_is_closed_by_rest_hears_why_and_comes_back_into_its_groups(world, compat, area):
    """It gets a new URL from its credential, another connection, and joins its groups again."""
    asked = []

    def new_url() -> str:
        asked.append(1)
        return world.client_url(user_id="alice", roles=EVERYTHING)

    async def new_url_async() -> str:
        return new_url()

    credential = WebPubSubClientCredential(new_url) if area == CLIENT else AioCredential(new_url_async)
    assert area == CLIENT_AIO or credential.get_client_access_url().startswith("ws://")
    client = PythonClient(area, credential, compat.watch)
    await client.listen(CallbackType.CONNECTED, CallbackType.DISCONNECTED, CallbackType.GROUP_MESSAGE)
    await client.open()
    first = await client.next(CallbackType.CONNECTED)
    await client.join_group("room")
    await world.rest("DELETE", f"/connections/{first.connection_id}", [("reason", "try again")])
    told = await client.next(CallbackType.DISCONNECTED)
    assert told.connection_id == first.connection_id
    assert told.message == "Application server closed the connection. Reason: try again"
    second = await client.next(CallbackType.CONNECTED)
    assert second.connection_id != first.connection_id
    await world.present("/groups/room")
    await (await world.json()).publish("room", "back")
    assert (await client.next(CallbackType.GROUP_MESSAGE)).data == "back"
    assert len(asked) >= 2
    await client.close()
