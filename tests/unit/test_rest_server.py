"""The HTTP server around the REST application, on raw sockets: deadlines, bounds, refusals, and the way back
to the accept side. What it takes of aiohttp beside its public API is tried here too."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop
from support.memory_cluster import MemoryCluster, MemorySettings
from support.rest import Rig, rest_rig
from support.stack import on_uvloop, until

from controlplane import http
from controlplane.app import create_app
from controlplane.endpoints import is_host
from controlplane.http import RestRunner, RestServer
from gateway.front import Front, Undecided
from gateway.handshake import Refusal
from gateway.http_head import Head
from hubwire.model.tokens import sign_rest_token
from hubwire.runtime import limits

pytestmark = on_uvloop

HEALTH = b"HEAD /api/health HTTP/1.1\r\nHost: x\r\n\r\n"
PARTIAL = b"POST /api/hubs/chat/:send HTTP/1.1\r\nHost: x\r\n"
CLIENT = b"GET /client/hubs/chat HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def event_loop_policy() -> uvloop.EventLoopPolicy:
    return uvloop.EventLoopPolicy()  # as in production


class Server:
    """Our server, with the accept side in front of it or alone."""

    def __init__(self, port: int, rest: RestServer, undecided: Undecided, settings: MemorySettings) -> None:
        self.port = port
        self.rest = rest
        self.undecided = undecided
        self.settings = settings

    async def say(self, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        return reader, writer

    async def ask(self, data: bytes) -> bytes:
        """Everything that comes until the server hangs up."""
        reader, writer = await self.say(data)
        async with asyncio.timeout(10):
            try:
                return await reader.read()
            finally:
                writer.close()


@asynccontextmanager
async def serving(alone: bool = False) -> AsyncIterator[Server]:
    settings = MemorySettings()
    runner = RestRunner(create_app(MemoryCluster(), settings), shutdown_timeout=0.1)
    await runner.setup()
    rest = runner.server
    assert isinstance(rest, RestServer)
    undecided = Undecided()

    async def decide(front: Front, head: Head) -> Refusal | None:
        return Refusal(401, "decided at the accept side")

    made = await asyncio.get_running_loop().create_server(
        rest if alone else (lambda: Front(undecided, decide, rest)), "127.0.0.1", 0
    )
    try:
        yield Server(made.sockets[0].getsockname()[1], rest, undecided, settings)
    finally:
        made.close()
        await runner.cleanup()


@pytest.fixture(params=[False, True], ids=["behind the accept side", "alone"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async with serving(request.param) as one:
        yield one


@pytest.fixture
async def front() -> AsyncIterator[Server]:
    async with serving() as one:
        yield one


def flat(answer: bytes) -> tuple[int, dict[str, object]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nServer: Hubwire" in head
    assert b"aiohttp" not in head
    value = json.loads(body)
    assert list(value) == ["code", "message", "target", "details", "innererror"]
    assert b"x-ms-error-code: " + value["code"].encode() in head
    return int(head.split()[1]), value


# --- deadlines ---


@pytest.mark.parametrize("before", [b"", HEALTH, HEALTH * 3])
async def test_the_head_of_every_request_has_a_deadline(
    server: Server, before: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.2)
    answer = await server.ask(before + PARTIAL)
    assert answer.count(b"HTTP/1.1 200 OK") == before.count(b"HEAD")
    assert b"HTTP/1.1 408" in answer


async def test_a_head_that_comes_drop_by_drop_does_not_get_more_time(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.3)
    reader, writer = await server.say(PARTIAL)
    began = time.monotonic()
    while not reader.at_eof() and time.monotonic() - began < 5:
        writer.write(b"a: b\r\n")
        try:
            await asyncio.wait_for(reader.read(1000), 0.05)
        except (TimeoutError, ConnectionError):
            pass
    assert time.monotonic() - began < 3
    writer.close()


async def test_an_idle_connection_ends(server: Server) -> None:
    server.rest._settings["keepalive_timeout"] = 0.2
    assert (await server.ask(HEALTH)).startswith(b"HTTP/1.1 200 OK")


def test_the_deadlines_are_short() -> None:
    assert (http.HEAD_SECONDS, http.KEEP_ALIVE_SECONDS, http.LINGER_SECONDS) == (10.0, 75.0, 1.0)


# --- bounds ---


async def test_over_the_number_of_connections_the_oldest_idle_one_goes(server: Server) -> None:
    server.rest.max_connections = 3
    held = [await server.say(HEALTH) for _ in range(3)]
    for reader, _ in held:
        await reader.readuntil(b"\r\n\r\n")
    reader, writer = await server.say(HEALTH)
    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
    assert await asyncio.wait_for(held[0][0].read(), 5) == b""
    writer.close()
    for _, one in held:
        one.close()


async def test_when_none_is_idle_the_new_one_is_told_to_come_later(server: Server) -> None:
    server.rest.max_connections = 2
    body = b"Content-Length: 10\r\n"
    token = sign_rest_token(server.settings.keys.primary, "http://x/api/hubs/chat/:send", time.time())
    busy = PARTIAL + b"Authorization: Bearer " + token.encode() + b"\r\n" + body + b"\r\n"
    held = [await server.say(busy) for _ in range(2)]
    await until(lambda: server.rest.requests_count == 2)
    assert flat(await server.ask(HEALTH))[0] == 503
    for _, one in held:
        one.close()


async def test_sockets_that_say_nothing_are_bounded_too(front: Server) -> None:
    front.undecided.most = 2
    held = [await front.say(b"GET /cli") for _ in range(2)]
    await until(lambda: len(front.undecided) == 2)
    assert b"401" in await front.ask(CLIENT)
    try:
        assert await asyncio.wait_for(held[0][0].read(), 5) == b""
    except ConnectionError:
        pass
    for _, one in held:
        one.close()


async def test_the_last_descriptors_are_not_given_to_sockets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(limits, "open_files_limit", lambda: 5)
    async with serving() as front:
        for _ in range(3):
            assert b" 503 " in await front.ask(HEALTH)
        assert capsys.readouterr().out.count("descriptors_used_up") == 1
        front.undecided._reserve._last = 1000
        front.rest._reserve._last = 1000
        reader, writer = await front.say(HEALTH)
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        writer.close()


async def test_an_unwanted_body_is_not_read_for_long(server: Server) -> None:
    head = b"POST /api/hubs/chat/:send HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    reader, writer = await server.say(head)
    assert b" 401 " in await reader.readuntil(b"\r\n\r\n")
    sent, began = 0, time.monotonic()
    try:
        while time.monotonic() - began < 5:
            writer.write(b"10000\r\n" + b"a" * 65536 + b"\r\n")
            await writer.drain()
            sent += 65536
    except ConnectionError:
        pass
    assert time.monotonic() - began < 3
    assert sent < 64 * 1024 * 1024
    writer.close()


# --- refusals ---


@pytest.mark.parametrize(
    ("lines", "status", "message"),
    [
        (b"Content-Length: -1", 400, "Invalid Content-Length header."),
        (b"Content-Length: abc", 400, "Invalid Content-Length header."),
        (b"Content-Length: 1\r\nContent-Length: 2", 400, "Invalid Content-Length header."),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked", 400, "Invalid Content-Length header."),
        (b"Authorization: Bearer SECRET\x01", 400, "The request is not one of HTTP/1.1."),
        (b"Authori zation: Bearer SECRET", 400, "The request is not one of HTTP/1.1."),
        (b"Authorization: Bearer\r\n SECRET", 400, "The request is not one of HTTP/1.1."),
        (b"A: " + b"SECRET" * 20_000, 431, "The head of a request is limited to 81920 bytes."),
    ],
)
async def test_what_is_no_http_is_refused_in_our_words(
    server: Server, lines: bytes, status: int, message: str
) -> None:
    answer = await server.ask(PARTIAL + lines + b"\r\n\r\n")
    assert b"SECRET" not in answer
    assert flat(answer) == (
        status,
        {
            "code": "Error.BadRequest",
            "message": message,
            "target": "Request",
            "details": None,
            "innererror": None,
        },
    )


async def test_a_body_in_bad_chunks_is_refused_at_once(server: Server) -> None:
    token = sign_rest_token(server.settings.keys.primary, "http://x/api/hubs/chat/:send", time.time())
    lines = b"Authorization: Bearer " + token.encode() + b"\r\nContent-Type: text/plain\r\n"
    answer = await server.ask(
        PARTIAL + lines + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nSECRET\r\n0\r\n\r\n"
    )
    assert flat(answer)[0] == 400
    assert b"SECRET" not in answer
    assert answer.count(b"HTTP/1.1") == 1


async def test_a_target_that_is_too_long_is_refused(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    line = b"POST /api/hubs/chat/:send?filter=" + b"SECRET" * 10_000
    answer = await server.ask(line + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert flat(answer)[0] == 414
    assert b"SECRET" not in answer
    gc.collect()
    assert caplog.records == []  # no task was left with an error


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /foo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
)
async def test_there_is_nothing_at_other_paths(server: Server, request_: bytes) -> None:
    status, body = flat(await server.ask(request_))
    assert (status, body["code"]) == (404, "Error.NotFound")


@pytest.mark.parametrize("kind", [b"text/\xff", b'text/plain; charset="\xff"', b"\xff"])
async def test_a_content_type_that_is_no_text_is_415(server: Server, kind: bytes) -> None:
    token = sign_rest_token(server.settings.keys.primary, "http://x/api/hubs/chat/:send", time.time())
    lines = b"Authorization: Bearer " + token.encode() + b"\r\nContent-Type: " + kind
    answer = await server.ask(PARTIAL + lines + b"\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx")
    assert flat(answer)[0] == 415


@pytest.mark.parametrize("host", [b"a\xffb", b"a:abc", b"[", b"a b", b"a:70000", b"[::1", b"a/b"])
@pytest.mark.parametrize("path", [b"/metadata/endpoints", b"/subscriptions/s", b"/api/hubs/chat/:send"])
async def test_a_host_that_is_none_is_400_in_the_shape_of_the_api(
    server: Server, host: bytes, path: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = await server.ask(
        b"GET " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n"
    )
    assert b"HTTP/1.1 400 " in answer
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (body["error"]["code"] if path[:4] != b"/api" else body["code"]) in (
        "InvalidRequestContent",
        "Error.BadRequest",
    )
    assert "Traceback" not in capsys.readouterr().out


@pytest.mark.parametrize("host", ["x", "x:80", "127.0.0.1:8080", "[::1]:8080", "", "a_b.example.com"])
def test_hosts_are_hosts(host: str) -> None:
    assert is_host(host)


async def test_an_unknown_expectation_is_refused(server: Server) -> None:
    answer = await server.ask(PARTIAL + b"Expect: foo\r\nConnection: close\r\n\r\n")
    assert flat(answer)[0] == 417


async def test_what_a_client_speaks_of_tls_ends_at_once(server: Server) -> None:
    assert b"HTTP/1.1 400" in await server.ask(b"\x16\x03\x01\x02\x00\x01\x00\r\n")


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with rest_rig() as one:
        yield one


async def test_a_call_may_exclude_many_connections(rig: Rig) -> None:
    excluded = "&".join(f"excluded={number:040d}" for number in range(500))
    answer = await rig.call("POST", f"/api/hubs/chat/:send?{excluded}", "x", "text/plain")
    assert answer.status == 202


# --- connections that are used again ---


@pytest.mark.parametrize(
    "before",
    [
        HEALTH,
        b"\r\n\r\n" + HEALTH + b"\r\n",
        PARTIAL + b"Content-Length: 3\r\n\r\nabc",
        PARTIAL + b"Content-Length: 3\r\n\r\nabc" + HEALTH,
    ],
)
@pytest.mark.parametrize("piece", [1, 7, 10_000])
async def test_a_connection_that_carried_rest_can_become_a_clients(
    front: Server, before: bytes, piece: int
) -> None:
    reader, writer = await front.say(b"")
    data = before + CLIENT
    for start in range(0, len(data), piece):
        writer.write(data[start : start + piece])
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    assert answer.count(b"HTTP/1.1 200") == before.count(b"HEAD")
    assert answer.count(b"HTTP/1.1 401") == before.count(b"POST") + 1
    assert answer.endswith(b"decided at the accept side\n")


async def test_after_chunks_too(front: Server) -> None:
    reader, writer = await front.say(PARTIAL + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert b" 401 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(HEALTH)
    assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(CLIENT)
    assert (await reader.read()).endswith(b"decided at the accept side\n")
    writer.close()


async def test_what_only_looks_like_a_client_path_in_a_body_is_body(front: Server) -> None:
    length = str(len(CLIENT)).encode()
    answer = await front.ask(
        PARTIAL + b"Content-Length: " + length + b"\r\nConnection: close\r\n\r\n" + CLIENT
    )
    assert answer.count(b"HTTP/1.1") == 1


async def test_refusals_to_head_have_no_body(front: Server) -> None:
    answer = await front.ask(CLIENT.replace(b"GET", b"HEAD"))
    assert answer.endswith(b"\r\n\r\n")
