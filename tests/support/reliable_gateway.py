"""A gateway of which only the bus side is there: registers reliable keys, publishes, and has an inbox."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from support.inboxes import connect

from gateway.registrar import Registrar
from gateway.reliable.seen import Seen, Verdict
from hubwire.bus.client import BusClient
from hubwire.bus.dispatcher import Dispatcher
from hubwire.bus.envelopes import ASK, PUBLISH, pack_body, unpack, unpack_body
from hubwire.bus.inbox import Inbox
from hubwire.bus.inbox_entries import MESSAGE, unpack_batch
from hubwire.bus.inbox_reader import read_inbox
from hubwire.bus.keys import partition_of, reliable_key
from hubwire.bus.owners import OwnersStore, OwnersView
from hubwire.bus.settle import settle
from hubwire.bus.subjects import gateway_subject
from hubwire.model.message import DataType, Message
from hubwire.runtime.leases import Lease
from hubwire.runtime.service import end_tasks, new_run_name

LEASE_SECONDS = 3.0


class ReliableGateway:
    def __init__(self, urls: Sequence[str], *, replicas: int = 1, max_bytes: int = 8 * 1024 * 1024) -> None:
        self._urls = urls
        self._replicas = replicas
        self._max_bytes = max_bytes
        self.name = new_run_name()
        self._tasks: list[asyncio.Task[None]] = []
        self.bus: BusClient
        self.inbox: Inbox

    async def __aenter__(self) -> Self:
        self.bus = await connect(self._urls)
        kind: dict[str, Any] = {"memory": False, "replicas": self._replicas}
        owners = OwnersView(self.bus, OwnersStore(self.bus, **kind))
        self.dispatcher = Dispatcher(self.bus, owners, self.name)
        self.registrar = Registrar(self.dispatcher, owners)
        self.inbox = Inbox(self.bus, self.name, max_bytes=self._max_bytes, **kind)
        await self.inbox.open()
        self.lease = Lease(self.bus, "gateway", self.name, LEASE_SECONDS, **kind)
        await self.bus.subscribe(gateway_subject(self.name), self._told)
        self._tasks.append(asyncio.create_task(owners.run()))
        await self.lease.acquire()
        self._tasks.append(asyncio.create_task(self.lease.run()))
        self.registrar.announce_all()
        return self

    def _told(self, _subject: str, _reply: str, data: bytes) -> None:
        _, kind, *rest = unpack(data)
        if kind == ASK:
            self.registrar.asked(rest[1])

    async def join(self, *keys: str) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for key in keys:
            self.registrar.join(reliable_key(key))
        self.registrar.when_all_confirmed(
            [reliable_key(key) for key in keys], lambda e: settle(future, None, e)
        )
        await future

    async def publish(
        self, key: str, text: str, identity: tuple[str, int] | None = None, timeout: float = 20.0
    ) -> Any:
        """The owner's answer, which is given when it is stored."""
        body = pack_body(Message(DataType.TEXT, text.encode(), None))
        number = self.dispatcher.next_number()
        entry = [PUBLISH, partition_of(key), key, number, body, *(identity or ())]
        return await self.dispatcher.ask(partition_of(key), entry, size=len(body) + 64, timeout=timeout)

    async def log(self, key: str) -> list[str]:
        """The texts to a key that count, in the order of the inbox, as its fold takes them."""
        seen, found = Seen(), []
        async for page in read_inbox(self.bus, self.name):
            for message in page:
                seen.now = message.time
                batch = unpack_batch(message.data)
                if not seen.batch(batch.writer, batch.number):
                    continue
                for entry in batch.entries:
                    found += self._counts(seen, entry, key, message.time)
        return found

    @staticmethod
    def _counts(seen: Seen, entry: list[Any], key: str, time: float) -> Iterable[str]:
        kind, partition, epoch, stamp, sender, number, to, body, publisher, ack_id = entry
        assert kind == MESSAGE
        publish = (epoch, stamp, sender, number, publisher, ack_id)
        if seen.of(partition).judge(publish, time) == Verdict.FRESH and to == key:
            yield unpack_body(body, None).message.data.decode()

    async def end(self) -> None:
        """Its lease ends, its inbox stays: what it held can come back elsewhere."""
        self.dispatcher.close()
        await self.lease.release()
        await end_tasks(self._tasks)
        self._tasks.clear()

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()
        await self.bus.close()
