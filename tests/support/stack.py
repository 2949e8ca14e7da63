"""A real nats-server, a router and a gateway in the test's own event loop, and raw clients of it.

async with Stack(folder, limits=GatewayLimits(outbox_bytes=100_000)) as stack:
    client = await stack.client("alice", groups=["room"])
    stack.service.hubs          # what is inside, to look at

Everything but NATS runs as tasks of the loop, so a test can look into the gateway, and asyncio itself
tells what is left behind.
"""

from __future__ import annotations

import asyncio
import gc
import json
import secrets
import socket
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from support.nats import NatsServer

import gateway.app
import router.app
from gateway.app import Http, Worker
from gateway.service import GatewayService
from gateway.settings import GatewayLimits
from hubwire.model.tokens import sign_client_token
from hubwire.runtime.listen import hold_listen_port
from hubwire.runtime.process import ProcessConfig
from hubwire.runtime.service import Stop

KEY = "k" * 44
SECONDARY = "s" * 44
JSON = "json.webpubsub.azure.v1"
PROTOBUF = "protobuf.webpubsub.azure.v1"
SECONDS = 10.0
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

on_uvloop = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture is deprecated")
"""For modules that override that fixture; the hook that replaces it would hold for every test there is."""


async def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait until something is so, and say what was not when it is not so in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not so within {seconds} s"
        await asyncio.sleep(0.01)


def masked(
    opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0, size: int | None = None
) -> bytes:
    """A frame as a client sends it; `size` lies about the length."""
    length = len(payload) if size is None else size
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    if length < 126:
        head = bytes((first, 0x80 | length))
    elif length < 65536:
        head = bytes((first, 0xFE)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, 0xFF)) + length.to_bytes(8, "big")
    mask = b"\x11\x22\x33\x44"
    key = mask * (len(payload) // 4 + 1)
    body = (int.from_bytes(payload, "big") ^ int.from_bytes(key[: len(payload)], "big")).to_bytes(
        len(payload), "big"
    )
    return head + mask + body


class Raw:
    """A socket to the gateway on which a test says what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def say(self, value: object) -> None:
        """One JSON message."""
        self.send(masked(TEXT, json.dumps(value).encode()))

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the answer to a handshake."""
        async with asyncio.timeout(SECONDS):
            text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = text.rstrip("\r\n").split("\r\n")
        headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines)}
        return int(first.split(" ")[1]), headers

    async def body(self, headers: dict[str, str]) -> str:
        async with asyncio.timeout(SECONDS):
            return (await self.reader.readexactly(int(headers["content-length"]))).decode()

    async def frame(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload."""
        async with asyncio.timeout(SECONDS):
            first, second = await self.reader.readexactly(2)
            assert first & 0x70 == 0, "the server set a reserved bit"
            assert second < 128, "the server masked a frame"
            size = second
            if size == 126:
                size = int.from_bytes(await self.reader.readexactly(2), "big")
            elif size == 127:
                size = int.from_bytes(await self.reader.readexactly(8), "big")
            return first & 0x0F, await self.reader.readexactly(size)

    async def hear(self) -> Any:
        """The next message as JSON; pings before it are passed over."""
        while True:
            opcode, payload = await self.frame()
            if opcode != PING:
                assert opcode == TEXT, f"opcode {opcode}: {payload[:200]!r}"
                return json.loads(payload)

    async def closed(self) -> tuple[int | None, str]:
        """Code and reason of the close frame, which must be the next but for messages."""
        while True:
            opcode, payload = await self.frame()
            if opcode == CLOSE:
                if not payload:
                    return None, ""
                return int.from_bytes(payload[:2], "big"), payload[2:].decode()

    async def gone(self) -> bytes:
        """What comes until the server has closed the socket, in whichever way."""
        async with asyncio.timeout(SECONDS):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def close(self) -> None:
        self.writer.transport.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class Stack:
    """One router and one gateway on a nats-server. `more` are settings of `ProcessConfig`."""

    def __init__(self, folder: Path, *, limits: GatewayLimits | None = None, **more: Any) -> None:
        self._held = hold_listen_port("127.0.0.1", 0)
        self.port = self._held.port
        self.nats = NatsServer(folder)
        self.limits = limits or GatewayLimits()
        self._more = more
        self._stops = [Stop(), Stop()]
        self._tasks: list[asyncio.Task[None]] = []
        self.worker: Worker

    @property
    def service(self) -> GatewayService:
        return self.worker.gateway

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.nats.start)
        config = ProcessConfig(
            nats_servers=(self.nats.url,),
            access_key=KEY,
            secondary_access_key=SECONDARY,
            durability="memory",
            sole_router=True,
            port=self.port,
            # A gateway that ends because the machine stood still would end the test with it.
            **{"drain_seconds": 1.0, "lease_seconds": 30.0, **self._more},
        )
        self._config = config
        started = asyncio.get_running_loop().create_future()

        async def note(worker: Worker) -> Http:
            self.worker = worker
            started.set_result(None)
            return Http(None, _nothing)

        self._tasks = [
            asyncio.create_task(_run_router(config, self._stops[0])),
            asyncio.create_task(gateway.app.serve(config, self._stops[1], note, limits=self.limits)),
        ]
        done, _ = await asyncio.wait({started, *self._tasks}, timeout=30, return_when="FIRST_COMPLETED")
        assert started in done, [task for task in self._tasks if task.done() and task.result()]
        await until(lambda: all(self.worker.owners.table.owners))
        return self

    async def stop_gateway(self) -> None:
        """Drain as on SIGTERM, and wait until it has stopped."""
        self._stops[1].now("test")
        await self._tasks[1]

    async def stop_router(self) -> None:
        self._stops[0].now("test")
        await self._tasks[0]

    def start_router(self) -> None:
        """Another one, which owns everything soon."""
        self._stops[0] = Stop()
        self._tasks[0] = asyncio.create_task(_run_router(self._config, self._stops[0]))

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stop, task in zip(reversed(self._stops), reversed(self._tasks), strict=True):
            stop.now("test")
            done, _ = await asyncio.wait({task}, timeout=20)
            task.cancel()
            assert done, "it did not stop"
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self.nats.close)
        self._held.socket.close()

    # -- clients -----------------------------------------------------------------------------------

    def token(self, user: str | None = None, *, hub: str = "chat", key: str = KEY, **more: Any) -> str:
        more.setdefault("roles", ["webpubsub.joinLeaveGroup", "webpubsub.sendToGroup"])
        more.setdefault("now", time.time())
        more.setdefault("endpoint", f"http://{self.authority}")
        return sign_client_token(key, hub=hub, user_id=user, **more)

    def url(self, user: str | None = None, *, hub: str = "chat", query: str = "", **more: Any) -> str:
        token = self.token(user, hub=hub, **more)
        return f"ws://{self.authority}/client/hubs/{hub}?access_token={token}{query}"

    def request(
        self,
        target: str,
        subprotocols: Sequence[str] = (JSON,),
        *,
        headers: Sequence[str] = (),
        drop: Sequence[str] = (),
    ) -> bytes:
        """A handshake. `drop` names headers to leave out, `headers` are whole lines to add."""
        lines = {
            "Host": self.authority,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": b64encode(secrets.token_bytes(16)).decode(),
            "Sec-WebSocket-Version": "13",
        }
        if subprotocols:
            lines["Sec-WebSocket-Protocol"] = ", ".join(subprotocols)
        text = [f"{name}: {value}" for name, value in lines.items() if name not in drop]
        return "\r\n".join([f"GET {target} HTTP/1.1", *text, *headers, "", ""]).encode("latin-1")

    async def socket(self, receive_buffer: int = 0) -> Raw:
        """A connected socket; with a small receive buffer a test can be slow soon."""
        one = socket.socket()
        one.setblocking(False)
        if receive_buffer:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", self.port))
        # asyncio's streams read ahead up to twice their limit.
        return Raw(*await asyncio.open_connection(sock=one, limit=max(receive_buffer, 2**16)))

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], str]:
        """The refusal that a request gets."""
        async with await self.socket() as raw:
            raw.send(request)
            status, headers = await raw.head()
            body = await raw.body(headers) if "content-length" in headers else ""
            return status, headers, body

    async def client(
        self,
        user: str | None = None,
        *,
        hub: str = "chat",
        subprotocols: Sequence[str] = (JSON,),
        query: str = "",
        early: bytes = b"",
        receive_buffer: int = 0,
        **more: Any,
    ) -> Raw:
        """A connected client, its `connected` message not read yet. `early` is sent with the head."""
        raw = await self.socket(receive_buffer)
        target = f"/client/hubs/{hub}?access_token={self.token(user, hub=hub, **more)}{query}"
        raw.send(self.request(target, subprotocols) + early)
        status, headers = await raw.head()
        assert status == 101, (status, await raw.body(headers))
        return raw

    async def json(self, user: str | None = None, **more: Any) -> Raw:
        """A JSON client that has read its `connected` message."""
        raw = await self.client(user, **more)
        assert (await raw.hear())["event"] == "connected"
        return raw

    async def nothing_left(self) -> None:
        """Wait until the gateway holds nothing of any client."""
        service = self.service

        def empty() -> bool:
            return not (
                len(service.hubs)
                or service.door.fronts
                or len(service.keepalive)
                or service.registrar.membership.keys()
                or service.hubs.keys()
            )

        await until(empty)
        gc.collect()


def run(coroutine: Awaitable[Any]) -> Any:
    """For tests that need an event loop of their own."""
    return asyncio.run(asyncio.wait_for(coroutine, 60))


async def _run_router(config: ProcessConfig, stop: Stop) -> None:
    """As the process does: its lease is short, and lost on a machine that stands still for a moment."""
    while not stop.told:
        await router.app.serve(config, stop.for_one_run())


async def _nothing() -> None:
    pass
