"""Clients that publish and record, for tests of guarantees: what was acked, what arrived, in which order.

Every message is `<publisher> <number>`, so that repeats, gaps and disorder can be seen by looking.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

from support.processes import KEY, Service
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from hubwire.model.tokens import sign_client_token

JSON_V1 = Subprotocol("json.webpubsub.azure.v1")
HUB = "chaos"
ROLES = ("webpubsub.joinLeaveGroup", "webpubsub.sendToGroup")


async def until(condition: Callable[[], object], seconds: float = 10.0, what: str = "") -> None:
    """Wait until something is so, and say what was not when it is not so in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not so within {seconds} s: {what}"
        await asyncio.sleep(0.01)


class Member:
    """One client of one gateway. Never connects again by itself."""

    def __init__(self, socket: ClientConnection, user: str) -> None:
        self.user = user
        self.connection_id = ""
        self.arrived: list[tuple[str, str]] = []  # group, text
        self.times: list[float] = []
        self._socket = socket
        self._acks: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._next_ack = 0
        self._connected = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def connect(
        cls, gateway: Service, user: str, groups: Sequence[str] = (), *, seconds: float = 10.0
    ) -> Member:
        """Connect, trying again while the gateway is not there or says that it is not ready (503)."""
        end = time.monotonic() + seconds
        while True:
            try:
                return await cls.connect_once(gateway, user, groups)
            except (OSError, ConnectionClosed, EOFError, TimeoutError):
                if time.monotonic() > end:
                    raise
            except InvalidStatus as error:
                if error.response.status_code != 503 or time.monotonic() > end:
                    raise
            await asyncio.sleep(0.05)

    @classmethod
    async def connect_once(cls, gateway: Service, user: str, groups: Sequence[str] = ()) -> Member:
        endpoint = f"127.0.0.1:{gateway.port}"
        token = sign_client_token(
            KEY,
            endpoint=f"http://{endpoint}",
            hub=HUB,
            user_id=user,
            roles=ROLES,
            groups=groups,
            now=time.time(),
        )
        socket = await connect(
            f"ws://{endpoint}/client/hubs/{HUB}?access_token={token}",
            subprotocols=[JSON_V1],
            open_timeout=12,
            ping_interval=None,
            max_queue=None,
            max_size=None,
        )
        self = cls(socket, user)
        async with asyncio.timeout(5):
            await self._connected.wait()
        return self

    async def _read(self) -> None:
        try:
            async for frame in self._socket:
                content = json.loads(frame)
                if content["type"] == "ack":
                    waiting = self._acks.pop(content["ackId"], None)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(content)
                elif content["type"] == "message":
                    self.arrived.append((content.get("group", ""), content["data"]))
                    self.times.append(time.monotonic())
                elif content.get("event") == "connected":
                    self.connection_id = content["connectionId"]
                    self._connected.set()
        except ConnectionClosed:
            pass
        finally:
            for waiting in self._acks.values():
                if not waiting.done():
                    waiting.set_result({"success": False, "error": {"name": "Closed"}})

    @property
    def open(self) -> bool:
        return not self._reader.done()

    async def closed(self) -> None:
        """Wait until the connection is over."""
        await asyncio.wait({self._reader})

    @property
    def close_code(self) -> int | None:
        return self._socket.close_code

    async def request(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its ack, whatever it says; a closed connection is a failed one."""
        self._next_ack += 1
        ack_id = self._next_ack
        waiting = self._acks[ack_id] = asyncio.get_running_loop().create_future()
        try:
            await self._socket.send(json.dumps({**request, "ackId": ack_id}))
        except ConnectionClosed:
            return {"success": False, "error": {"name": "Closed"}}
        if not self.open and not waiting.done():
            return {"success": False, "error": {"name": "Closed"}}
        async with asyncio.timeout(20):
            return await waiting

    async def join(self, group: str) -> bool:
        return bool((await self.request(type="joinGroup", group=group))["success"])

    async def leave(self, group: str) -> bool:
        return bool((await self.request(type="leaveGroup", group=group))["success"])

    async def publish(self, group: str, text: str) -> bool:
        """Whether it was acked with success."""
        ack = await self.request(type="sendToGroup", group=group, dataType="text", data=text)
        return bool(ack["success"])

    async def publish_all(self, group: str, texts: Iterable[str]) -> list[bool]:
        """Pipelined: all are sent before the first ack is awaited."""
        return list(await asyncio.gather(*(self.publish(group, text) for text in texts)))

    @property
    def of_server(self) -> list[str]:
        """What came from the server: to the hub, to the user, to this connection."""
        return self.of("")

    def of(self, group: str) -> list[str]:
        return [text for where, text in self.arrived if where == group]

    async def close(self) -> None:
        await self._socket.close()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Sender:
    """Publishes numbered messages to one group, one after the other's ack, until told to stop."""

    def __init__(self, member: Member, group: str, name: str, *, pause_seconds: float = 0.0) -> None:
        self.member = member
        self.group = group
        self.name = name
        self.acked: list[str] = []
        self.failed: list[str] = []
        self.sent_at: dict[str, float] = {}
        self.acked_at: list[float] = [time.monotonic()]
        self._pause = pause_seconds
        self._stop = False
        self._number = 0
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._stop and self.member.open:
            text = f"{self.name} {self._number}"
            self._number += 1
            self.sent_at[text] = time.monotonic()
            if await self.member.publish(self.group, text):
                self.acked.append(text)
                self.acked_at.append(time.monotonic())
            else:
                self.failed.append(text)
            if self._pause:
                await asyncio.sleep(self._pause)

    @property
    def longest_outage(self) -> float:
        """The longest time between two acks, in seconds."""
        times = [*self.acked_at, time.monotonic()]
        return max((later - earlier for earlier, later in pairwise(times)), default=0.0)

    async def stop(self) -> None:
        self._stop = True
        await self._task


def assert_at_most_once_in_order(received: Sequence[str]) -> None:
    """No message twice, and each publisher's messages in the order of their numbers."""
    last: dict[str, int] = defaultdict(lambda: -1)
    for text in received:
        name, _, number = text.rpartition(" ")
        assert int(number) > last[name], f"{text} after {name} {last[name]}"
        last[name] = int(number)


async def assert_all_arrive(member: Member, group: str, texts: Iterable[str], seconds: float = 10.0) -> None:
    wanted = set(texts)
    await until(
        lambda: wanted <= set(member.of(group)),
        seconds,
        f"{member.user} lacks {sorted(wanted - set(member.of(group)))[:5]} of {group}",
    )
