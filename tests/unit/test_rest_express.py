"""The short way of a send over REST: it answers as the ordinary way does, or leaves the request to that."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.certificate_authority import CertificateAuthority
from support.memory_cluster import MemoryCluster, MemorySettings
from support.stack import on_uvloop, until

from controlplane import http
from controlplane.app import create_app
from controlplane.express import read_head
from controlplane.http import RestRunner, RestServer
from controlplane.meters import RequestTimes
from controlplane.ports import Target
from controlplane.settings import ControlPlaneConfig
from hubwire.model.errors import HubwireError, InternalError, LimitExceeded, Unavailable
from hubwire.model.message import Message
from hubwire.model.settings import HubLimits, HubSettings
from hubwire.model.tokens import sign_rest_token

pytestmark = on_uvloop

TO_USER = "/api/hubs/chat/users/ann/:send?api-version=2024-12-01"
SECONDS = 30


class HoldingCluster(MemoryCluster):
    """Keeps what it is given until the test answers."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Callable[[HubwireError | None], None]] = []

    def submit(
        self,
        hub: str,
        target: Target,
        message: Message,
        answered: Callable[[HubwireError | None], None],
        seconds: float,
    ) -> None:
        self.held.append(answered)


class Served:
    """A server of its own, and raw requests to it."""

    def __init__(
        self, port: int, runner: RestRunner, cluster: MemoryCluster, settings: MemorySettings
    ) -> None:
        self.port = port
        self.runner = runner
        self.cluster = cluster
        self.settings = settings
        self.times = RequestTimes()
        self.trusted: ssl.SSLContext | None = None

    @property
    def rest(self) -> RestServer:
        assert isinstance(self.runner.server, RestServer)
        return self.runner.server

    def request(
        self,
        target: str = TO_USER,
        body: bytes = b"hello",
        *fields: str,
        kind: str = "text/plain",
        token: str = "",
    ) -> bytes:
        token = token or sign_rest_token(self.settings.keys.primary, f"http://x{target}", time.time())
        lines = [f"POST {target} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}"]
        lines += [f"Content-Type: {kind}"] * bool(kind) + [f"Content-Length: {len(body)}", *fields]
        return "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n" + body

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.trusted is None:
            return await asyncio.open_connection("127.0.0.1", self.port)
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.trusted, server_hostname="localhost"
        )

    async def ask(self, *pieces: bytes) -> bytes:
        """The first answer, without its date."""
        reader, writer = await self.open()
        try:
            async with asyncio.timeout(SECONDS):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                return await answer_of(reader)
        finally:
            writer.close()


async def answer_of(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    body = await reader.readexactly(int(length[1])) if length else b""
    return re.sub(rb"Date: [^\r]*\r\n", b"Date\r\n", head) + body


@asynccontextmanager
async def serving(
    cluster: MemoryCluster | None = None,
    *,
    short: bool = True,
    settings: MemorySettings | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Served]:
    cluster, settings = cluster or MemoryCluster(), settings or MemorySettings()
    config = ControlPlaneConfig(max_concurrent_requests=2, max_body_bytes=1000)
    times = RequestTimes()
    runner = RestRunner(create_app(cluster, settings, config, times=times), shutdown_timeout=SECONDS)
    await runner.setup()
    assert isinstance(runner.server, RestServer)
    if not short:
        runner.server.express = None
    made = await asyncio.get_running_loop().create_server(runner.server, "127.0.0.1", 0, ssl=tls)
    served = Served(made.sockets[0].getsockname()[1], runner, cluster, settings)
    served.times = times
    try:
        yield served
    finally:
        made.close()
        await runner.cleanup()


def fields(*lines: str) -> dict[str, object]:
    return {"fields": lines}


SAME = {
    "to a user": (True, {}),
    "to a group": (True, {"target": "/api/hubs/chat/groups/g/:send?api-version=2024-12-01"}),
    "to all": (True, {"target": "/api/hubs/chat/:send"}),
    "the hub in capitals": (True, {"target": "/api/hubs/Chat/:send"}),
    "an escaped name": (True, {"target": "/api/hubs/chat/users/a%6En/:send"}),
    "an escaped colon": (True, {"target": "/api/hubs/chat/users/ann/%3asend"}),
    "an old version": (True, {"target": "/api/hubs/chat/:send?api-version=2021-05-01-preview"}),
    "json": (True, {"kind": "application/json; charset=utf-8", "body": b'{"a": 1}'}),
    "bytes": (True, {"kind": "application/octet-stream", "body": b"\x00\xff"}),
    "no type": (True, {"kind": ""}),
    "nothing": (True, {"body": b""}),
    "a request id": (True, fields("X-Ms-Client-Request-Id: 1-2-3", "Accept: */*", "Connection: Keep-Alive")),
    "a name that is no UTF-8": (False, {"target": "/api/hubs/chat/users/%ff/:send"}),
    "a hub that is none": (False, {"target": "/api/hubs/1chat/:send"}),
    "a version that is none": (False, {"target": "/api/hubs/chat/:send?api-version=1999-01-01"}),
    "a filter": (False, {"target": TO_USER + "&filter=userId%20eq%20%27ann%27"}),
    "a bad filter": (False, {"target": TO_USER + "&filter=nonsense"}),
    "excluded": (False, {"target": "/api/hubs/chat/:send?api-version=2024-12-01&excluded=c2"}),
    "a path that is none": (False, {"target": "/api/hubs/chat/rooms/ann/:send"}),
    "an empty name": (False, {"target": "/api/hubs/chat/users//:send"}),
    "not signed": (False, {"token": "a.b.c"}),
    "json that is none": (False, {"kind": "application/json", "body": b"{"}),
    "text that is none": (False, {"body": b"\xff"}),
    "a type that is none": (False, {"kind": "text"}),
    "too much": (False, {"body": b"x" * 1001}),
    "metadata": (False, fields("X-WebPubSub-Metadata-a: b")),
    "a page of the browser": (False, fields("Origin: https://example.com")),
    "the last request": (False, fields("Connection: close")),
    "two lengths": (False, fields("Content-Length: 5")),
    "two hosts": (False, fields("Host: y")),
    "compressed": (False, {"fields": ("Content-Encoding: identity",)}),
    "a field with a space": (False, fields("Odd : 1")),
    "a folded field": (False, fields("Odd: 1\r\n 2")),
    "a field beyond ASCII": (False, fields("Odd: \xe9")),
}


@pytest.mark.parametrize(("goes", "what"), SAME.values(), ids=SAME.keys())
async def test_both_ways_answer_alike(goes: bool, what: dict[str, object]) -> None:
    settings, heard, said = MemorySettings(), [], []
    more = dict(what)
    lines = more.pop("fields", ())
    for short in (True, False):
        async with serving(short=short, settings=settings) as served:
            ann = served.cluster.connect("chat", "c1", "ann", "g")
            target, body = more.pop("target", TO_USER), more.pop("body", b"hello")
            request = served.request(target, body, *lines, **more)  # type: ignore[arg-type, misc]
            more |= {"target": target, "body": body}
            said.append(await served.ask(request))
            heard.append(ann.received)
            assert served.cluster.submitted == (goes and short)
    assert said[0] == said[1]
    assert heard[0] == heard[1]
    assert bool(heard[0]) == (b"HTTP/1.1 202" in said[0])


async def test_a_hub_with_a_rate_goes_the_way_that_can_refuse() -> None:
    settings = MemorySettings()
    await settings.put_hub("chat", HubSettings(limits=HubLimits(hub_messages_per_second_per_gateway=1)))
    async with serving(settings=settings) as served:
        said = [await served.ask(served.request(TO_USER, b"hello")) for _ in range(20)]
        assert served.cluster.submitted == 0
    assert b" 202 " in said[0]
    assert any(b" 429 " in one for one in said)


@pytest.mark.parametrize(
    "error", [Unavailable("Late."), LimitExceeded("It", 1, 2), InternalError("secret")], ids=repr
)
async def test_both_ways_say_alike_what_the_cluster_says(error: HubwireError) -> None:
    class Refusing(MemoryCluster):
        async def publish(self, *_: object, **__: object) -> None:
            raise error

        def submit(self, *arguments: object) -> None:
            self.submitted += 1
            arguments[3](error)  # type: ignore[operator]

    settings, said = MemorySettings(), []
    for short in (True, False):
        async with serving(Refusing(), short=short, settings=settings) as served:
            said.append(await served.ask(served.request()))
            assert served.cluster.submitted == short
            assert [key for key, _ in served.times.samples()] == [("SendToUser", said[0].split()[1].decode())]
            assert served.times.active == 0
    assert said[0] == said[1]
    assert b"secret" not in said[0]


async def test_by_tls_both_ways_answer_alike(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    pair = authority.issue("localhost")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*pair)
    settings, said = MemorySettings(), []
    token = sign_rest_token(settings.keys.primary, f"https://x{TO_USER}", time.time())
    for short in (True, False):
        async with serving(short=short, settings=settings, tls=tls) as served:
            served.trusted = authority.trusted
            said.append(await served.ask(served.request(token=token)))
            assert served.cluster.submitted == short
    assert said[0] == said[1]
    assert b" 202 " in said[0]
    assert b"Strict-Transport-Security" in said[0]


async def test_what_the_cluster_does_not_take_is_refused_by_the_ordinary_way() -> None:
    async with serving() as served:
        served.cluster.away = True
        assert b" 503 " in await served.ask(served.request())
        assert served.times.active == 0


async def test_a_body_may_come_after_its_head() -> None:
    async with serving() as served:
        request = served.request()
        assert b" 202 " in await served.ask(request[:-5], request[-5:-2], request[-2:])


async def test_a_body_that_takes_its_time_goes_the_ordinary_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_SECONDS", 0.01)
    async with serving() as served:
        ann = served.cluster.connect("chat", "c1", "ann")
        request = served.request()
        reader, writer = await served.open()
        writer.write(request[:-3])
        await until(lambda: served.rest.requests_count == 1, SECONDS)
        writer.write(request[-3:])
        assert b" 202 " in await asyncio.wait_for(answer_of(reader), SECONDS)
        assert (served.cluster.submitted, [one.data for one in ann.received]) == (0, [b"hello"])
        writer.close()


async def test_requests_behind_one_another_are_answered_in_order() -> None:
    cluster = HoldingCluster()
    async with serving(cluster) as served:
        reader, writer = await served.open()
        ids = [f"X-Ms-Client-Request-Id: {n}" for n in range(3)]
        ordinary = served.request(TO_USER, b"hello", ids[1], "Connection: close")
        ordinary = ordinary.replace(b"Connection: close\r\n", b"Accept: caf\xe9\r\n")
        writer.write(served.request(TO_USER, b"1", ids[0]) + ordinary + served.request(TO_USER, b"2", ids[2]))
        await until(lambda: bool(cluster.held), SECONDS)
        assert served.rest.requests_count == 1  # those behind it wait
        cluster.held.pop()(None)
        for number in range(3):
            answer = await asyncio.wait_for(answer_of(reader), SECONDS)
            assert b" 202 " in answer
            assert b"\r\nx-ms-client-request-id: %d\r\n" % number in answer
        writer.close()


async def test_many_requests_at_once_are_all_answered() -> None:
    async with serving() as served:
        reader, writer = await served.open()
        writer.write(served.request() * 2000)
        async with asyncio.timeout(SECONDS):
            for _ in range(2000):
                assert b" 202 " in await answer_of(reader)
        assert served.cluster.submitted == 2000
        writer.close()


async def test_requests_in_progress_are_bounded() -> None:
    cluster = HoldingCluster()
    async with serving(cluster) as served:
        open_ones = [await served.open() for _ in range(2)]
        for _, writer in open_ones:
            writer.write(served.request())
        await until(lambda: len(cluster.held) == 2, SECONDS)
        assert served.times.active == 2
        assert b" 429 " in await served.ask(served.request())
        for answered in cluster.held:
            answered(None)
        for reader, writer in open_ones:
            assert b" 202 " in await asyncio.wait_for(answer_of(reader), SECONDS)
            writer.close()
        assert served.times.active == 0


async def test_a_stop_waits_for_what_is_in_progress() -> None:
    cluster = HoldingCluster()
    async with serving(cluster) as served:
        reader, writer = await served.open()
        writer.write(served.request())
        await until(lambda: bool(cluster.held), SECONDS)
        served.rest.pre_shutdown()
        stopping = asyncio.create_task(served.rest.shutdown(SECONDS))
        await asyncio.sleep(0)
        assert not stopping.done()
        cluster.held[0](None)
        assert b" 202 " in await asyncio.wait_for(answer_of(reader), SECONDS)
        assert await asyncio.wait_for(reader.read(), SECONDS) == b""
        await stopping
        writer.close()


async def test_an_answer_that_comes_when_the_client_has_gone_is_dropped() -> None:
    cluster = HoldingCluster()
    async with serving(cluster) as served:
        _, writer = await served.open()
        writer.write(served.request())
        await until(lambda: bool(cluster.held), SECONDS)
        writer.close()
        await until(lambda: not served.rest.connections, SECONDS)
        cluster.held[0](None)
        assert served.times.active == 0


@pytest.mark.parametrize(
    "line",
    [
        b"POST /api/hubs/chat/:send HTTP/1.0",
        b"PUT /api/hubs/chat/:send HTTP/1.1",
        b"POST /api/hubs/chat/:send",
    ],
)
def test_other_requests_are_not_taken(line: bytes) -> None:
    fields = b"\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
    assert read_head(line + fields) is None
    assert read_head(b"POST /api/hubs/chat/:send HTTP/1.1" + fields) is not None
