"""Clients of the reliable subprotocols, as `support.world` has plain ones.

They do nothing by themselves, so that a test decides what is acknowledged, how a socket ends, and where the
session is taken up again.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self
from urllib.parse import quote

from support.webpubsub_proto import DownstreamMessage
from support.world import SECONDS, JsonClient, ProtobufClient, World
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

JSON_RELIABLE = "json.reliable.webpubsub.azure.v1"
PROTOBUF_RELIABLE = "protobuf.reliable.webpubsub.azure.v1"


class ReliableClient:
    """What clients of both have: `token`, which takes the session up again, and what the session has got."""

    socket: ClientConnection
    connection_id: str
    token: str
    got: dict[int, Any]

    async def next_numbered(self) -> tuple[int, Any]:
        """Sequence id and data of the next message."""
        raise NotImplementedError

    async def numbered(self, count: int) -> list[tuple[int, Any]]:
        """The next messages, whatever they are."""
        found = [await self.next_numbered() for _ in range(count)]
        self.got |= dict(found)
        return found

    async def fresh(self, count: int) -> list[tuple[int, Any]]:
        """The next messages that the session has not had: a replay may begin before what was acknowledged in
        the last second (client-protocols.md 4.6). What comes again is what it was, in its order."""
        found: list[tuple[int, Any]] = []
        last = None
        while len(found) < count:
            number, data = await self.next_numbered()
            assert last is None or number == last + 1, (last, number)
            last = number
            if number in self.got:
                assert self.got[number] == data
            else:
                found.append((number, data))
        self.got |= dict(found)
        return found

    def cut(self) -> None:
        """The network's way of ending a socket: no close frame."""
        self.socket.transport.abort()


class ReliableJson(ReliableClient, JsonClient):
    """json.reliable.webpubsub.azure.v1"""

    subprotocol = JSON_RELIABLE

    async def greeted(self) -> Self:
        await super().greeted()
        self.got = {}
        self.token = self.greeting["reconnectionToken"]
        return self

    async def acknowledge(self, sequence_id: Any) -> None:
        """Send a sequenceAck; it has been read when this returns."""
        await self.send(type="sequenceAck", sequenceId=sequence_id)
        await self.settled()

    async def settled(self) -> None:
        """Everything sent before has been read by the service, and what it had for us has arrived."""
        await self.send(type="ping")
        held = []
        while (frame := json.loads(await self.frame()))["type"] != "pong":
            held.append(frame)
        for frame in held:
            (self._acks if frame["type"] == "ack" else self._messages).append(frame)

    async def next_numbered(self) -> tuple[int, Any]:
        message = await self.message()
        assert message["type"] == "message", message
        return message["sequenceId"], message["data"]


class ReliableProtobuf(ReliableClient, ProtobufClient):
    """protobuf.reliable.webpubsub.azure.v1. Its messages are text here."""

    subprotocol = PROTOBUF_RELIABLE

    async def greeted(self) -> Self:
        self.got = {}
        message = await self.message()
        connected = message.system_message.connected_message
        self.connection_id, self.user_id = connected.connection_id, connected.user_id or None
        self.token = connected.reconnection_token
        assert self.token, message
        return self

    async def acknowledge(self, sequence_id: int) -> None:
        await self.send(sequence_ack_message={"sequence_id": sequence_id})
        await self.settled()

    async def settled(self) -> None:
        await self.send(ping_message={})
        while True:
            frame = await self.frame()
            assert isinstance(frame, bytes)
            message = DownstreamMessage.FromString(frame)
            kind = message.WhichOneof("message")
            if kind == "pong_message":
                return
            if kind == "ack_message":
                self._acks.append(message.ack_message)
            else:
                self._messages.append(message)

    async def publish(self, group: str, data: str, **fields: Any) -> None:
        ack = await self.request("send_to_group_message", group=group, data={"text_data": data}, **fields)
        assert ack.success, ack

    async def next_numbered(self) -> tuple[int, Any]:
        message = await self.message()
        data = message.data_message
        assert data.HasField("sequence_id"), message
        return data.sequence_id, data.data.text_data


AnyReliable = ReliableJson | ReliableProtobuf
KINDS = {JSON_RELIABLE: ReliableJson, PROTOBUF_RELIABLE: ReliableProtobuf}


async def reliable(
    world: World, user_id: str | None = None, subprotocol: str = JSON_RELIABLE, **token: Any
) -> Any:
    """A new session, greeted: a ReliableJson or ReliableProtobuf. Its socket is closed with the world."""
    socket = await world.open(world.client_url(user_id=user_id, **token), [subprotocol])
    assert socket.subprotocol == subprotocol
    client = KINDS[subprotocol](socket)
    world._keep(client)
    return await client.greeted()


async def recovery_socket(
    world: World,
    connection_id: str,
    token: str,
    offered: list[str] | None,
    *,
    hub: str | None = None,
    gateway: str | None = None,
) -> ClientConnection:
    """The socket of a recovery request, whatever becomes of it. At the next gateway, unless one is named."""
    endpoint = (gateway or world.topology.gateway()).replace("http", "ws", 1)
    query = f"awps_connection_id={quote(connection_id)}&awps_reconnection_token={quote(token)}"
    return await world.open(f"{endpoint}/client/hubs/{hub or world.hub}?{query}", offered)


async def recovered(world: World, client: AnyReliable, **where: Any) -> Any:
    """The session of `client` on a new socket, greeted, under the same id. As every client does, it tries
    again when it is told so (503)."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                socket = await recovery_socket(
                    world, client.connection_id, client.token, [client.subprotocol], **where
                )
                break
            except InvalidStatus as refused:
                if refused.response.status_code != 503:
                    raise
                await asyncio.sleep(0.2)
    assert socket.subprotocol == client.subprotocol
    again = type(client)(socket)
    again._ack_id = client._ack_id
    world._keep(again)
    await again.greeted()
    again.got = {**client.got}
    assert (again.connection_id, again.user_id) == (client.connection_id, client.user_id)
    return again


async def verdict(socket: ClientConnection) -> int | None:
    """The code with which the service closes a socket that it says nothing on."""
    try:
        found = await socket.recv()
    except ConnectionClosed:
        return socket.close_code
    raise AssertionError(f"It was accepted: {found!r}")
