"""The tests' own reliable client does what client-protocols.md 9.3 says, against a server that is told what
to do; and it speaks the plain protocols with the real service."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.dialects import JSON_PLAIN, JSON_RELIABLE, PROTOBUF_PLAIN, Dialect
from support.history import DUPLICATE, OK, History, Request
from support.judge import judge
from support.nats import NatsServer
from support.processes import KEY, Fleet
from support.reliable_client import CLOSED, ReliableClient
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol
from yarl import URL

SECONDS = 10.0


class Conversation:
    """One socket as the scripted server has it."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        assert socket.request is not None
        self.query = dict(URL(socket.request.path).query)

    async def greet(self, token: str, connection_id: str = "c1") -> None:
        await self.say(type="system", event="connected", connectionId=connection_id, reconnectionToken=token)

    async def say(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def message(self, number: int, text: str) -> None:
        await self.say(
            sequenceId=number, type="message", **{"from": "group"}, group="g", dataType="text", data=text
        )

    async def ack(self, ack_id: int, error: str = "") -> None:
        more = {"error": {"name": error, "message": "no"}} if error else {}
        await self.say(type="ack", ackId=ack_id, success=not error, **more)

    async def hear(self) -> dict[str, Any]:
        """The next message that is no ping."""
        async with asyncio.timeout(SECONDS):
            while (message := json.loads(await self.socket.recv()))["type"] == "ping":
                pass
        return dict(message)

    def cut(self) -> None:
        self.socket.transport.abort()


class Scripted:
    """Hands each socket that a client opens to the test, which plays the service."""

    def __init__(self) -> None:
        self.address = ""
        self._sockets: asyncio.Queue[Conversation] = asyncio.Queue()
        self._over = asyncio.Event()

    async def serve(self, socket: ServerConnection) -> None:
        self._sockets.put_nowait(Conversation(socket))
        await self._over.wait()

    async def next(self) -> Conversation:
        async with asyncio.timeout(SECONDS):
            return await self._sockets.get()

    async def connected(self, history: History, **options: Any) -> tuple[ReliableClient, Conversation]:
        connecting = asyncio.create_task(
            ReliableClient.connect(history, lambda: self.address, "ann", key=KEY, hub="chat", **options)
        )
        conversation = await self.next()
        await conversation.greet("token-1")
        return await connecting, conversation


@asynccontextmanager
async def scripted() -> AsyncIterator[Scripted]:
    script = Scripted()
    async with serve(
        script.serve, "127.0.0.1", 0, subprotocols=[Subprotocol(JSON_RELIABLE.name)], close_timeout=1
    ) as server:
        script.address = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        yield script
        script._over.set()


async def test_after_a_loss_it_recovers_and_sends_what_was_not_answered_again() -> None:
    history = History()
    async with scripted() as script:
        client, first = await script.connected(history)
        assert "access_token" in first.query
        join = asyncio.create_task(client.join("g"))
        await first.ack((await first.hear())["ackId"])
        assert await join == OK
        now = time.monotonic()
        history.rest.append(Request("publish", "g", 0, "m1", sent=[now], answers=[(now, OK)]))
        await first.message(1, "m1")
        publishes = [asyncio.create_task(client.publish("g", text)) for text in ("m2", "m3")]
        asked = [await first.hear() for _ in range(2)]
        assert [one["data"] for one in asked] == ["m2", "m3"]
        first.cut()
        second = await script.next()
        assert second.query == {"awps_connection_id": "c1", "awps_reconnection_token": "token-1"}
        await second.greet("token-2")
        assert [await second.hear() for _ in range(2)] == asked, "the same, under the same ids"
        await second.message(1, "m1")
        await second.message(2, "m2")
        await second.ack(asked[0]["ackId"], DUPLICATE)
        await second.ack(asked[1]["ackId"])
        assert [await one for one in publishes] == [DUPLICATE, OK]
        assert await second.hear() == {"type": "sequenceAck", "sequenceId": 2}
        await client.has("m2")
        second.cut()
        third = await script.next()
        assert third.query["awps_reconnection_token"] == "token-2", "the newest"
        await third.greet("token-3")
        await third.message(3, "m3")
        await client.has("m3")
        await client.close()
    history.drained = True
    verdict = judge(history)
    assert not verdict.violations
    assert (verdict.recoveries, verdict.acked, verdict.checked) == (2, 3, 3)


async def test_a_recovery_that_cannot_be_answered_is_tried_again_and_1008_is_a_verdict() -> None:
    history = History()
    async with scripted() as script:
        client, first = await script.connected(history)
        await first.socket.close(1001)
        again = await script.next()
        await again.socket.close(1011)
        await (await script.next()).socket.close(1008)
        async with asyncio.timeout(SECONDS):
            await client.ended.wait()
        assert client.session.end is not None
        assert client.session.end.kind == "refused"
        assert client.session.sockets[0].code == 1001
        assert await client.publish("g", "late") == CLOSED
        await client.close()


async def test_a_close_with_1008_ends_the_session_and_its_requests() -> None:
    history = History()
    async with scripted() as script:
        client, first = await script.connected(history)
        publish = asyncio.create_task(client.publish("g", "m1"))
        await first.hear()
        await first.socket.close(1008)
        assert await publish == CLOSED
        assert client.session.end is not None
        assert client.session.end.kind == "overflow"


async def test_many_messages_are_acked_at_once_unless_the_client_is_one_that_never_acks() -> None:
    async with scripted() as script:
        for acks in (True, False):
            client, first = await script.connected(History(), acks=acks)
            for number in range(1, 301):
                await first.message(number, f"m{number}")
            publish = asyncio.create_task(client.publish("g", "after"))
            if acks:
                heard = [await first.hear(), await first.hear()]
                assert {"type": "sequenceAck", "sequenceId": 300} in heard
            else:
                assert (await first.hear())["type"] == "sendToGroup"
            await client.close()
            assert await publish == CLOSED


async def test_a_client_that_moves_leaves_its_old_socket_open_and_notes_what_comes_there() -> None:
    history = History()
    async with scripted() as script:
        client, first = await script.connected(history)
        moving = asyncio.create_task(client.move())
        second = await script.next()
        await second.greet("token-2")
        await moving
        await first.message(1, "on the old one")
        await client.has("on the old one")
        publish = asyncio.create_task(client.publish("g", "m1"))
        await second.ack((await second.hear())["ackId"])
        assert await publish == OK
        second.cut()
        third = await script.next()
        await third.greet("token-3")
        async with asyncio.timeout(SECONDS):
            await client.attached.wait()
        assert [frame.socket for frame in client.session.frames] == [0]
        ends = [client.session.end]
        await client.close()
        ends.append(client.session.end)
        assert [one.kind if one else None for one in ends] == [None, "closed"]


async def test_another_connection_id_and_frames_that_nobody_knows_are_noted() -> None:
    history = History()
    async with scripted() as script:
        client, first = await script.connected(history)
        await first.say(type="surprise")
        second = await script.next()
        await second.greet("token-2", "c2")
        async with asyncio.timeout(SECONDS):
            await client.attached.wait()
        await client.close()
    assert judge(history).broken == {"protocol", "identity"}


async def test_who_vanishes_says_nothing_and_who_closes_says_1000() -> None:
    history = History()
    async with scripted() as script:
        for end in (ReliableClient.vanish, ReliableClient.close):
            client, first = await script.connected(history)
            finish: Callable[[ReliableClient], Any] = end
            await finish(client)
            with pytest.raises(ConnectionClosed):
                await first.hear()
            expected = 1000 if end is ReliableClient.close else 1006
            assert first.socket.close_code == expected
    assert [one.end.kind for one in history.sessions if one.end] == ["vanished", "closed"]


@pytest.mark.parametrize("dialect", [JSON_PLAIN, PROTOBUF_PLAIN], ids=lambda one: one.name)
async def test_it_speaks_with_the_real_service(tmp_path: Path, dialect: Dialect) -> None:
    history = History()
    with NatsServer(tmp_path) as nats, Fleet(tmp_path, [nats.url]) as fleet:
        services = fleet.start_all("router", "gateway", "gateway")
        endpoints = [f"http://127.0.0.1:{one.port}" for one in services[1:]]

        async def client(number: int) -> ReliableClient:
            return await ReliableClient.connect(
                history,
                lambda: endpoints[number % 2],
                f"u{number}",
                key=KEY,
                hub="chat",
                dialect=dialect,
                groups=("token",) if number == 0 else (),
            )

        clients = [await client(number) for number in range(4)]
        for one in clients[1:]:
            assert await one.join("g") == OK
        assert await clients[1].leave("g") == OK
        assert await clients[0].publish("token", "to itself") == OK
        publishes = [clients[number].publish("g", f"{number} {n}") for n in range(20) for number in range(4)]
        assert set(await asyncio.gather(*publishes)) == {OK}
        assert await clients[2].publish("g", "silent", no_echo=True) == OK
        assert await clients[3].publish("g", "last", size=100) == OK
        for one in clients[2:]:
            await one.has("last")
        history.drained = True
        verdict = judge(history)
        for one in clients:
            await one.close()
    assert not verdict.violations
    assert verdict.acked == 83
    assert "silent" not in clients[2].arrived
