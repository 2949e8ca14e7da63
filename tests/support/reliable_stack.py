"""A router and several gateways in the test's own event loop, and clients that do nothing by themselves.

async with ReliableStack(tmp_path, gateways=2) as stack:
    one, two = stack.places
    client = await stack.reliable("alice", at=one, groups=["room"])
    client.cut()
    await client.recover(two)
    two.sessions.holder.get("chat", client.id)    # what is inside, to look at
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.stack import PING, TEXT, Raw, Stack, _nothing, masked, until

import gateway.app
from gateway.app import Http, Worker
from gateway.reliable.service import ReliableSessions
from gateway.reliable.session import Session
from hubwire.bus.inbox_entries import mark_entry
from hubwire.bus.inbox_writer import InboxWriter
from hubwire.bus.session_records import SessionRecord, SessionRecords
from hubwire.model.errors import Unavailable
from hubwire.runtime.listen import HeldPort, hold_listen_port
from hubwire.runtime.service import Stop

RELIABLE = "json.reliable.webpubsub.azure.v1"
HUB = "chat"


class Place:
    """One gateway."""

    def __init__(self, worker: Worker, port: int, stop: Stop, task: asyncio.Task[None]) -> None:
        self.worker = worker
        self.port = port
        self._stop = stop
        self._task = task

    @property
    def name(self) -> str:
        return self.worker.name

    @property
    def sessions(self) -> ReliableSessions:
        found = self.worker.gateway.reliable
        assert found is not None
        return found

    def with_lossy_records(self) -> Records:
        records = Records(self.sessions.holder.records)
        self.sessions.holder.records = records  # type: ignore[assignment]
        return records

    def keep_sessions_for(self, seconds: float) -> None:
        """How long clients have to come back."""
        self.sessions.holder._retention = seconds
        self.sessions._lost._retention = seconds

    def reliable_keys(self) -> set[str]:
        every = self.worker.gateway.registrar.membership.keys()
        return {key for key in every if key.startswith("r")}

    async def rest(self, operation: str, *arguments: Any) -> Any:
        """A command as a control plane gives it."""
        return await self.worker.gateway.commands.run(operation, arguments)

    async def mark(self, client: Client, by: str, generation: int | None = None) -> InboxWriter:
        """Another gateway, that does nothing else, wants the session of which this one is the holder."""
        session = client.session(self)
        assert session is not None
        writer = InboxWriter(self.worker.bus, by)
        at = session.generation if generation is None else generation
        await writer.write(self.name, mark_entry(client.id, at, by), 10.0)
        return writer

    async def record(self, client: Client) -> SessionRecord:
        return await self.sessions.holder.records.read(client.id)

    async def leaves_nothing(self) -> None:
        """Nothing of any session is here any more, and no key is needed."""
        holder = self.sessions.holder

        def empty() -> bool:
            fold = holder.log.fold
            return not (
                holder.sessions
                or len(holder.coming)
                or (fold is not None and (len(fold.sessions) or fold.pins))
                or self.reliable_keys()
                or holder.needs._counts
            )

        await until(empty)
        assert not holder._detached
        assert not self.sessions.moves._under_way
        assert not self.sessions.moves._claims

    async def stop(self) -> None:
        """Drain, as on SIGTERM."""
        self._stop.now("test")
        await self._task


class Client:
    """One session, and the socket that it has."""

    def __init__(self, stack: ReliableStack, user: str) -> None:
        self.stack = stack
        self.user = user
        self.id = ""
        self.token = ""
        self.raw: Raw
        self.got: list[int] = []
        self.texts: list[str] = []
        self.acks: dict[int, Any] = {}
        self._ack_id = 0

    async def _open(self, place: Place, query: str) -> Raw:
        raw = await dial(place.port)
        raw.send(self.stack.request(f"/client/hubs/{HUB}?{query}", [RELIABLE]))
        return raw

    async def connect(self, place: Place, **more: Any) -> Self:
        raw = await self._open(place, f"access_token={self.stack.token(self.user, hub=HUB, **more)}")
        status, headers = await raw.head()
        assert status == 101, (status, await raw.body(headers))
        self.raw = raw
        greeting = await raw.hear()
        assert greeting["event"] == "connected", greeting
        self.id, self.token = greeting["connectionId"], greeting["reconnectionToken"]
        return self

    async def try_to_recover(self, place: Place) -> int:
        """101 when it is back; 1008 for the verdict; another status or close code: to be tried again."""
        query = f"awps_connection_id={self.id}&awps_reconnection_token={self.token}"
        raw = await self._open(place, query)
        status, _ = await raw.head()
        if status != 101:
            raw.close()
            return status
        opcode, payload = await raw.frame()
        if opcode != TEXT:
            raw.close()
            return int.from_bytes(payload[:2], "big")
        assert b'"connected"' in payload
        self.raw = raw
        return 101

    async def recover(self, place: Place, seconds: float = 30.0) -> Self:
        """As a client does: again and again, until it is back or told 1008."""
        async with asyncio.timeout(seconds):
            while (code := await self.try_to_recover(place)) != 101:
                assert code != 1008, "there is no such session"
                await asyncio.sleep(0.05)
        return self

    def cut(self) -> None:
        """The network's way of ending a socket."""
        self.raw.close()

    def ask(self, type: str, *, ack_id: int | None = None, **members: Any) -> int:
        """Send a request, and do not wait for the answer."""
        if ack_id is None:
            self._ack_id += 1
            ack_id = self._ack_id
        self.raw.say({"type": type, "ackId": ack_id, **members})
        return ack_id

    async def answer(self, ack_id: int) -> Any:
        while ack_id not in self.acks:
            await self.read()
        return self.acks.pop(ack_id)

    async def does(self, type: str, **members: Any) -> None:
        answer = await self.answer(self.ask(type, **members))
        assert answer["success"], answer

    async def join(self, group: str) -> None:
        await self.does("joinGroup", group=group)

    async def leave(self, group: str) -> None:
        await self.does("leaveGroup", group=group)

    async def publish(self, group: str, text: str) -> None:
        await self.does("sendToGroup", group=group, dataType="text", data=text)

    def acknowledge(self, sequence_id: int) -> None:
        self.raw.say({"type": "sequenceAck", "sequenceId": sequence_id})

    async def read(self) -> Any:
        """The next frame; a message twice is one, and a gap in the numbers is an error."""
        heard = await self.raw.hear()
        if heard["type"] == "ack":
            self.acks[heard["ackId"]] = heard
        elif heard["type"] == "message":
            number = heard["sequenceId"]
            if not self.got or number > self.got[-1]:
                assert number == (self.got[-1] if self.got else 0) + 1, (number, self.got[-3:])
                self.got.append(number)
                self.texts.append(heard["data"])
        return heard

    async def has(self, *texts: str) -> None:
        """Read until these were got, each once."""
        while any(text not in self.texts for text in texts):
            await self.read()
        assert len(set(self.texts)) == len(self.texts), "something was delivered twice"

    async def is_told(self, code: int) -> None:
        assert (await self.raw.closed())[0] == code

    def close(self) -> None:
        """End the session (client-protocols.md 1.12)."""
        self.raw.send(masked(8, (1000).to_bytes(2, "big")))

    def session(self, place: Place) -> Session | None:
        return place.sessions.holder.get(HUB, self.id)


class Records:
    """The records as a gateway sees them whose answers get lost: `deaf` changes are made, and not heard of.
    `before` is awaited before each change."""

    def __init__(self, records: SessionRecords) -> None:
        self._records = records
        self.deaf = 0
        self.before: Callable[[], Awaitable[object]] | None = None
        self.changes = 0

    async def read(self, connection_id: str) -> SessionRecord:
        return await self._records.read(connection_id)

    async def change(self, connection_id: str, *arguments: Any) -> int | None:
        if self.before is not None:
            await self.before()
        self.changes += 1
        found = await self._records.change(connection_id, *arguments)
        if self.deaf:
            self.deaf -= 1
            raise Unavailable("No answer.")
        return found

    async def end(self, connection_id: str, *arguments: Any) -> int | None:
        return await self._records.end(connection_id, *arguments)


async def dial(port: int) -> Raw:
    one = socket.socket()
    one.setblocking(False)
    await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", port))
    return Raw(*await asyncio.open_connection(sock=one, limit=2**16))


class ReliableStack(Stack):
    def __init__(self, folder: Path, *, gateways: int = 1, retention: float = 35.0, **more: Any) -> None:
        super().__init__(folder, **{"lease_seconds": 2.0, **more})
        self._count = gateways
        self._retention = retention
        self._ports: list[HeldPort] = []
        self._clients: list[Client] = []
        self.places: list[Place] = []

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        first = Place(self.worker, self.port, self._stops[1], self._tasks[1])
        first.keep_sessions_for(self._retention)
        self.places.append(first)
        for _ in range(self._count - 1):
            await self.add_gateway()
        return self

    async def add_gateway(self) -> Place:
        held = hold_listen_port("127.0.0.1", 0)
        self._ports.append(held)
        started: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()

        async def note(worker: Worker) -> Http:
            started.set_result(worker)
            return Http(None, _nothing)

        stop = Stop()
        config = self._config.replace(port=held.port)
        task = asyncio.create_task(gateway.app.serve(config, stop, note, limits=self.limits))
        self._stops.append(stop)
        self._tasks.append(task)
        place = Place(await started, held.port, stop, task)
        place.keep_sessions_for(self._retention)
        self.places.append(place)
        await until(lambda: all(place.worker.owners.table.owners))
        return place

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients:
            client.raw.close()
        await super().__aexit__(kind, value, trace)
        for held in self._ports:
            held.socket.close()

    async def reliable(
        self, user: str, *, at: Place | None = None, groups: Sequence[str] = (), **more: Any
    ) -> Client:
        client = await Client(self, user).connect(at or self.places[0], groups=list(groups), **more)
        self._clients.append(client)
        return client


__all__ = ["HUB", "PING", "RELIABLE", "Client", "Place", "Records", "ReliableStack", "until"]
