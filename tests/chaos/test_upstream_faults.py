"""Application servers that fail in each way there is, behind a whole `hubwire up`, while another one is well.

What must be true: the client of the failing one sees what server-events.md 4.2 and 4.6 say and stays, nothing
is asked again that may have been handled, the other hub's events are not delayed, and all is well again when
the server is. (How each answer is judged by itself: tests/integration/test_upstream_client.py. What becomes
of notifications: test_event_faults.py.)
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from aiohttp import web
from support.examples import hubwire
from support.stack import until
from support.topology import HubwireUp
from support.upstreams import AppServer, app_server
from support.world import JsonClient, World
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

EVENT_SECONDS = 3
"""How long an event may take in all."""
DELAY_SECONDS = 1.5
"""More than an event of the server that is well may take on a busy machine, less than any fault does."""
HEAL_SECONDS = 30.0
_numbers = itertools.count()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubwireUp]:
    with HubwireUp(tmp_path_factory.mktemp("up"), "--upstream-seconds", str(EVENT_SECONDS)) as one:
        yield one


async def handle(up: HubwireUp, hub: str, base: str, *words: str) -> None:
    """Give the hub this handler by the command line, as a person would."""
    service = f"Endpoint={up.up.endpoint};AccessKey={up.key};Version=1.0;"
    handler = (f"url={base}/{{event}}?code=s3cr3t", "events=*", *words)
    await asyncio.to_thread(hubwire, service, "hubs", "set", hub, "--event-handler", *handler)


async def categories(up: HubwireUp, hub: str) -> Counter[str]:
    service = f"Endpoint={up.up.endpoint};AccessKey={up.key};Version=1.0;"
    shown = await asyncio.to_thread(hubwire, service, "events", "failures", hub, "--json")
    assert "s3cr3t" not in shown
    return Counter(each["category"] for each in json.loads(shown)["value"])


Bytes = Callable[[asyncio.StreamWriter], Awaitable[None]]
AGREES = b"HTTP/1.1 200 OK\r\nWebHook-Allowed-Origin: *\r\nContent-Length: 0\r\n\r\n"
WELL = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nwell"
DONE = b"HTTP/1.1 204 No Content\r\n\r\n"


class Upstream:
    """Well until `fault` is set, which then writes all answers to events (and, if `agrees` is not what it
    should be, those to validations). It keeps its port while it is down."""

    def __init__(self) -> None:
        self.fault: Bytes | None = None
        self.agrees = AGREES
        self.asked: Counter[tuple[str, str]] = Counter()
        """How often each event came while there was a fault, by connection and number."""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            for writer in list(self._writers):
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                if head.startswith("OPTIONS"):
                    writer.write(self.agrees)
                    continue
                lines = (line.partition(": ") for line in head.split("\r\n")[1:])
                headers = {name.lower(): value for name, _, value in lines}
                await reader.readexactly(int(headers["content-length"]))
                if self.fault is None:
                    writer.write(DONE if ".sys." in headers["ce-type"] else WELL)
                else:
                    self.asked[headers["ce-connectionid"], headers["ce-id"]] += 1
                    await self.fault(writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


@contextlib.asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    one = Upstream()
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


class OtherHub:
    """A hub whose server is well: two clients who ask all the time. `slowest` is of all their events."""

    def __init__(self) -> None:
        self.slowest = 0.0
        self.answered = 0
        self.failed: list[object] = []

    async def ask(self, client: JsonClient) -> None:
        while True:
            began = time.monotonic()
            ack = await client.request("event", event="e", dataType="text", data="hi")
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.answered += 1
            if not ack["success"]:
                self.failed.append(ack)
            await client.message()
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def nobody_else_is_delayed(up: HubwireUp) -> AsyncIterator[None]:
    async def well(_: web.Request) -> web.StreamResponse:
        return web.Response(text="well")

    async with app_server() as app, World(up, f"well{next(_numbers)}") as world:
        app.answer = well
        await handle(up, world.hub, app.base)
        other = OtherHub()
        asking = [asyncio.create_task(other.ask(client)) for client in await world.several(2)]
        try:
            await until(lambda: other.answered > 10)
            other.slowest = 0.0  # of the first ones, which wait for the validation
            yield
        finally:
            for task in asking:
                task.cancel()
            ended = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended
        assert other.failed == []
        assert other.slowest < DELAY_SECONDS


class Fault(NamedTuple):
    answer: Bytes
    category: str
    attempts: int
    """At most, of one event: what may have been handled is asked about once."""


def writes(content: bytes, *, closes: bool = False) -> Bytes:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        if closes:
            await writer.drain()
            writer.close()

    return answer


async def hangs(_: asyncio.StreamWriter) -> None:
    await asyncio.sleep(EVENT_SECONDS * 3)


TOO_LARGE = 17 * 1024 * 1024


async def much(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    for _ in range(TOO_LARGE // 65536):
        writer.write(b"x" * 65536)
        await writer.drain()
    writer.close()


FAULTS = {
    "hangs": Fault(hangs, "timeout", 1),
    "garbage": Fault(writes(b"\x00\xff garbage\r\n\r\n", closes=True), "bad_answer", 1),
    "closes in mid-body": Fault(
        writes(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", closes=True), "network", 1
    ),
    "redirects": Fault(
        writes(b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"), "status", 1
    ),
    "more than it may": Fault(much, "too_large", 1),
}


async def fails(client: JsonClient) -> None:
    ack = await client.request("event", event="e", dataType="text", data="hi")
    assert (ack["success"], ack["error"]["name"]) == (False, "InternalServerError")


async def heals(client: JsonClient) -> None:
    """The same connection is answered again; what was open or remembered of the fault is over by itself."""
    async with asyncio.timeout(HEAL_SECONDS):
        while not (await client.request("event", event="e", dataType="text", data="hi"))["success"]:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.1)
    assert await client.data() == "well"


async def refused_with_500(world: World) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await world.json("eve")
    assert refused.value.response.status_code == 500
    assert b"see the service's log" in (refused.value.response.body or b"")


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_is_seen_by_its_own_clients_only_and_is_over_when_it_ends(
    up: HubwireUp, name: str
) -> None:
    fault = FAULTS[name]
    async with upstream() as server, World(up, f"faulty{next(_numbers)}") as world:
        await handle(up, world.hub, server.base, "system=connect")
        staying, simple = await world.several(4, "ada"), await world.simple("bob")
        async with nobody_else_is_delayed(up):
            server.fault = fault.answer
            await simple.send_frame("hi")
            await asyncio.gather(*(fails(client) for client in staying), refused_with_500(world))
            assert await simple.closed() == (1011, "The message could not be handled.")
            found = await categories(up, world.hub)
            assert found[fault.category] >= 1, found
            assert set(found) <= {fault.category, "circuit_open"}
            assert server.asked
            assert max(server.asked.values()) <= fault.attempts
            server.fault = None
            for client in staying:
                await heals(client)


async def test_a_server_that_is_down_costs_its_own_clients_only_and_is_used_again_when_it_is_back(
    up: HubwireUp,
) -> None:
    async with upstream() as server, World(up, f"down{next(_numbers)}") as world:
        await handle(up, world.hub, server.base, "system=connect")
        staying, simple = await world.several(4, "ada"), await world.simple("bob")
        async with nobody_else_is_delayed(up):
            await server.stop()
            await simple.send_frame("hi")
            await asyncio.gather(*(fails(client) for client in staying), refused_with_500(world))
            assert await simple.closed() == (1011, "The message could not be handled.")
            assert set(await categories(up, world.hub)) <= {
                "network",
                "timeout",
                "circuit_open",
                "validation",
            }
            await server.start()
            for client in staying:
                await heals(client)


@pytest.mark.parametrize(
    "agrees",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nWebHook-Allowed-Origin: else.example\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 403 No\r\nWebHook-Allowed-Origin: *\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 307 X\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
        b"\x00 garbage\r\n\r\n",
    ],
)
async def test_a_server_that_does_not_agree_gets_nothing_until_it_does(up: HubwireUp, agrees: bytes) -> None:
    async with upstream() as server, World(up, f"refuses{next(_numbers)}") as world:
        server.agrees, server.fault = agrees, writes(WELL)
        await handle(up, world.hub, server.base)
        (staying,) = await world.several(1, "ada")
        async with nobody_else_is_delayed(up):
            await fails(staying)
            assert set(await categories(up, world.hub)) == {"validation"}
            assert not server.asked, "it got an event that it did not agree to"
            server.agrees, server.fault = AGREES, None
            await heals(staying)


def most_memory(up: HubwireUp) -> int:
    """The most that each process of the service ever had, added, in bytes; 0 where only Linux tells."""
    if not Path("/proc/self/status").exists():
        return 0
    own = up.up.process.pid
    children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in children]
    return sum(int(text.partition("VmHWM:")[2].split()[0]) * 1024 for text in statuses)


async def test_answers_of_ten_megabytes_reach_their_clients_delay_nobody_and_cost_bounded_memory(
    up: HubwireUp,
) -> None:
    size, count, times = 10 * 1024 * 1024, 3, 12
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\n\r\n".encode()
    async with upstream() as server, World(up, f"large{next(_numbers)}") as world:
        await handle(up, world.hub, server.base)
        async with contextlib.AsyncExitStack() as stack:
            urls = [world.client_url(user_id="ada") for _ in range(count)]
            clients = [await stack.enter_async_context(connect(url, max_size=None)) for url in urls]
            server.fault = writes(head + b"x" * size)
            before = most_memory(up)

            async def ask(client: ClientConnection) -> None:
                for _ in range(times):
                    await client.send("hi")
                    assert len(await client.recv()) == size

            async with nobody_else_is_delayed(up):
                await asyncio.gather(*map(ask, clients))
            # A third of what went through: each client has an answer on its way and one in its outbox.
            assert most_memory(up) - before < size * count * times // 3


def all_end_with(answers: dict[str, list[str]], name: str) -> bool:
    return all(found[-1:] == [name] for found in answers.values())


async def test_settings_may_change_while_events_flow_and_each_is_handled_once(up: HubwireUp) -> None:
    hub = f"changing{next(_numbers)}"
    system = "system=connect,connected,disconnected"
    asked: list[tuple[str, str, str]] = []  # server, connection, number

    def answering(name: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def answer(request: web.Request) -> web.StreamResponse:
            asked.append((name, request.headers["ce-connectionId"], request.headers["ce-id"]))
            return web.Response() if ".sys." in request.headers["ce-type"] else web.Response(text=name)

        return answer

    async with app_server() as first, app_server() as second, World(up, hub) as world:
        first.answer, second.answer = answering("first"), answering("second")
        servers: list[tuple[str, AppServer]] = [("second", second), ("first", first), ("second", second)]
        await handle(up, hub, first.base, system)
        clients = await world.several(4, "ada")
        answers: dict[str, list[str]] = {client.connection_id: [] for client in clients}
        stop = False

        async def flow(client: JsonClient) -> None:
            while not stop:
                ack = await client.request("event", event="e", dataType="text", data="hi")
                assert ack["success"] is True
                answers[client.connection_id].append(await client.data())

        passing: list[str] = []
        async with asyncio.TaskGroup() as flowing:
            for client in clients:
                flowing.create_task(flow(client))
            for name, server in servers:
                before = {each: len(found) for each, found in answers.items()}
                await handle(up, hub, server.base, system)
                await until(functools.partial(all_end_with, answers, name))
                for each, found in answers.items():
                    # From some event on it is the other server that answers, and it is for good.
                    later = found[before[each] :]
                    assert set(later[later.index(name) :]) == {name}
                bob = await world.json("bob")
                await bob.close()
                passing.append(bob.connection_id)
            stop = True

        def numbers(connection: str) -> list[int]:
            return sorted(int(number) for _, each, number in asked if each == connection)

        # Notifications come in their own time; none is left out and none comes twice, to whichever server.
        await until(lambda: all(numbers(each) == [0, 1, 2] for each in passing))
        await until(
            lambda: all(numbers(each) == list(range(len(found) + 2)) for each, found in answers.items())
        )
