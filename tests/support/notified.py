"""An application server that is told of connections, and what must be true of what it was told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

from aiohttp import web
from support.members import HUB
from support.processes import KEY, Service
from websockets.asyncio.client import connect

from hubwire.bus.client import BusClient
from hubwire.bus.dead_letters import DeadLetters, KeptLetter
from hubwire.bus.event_log import STREAM, EventLog, unpack_document
from hubwire.bus.jetstream import StreamMissing, call
from hubwire.bus.settings import SettingsStore
from hubwire.model.errors import Unavailable
from hubwire.model.settings import EventHandler, GroupPresenceEvents, HubSettings
from hubwire.model.tokens import sign_client_token
from hubwire.runtime.nats_options import nats_options
from hubwire.runtime.process import ProcessConfig


class Told(NamedTuple):
    """One event request, in the order of arrival."""

    name: str
    connection_id: str
    number: int
    request_id: str
    body: dict[str, object]
    status: int


class Application:
    """Listens on one port that stays its own, so that it can go away and come back. `answer` gives the
    status of each event, perhaps after a while; validation requests are always agreed to."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.answer: Callable[[str, str], Awaitable[int]] = self._yes
        self.port = 0
        self.in_progress: set[tuple[str, str]] = set()
        self.overlaps: list[tuple[str, str]] = []
        self._runner: web.ServerRunner | None = None

    async def _yes(self, _name: str, _connection: str) -> int:
        return 204

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/events"

    async def start(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "OPTIONS":
            return web.Response(headers={"WebHook-Allowed-Origin": "*"})
        head = request.headers
        name, connection = head["ce-eventName"], head["ce-connectionId"]
        body = json.loads(await request.read())
        if any(other == connection for _, other in self.in_progress):
            self.overlaps.append((name, connection))
        self.in_progress.add((name, connection))
        try:
            status = await self.answer(name, connection)
        finally:
            self.in_progress.discard((name, connection))
        self.told.append(
            Told(name, connection, int(head["ce-id"]), head["x-ms-client-request-id"], body, status)
        )
        return web.Response(status=status)

    def of(self, name: str) -> list[Told]:
        """The events that it answered with success."""
        return [each for each in self.told if each.name == name and each.status < 300]

    def assert_in_order(self, *, repeats: int = 0) -> None:
        """Per connection: `connected` before all else, `disconnected` after all else, numbers that grow, and
        a success only once (`repeats`: how many may have been told twice, each with the same ids)."""
        by_connection: dict[str, list[Told]] = defaultdict(list)
        for each in self.told:
            if each.status < 300:
                by_connection[each.connection_id].append(each)
        repeated = 0
        for events in by_connection.values():
            once: list[Told] = []
            for each in events:
                same = [one for one in once if one.number == each.number]
                if same:
                    assert same[0].name == each.name
                    assert same[0].request_id == each.request_id, "a repeat can be recognised"
                    repeated += 1
                else:
                    once.append(each)
            assert [one.number for one in once] == sorted(one.number for one in once), once
            names = [one.name for one in once]
            assert names.count("connected") <= 1
            assert names.count("disconnected") <= 1
            assert "connected" not in names[1:]
            assert "disconnected" not in names[:-1]
        assert repeated <= repeats
        assert self.overlaps == []


def handler_at(url: str, *, presence: bool = False) -> HubSettings:
    groups = GroupPresenceEvents(("joined", "left"), ("*",)) if presence else None
    return HubSettings(
        event_handlers=(EventHandler(url, None, ("connected", "disconnected"), group_presence_events=groups),)
    )


@contextlib.asynccontextmanager
async def application() -> AsyncIterator[Application]:
    app = Application()
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Wait until it is so. While this process has no NATS itself, nothing is."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                if await condition():
                    return
            except Unavailable:
                pass
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def visitors(gateway: Service, hub: str, count: int) -> AsyncIterator[None]:
    """Simple clients of any hub, for as long as the context lasts."""
    endpoint = f"127.0.0.1:{gateway.port}"
    token = sign_client_token(KEY, endpoint=f"http://{endpoint}", hub=hub, now=time.time())
    url = f"ws://{endpoint}/client/hubs/{hub}?access_token={token}"
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(count):
            await stack.enter_async_context(connect(url))
        yield


class Cluster(NamedTuple):
    """What a test looks at, and changes, behind the back of the processes."""

    bus: BusClient
    settings: SettingsStore
    events: EventLog
    letters: DeadLetters

    async def handle(self, url: str, hub: str = HUB, *, presence: bool = False) -> None:
        await self.settings.put_hub(hub, handler_at(url, presence=presence))

    async def records(self) -> int:
        """How many messages the stream of events has."""
        try:
            return int((await call(self.bus, "INFO", STREAM, {}))["state"]["messages"])
        except StreamMissing:
            return 0

    async def until_nothing_waits(self, seconds: float = 10.0) -> None:
        """Until no event waits, as far as the stream knows; `disconnected` may be owed."""
        await eventually(self._nothing_waits, seconds)

    async def _nothing_waits(self) -> bool:
        for outbox in await self.events.outboxes():
            for subject in await self.events.subjects(outbox):
                found = await self.events.read(subject)
                if found is not None and unpack_document(found.data).pending:
                    return False
        return True

    async def until_empty(self, gateways: int, seconds: float = 20.0) -> None:
        """Until nothing waits and nothing is owed: only the marks of living gateways are left."""

        async def empty() -> bool:
            return await self.records() <= gateways

        await eventually(empty, seconds)

    async def until_records(self, count: int, seconds: float = 20.0) -> None:
        async def there() -> bool:
            return await self.records() >= count

        await eventually(there, seconds)

    async def dead_letters(self, count: int, seconds: float = 10.0) -> list[KeptLetter]:
        """Wait for so many, and give all that there are."""

        async def there() -> bool:
            return len(await self.letters.list()) >= count

        await eventually(there, seconds)
        return await self.letters.list()


@contextlib.asynccontextmanager
async def behind(config: ProcessConfig) -> AsyncIterator[Cluster]:
    bus = await BusClient.connect(nats_options(config, name="behind"))
    memory = config.in_memory
    settings = await SettingsStore.open(bus.js, storage="memory" if memory else "file")
    try:
        yield Cluster(
            bus,
            settings,
            EventLog(bus, memory=memory, replicas=1),
            DeadLetters(bus, memory=memory, replicas=1),
        )
    finally:
        await settings.close()
        await bus.close()
