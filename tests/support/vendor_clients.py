"""The vendors' clients, unmodified, with one interface, for tests that kill what they are connected to.

They recover by themselves. Each is asked to join and to publish, and says what the application would see.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from typing import Any, Final, Literal, NamedTuple, Protocol

from azure.messaging.webpubsubclient import WebPubSubClient
from azure.messaging.webpubsubclient.aio import WebPubSubClient as AioClient
from azure.messaging.webpubsubclient.models import CallbackType, WebPubSubDataType, WebPubSubProtocolType
from support.inventory import JS_FOLDER

SECONDS: Final = 30.0


class Heard(NamedTuple):
    """One thing that the application was told, and when (time.monotonic). `text` is the message, or the id of
    the connection."""

    at: float
    what: Literal["connected", "message", "disconnected"]
    text: str


class Seen:
    """What the application saw: messages (sequence id and text) in order, and how often it was told what."""

    def __init__(self) -> None:
        self.messages: list[tuple[int | None, str]] = []
        self.connected: list[str] = []
        self.disconnected = 0
        self.heard: list[Heard] = []
        """All of it, in order."""
        self._changed = asyncio.Event()

    def _notice(self, what: Literal["connected", "message", "disconnected"], text: str) -> None:
        self.heard.append(Heard(time.monotonic(), what, text))
        self._changed.set()

    def message(self, sequence_id: int | None, text: str) -> None:
        self.messages.append((sequence_id, text))
        self._notice("message", text)

    def connect(self, connection_id: str) -> None:
        self.connected.append(connection_id)
        self._notice("connected", connection_id)

    def disconnect(self, connection_id: str) -> None:
        self.disconnected += 1
        self._notice("disconnected", connection_id)

    async def until_it_has(self, text: str, seconds: float = SECONDS) -> None:
        async with asyncio.timeout(seconds):
            while not any(one == text for _, one in self.messages):
                self._changed.clear()
                await self._changed.wait()

    async def until_connected(self) -> None:
        async with asyncio.timeout(SECONDS):
            while not self.connected:
                self._changed.clear()
                await self._changed.wait()


class VendorClient(Protocol):
    seen: Seen

    async def join(self, group: str) -> None: ...

    async def publish(self, group: str, text: str) -> None: ...


class _Python:
    """azure-messaging-webpubsubclient; the sync one is called in threads."""

    def __init__(self, url: str, sync: bool, plain: bool) -> None:
        self.seen = Seen()
        self._sync = sync
        protocol = WebPubSubProtocolType.JSON if plain else WebPubSubProtocolType.JSON_RELIABLE
        # The sync client waits for its whole ack timeout when an ack overtakes it, and then succeeds.
        kind, seconds = (WebPubSubClient, 2.0) if sync else (AioClient, SECONDS)
        self._client: Any = kind(url, protocol_type=protocol, ack_timeout=seconds)
        self._loop = asyncio.get_running_loop()

    async def call(self, name: str, *arguments: Any) -> None:
        method = getattr(self._client, name)
        if self._sync:
            await asyncio.to_thread(method, *arguments)
        else:
            await method(*arguments)

    def _hear(self, kind: CallbackType, told: Any) -> None:
        if kind is CallbackType.GROUP_MESSAGE:
            self.seen.message(told.sequence_id, told.data)
        elif kind is CallbackType.CONNECTED:
            self.seen.connect(told.connection_id)
        else:
            self.seen.disconnect(told.connection_id)

    async def open(self) -> None:
        for kind in (CallbackType.GROUP_MESSAGE, CallbackType.CONNECTED, CallbackType.DISCONNECTED):
            await self.call("subscribe", kind, self._listener(kind))
        await self.call("open")

    def _listener(self, kind: CallbackType) -> Any:
        def heard(told: Any) -> None:
            self._loop.call_soon_threadsafe(self._hear, kind, told)

        async def heard_async(told: Any) -> None:
            self._hear(kind, told)

        return heard if self._sync else heard_async

    async def join(self, group: str) -> None:
        await self.call("join_group", group)

    async def publish(self, group: str, text: str) -> None:
        await self.call("send_to_group", group, text, WebPubSubDataType.TEXT)


class _JavaScript:
    """@azure/web-pubsub-client in a Node process (tests/conformance/js/recovers.mjs)."""

    def __init__(self, process: Process) -> None:
        self.seen = Seen()
        self._process = process
        self._done: asyncio.Queue[None] = asyncio.Queue()

    async def read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            told = json.loads(line)
            if "message" in told:
                self.seen.message(told.get("sequenceId"), told["message"])
            elif "connected" in told:
                self.seen.connect(told["connected"])
            elif "done" in told:
                self._done.put_nowait(None)
            else:
                self.seen.disconnect(told.get("disconnected", ""))

    async def _ask(self, **what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        async with asyncio.timeout(SECONDS):
            await self._done.get()

    async def join(self, group: str) -> None:
        await self._ask(join=group)

    async def publish(self, group: str, text: str) -> None:
        await self._ask(publish=text, group=group)


@contextlib.asynccontextmanager
async def vendor_client(kind: str, url: str) -> AsyncIterator[VendorClient]:
    """`python`, `python-aio`, `javascript` or, over protobuf.reliable, `javascript-protobuf`; with `-plain`
    behind it, over json.webpubsub.azure.v1, which recovers nothing: those connect anew and join again.
    Connected to this client access URL, closed afterwards."""
    plain = kind.endswith("-plain")
    if not kind.startswith("javascript"):
        client = _Python(url, kind.removesuffix("-plain") == "python", plain)
        await client.open()
        try:
            await client.seen.until_connected()
            yield client
        finally:
            await client.call("close")
        return
    process = await asyncio.create_subprocess_exec(
        "node", "recovers.mjs", url, kind.removeprefix("javascript-"), cwd=JS_FOLDER, stdin=PIPE, stdout=PIPE
    )
    script = _JavaScript(process)
    reading = asyncio.create_task(script.read())
    try:
        await script.seen.until_connected()
        yield script
    finally:
        process.kill()
        await process.wait()
        await reading
