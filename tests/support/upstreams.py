"""Application servers for tests of event handlers: well-behaved, scripted, and hostile ones, on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiohttp import web

from gateway.upstream.answers import Identity
from gateway.upstream.config import UpstreamConfig
from gateway.upstream.contexts import ConnectContext, EventContext
from gateway.upstream.service import UpstreamService
from gateway.upstream.source import EventSource
from hubwire.model.message import DataType
from hubwire.model.settings import AccessKeys, EventHandler, HubSettings

KEYS = AccessKeys("primary-key-for-tests-0123456789abcdef", "secondary-key-for-tests-0123456789abcd")
LOCAL = UpstreamConfig(allow_private=True, public_host="awps.example:8080")


class Seen(NamedTuple):
    """One request as it arrived; `headers` in the order and casing of the wire, values as bytes."""

    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def value(self, name: str) -> bytes | None:
        return next((value for each, value in self.headers if each.lower() == name.lower().encode()), None)


Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AppServer:
    """Agrees to be called, and answers events with `answer`; keeps what it saw."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.validations: list[Seen] = []
        self.answer: Answering = self._nothing
        self.allow = "*"
        self.running = 0
        self.most_running = 0
        self.base = ""

    async def _nothing(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=204)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        seen = Seen(request.method, request.path_qs, list(request.raw_headers), await request.read())
        if request.method == "OPTIONS":
            self.validations.append(seen)
            return web.Response(headers={"WebHook-Allowed-Origin": self.allow})
        self.seen.append(seen)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self.answer(request)
        finally:
            self.running -= 1


@asynccontextmanager
async def app_server() -> AsyncIterator[AppServer]:
    """An aiohttp server on a free port."""
    app = AppServer()
    runner = web.ServerRunner(web.Server(app.handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    app.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield app
    finally:
        await runner.cleanup()


Raw = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[None]]


class RawServer(NamedTuple):
    base: str
    requests: list[bytes]
    """The head of each event request."""
    connections: list[int]
    """How many connections were accepted: one number."""


@asynccontextmanager
async def raw_server(answer: Raw) -> AsyncIterator[RawServer]:
    """Agrees to be called, and lets `answer` do with each other request whatever it wants: it gets the head
    of the request, whose body is read already. The connection stays open unless `answer` closes it."""
    requests: list[bytes] = []
    connections = [0]
    open_writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections[0] += 1
        open_writers.add(writer)
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"OPTIONS"):
                    writer.write(b"HTTP/1.1 200 OK\r\nWebHook-Allowed-Origin: *\r\nContent-Length: 0\r\n\r\n")
                    continue
                length = next(
                    int(line.partition(b":")[2])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                )
                await reader.readexactly(length)
                requests.append(head)
                await answer(reader, writer, head)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            open_writers.discard(writer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield RawServer(f"http://127.0.0.1:{port}", requests, connections)
    finally:
        server.close()
        for writer in list(open_writers):
            writer.transport.abort()
        await asyncio.sleep(0)


def hub(*handlers: EventHandler) -> HubSettings:
    return HubSettings(event_handlers=handlers)


def everything(base: str, **more: Any) -> EventHandler:
    """A handler at `base` for all events."""
    return EventHandler(
        base + "/hooks/{hub}/{event}?code=s3cr3t", "*", ("connect", "connected", "disconnected"), **more
    )


@asynccontextmanager
async def service_for(
    settings: HubSettings | dict[str, HubSettings], config: UpstreamConfig = LOCAL, **more: Any
) -> AsyncIterator[UpstreamService]:
    """The service with these settings for every hub, or by hub."""

    def settings_of(name: str) -> HubSettings:
        return settings.get(name, HubSettings()) if isinstance(settings, dict) else settings

    service = UpstreamService(settings_of, lambda: KEYS, config, **more)
    try:
        yield service
    finally:
        await service.close()


def source(**changes: Any) -> EventSource:
    made = EventSource("orders", "conn-0001", "ada", "client-saw.example")
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def connecting(from_: EventSource | None = None, **changes: Any) -> ConnectContext:
    context = ConnectContext(
        from_ or source(),
        Identity("ada", ("r1",), ("g1",)),
        {"sub": "ada"},
        "tab=3",
        [("host", "awps.example")],
        (),
    )
    return context._replace(**changes)


def event(from_: EventSource | None = None, **changes: Any) -> EventContext:
    origin = from_ or source()
    context = EventContext(
        origin,
        origin.next_id(),
        "ping",
        DataType.TEXT,
        b"hi",
        None,
        simple=False,
        wants_ack=True,
        closes=False,
    )
    return context._replace(**changes)
