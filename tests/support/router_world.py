"""A router with everything around it under the test's hand, in virtual time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

from support.virtual_time import run

from gateway.membership import Membership
from hubwire.bus.client import NO_RESPONDERS, ReplyHandler
from hubwire.bus.envelopes import (
    ASK,
    DELIVER,
    OK,
    PUBLISH,
    SNAPSHOT,
    batch_to_router,
    unpack,
)
from hubwire.bus.inbox_entries import unpack_batch
from hubwire.bus.keys import PARTITIONS, reliable_key
from hubwire.bus.owners import EMPTY_TABLE, OwnersTable, OwnersView
from hubwire.bus.subjects import (
    gateway_subject,
    inbox_stream,
    inbox_subject,
)
from hubwire.model.errors import Unavailable
from router.ownership import Ownership
from router.service import RouterService

ME, OTHER, THIRD = "aaaaaaaaa", "bbbbbbbbb", "ccccccccc"
G, H = "ggggggggg", "hhhhhhhhh"
P = 0
KEY = "g\0hub\0room"


class InboxWrite:
    """A batch on its way to an inbox, to be stored by the test."""

    def __init__(self, bus: FakeBus, gateway: str, data: bytes, handler: ReplyHandler) -> None:
        self.bus = bus
        self.gateway = gateway
        self.data = data
        self._handler = handler

    @property
    def entries(self) -> list[Any]:
        return unpack_batch(self.data).entries

    def store(self) -> None:
        self.bus.stored.setdefault(self.gateway, []).append(self.data)
        answer = {"stream": inbox_stream(self.gateway), "seq": len(self.bus.stored[self.gateway])}
        self._handler(json.dumps(answer).encode(), "")

    def nobody(self) -> None:
        self._handler(None, NO_RESPONDERS)


class FakeBus:
    def __init__(self) -> None:
        self.connected = True
        self.max_payload = 1024 * 1024
        self.full_after: int | None = None
        self.sent: list[tuple[str, bytes]] = []
        self.handlers: dict[str, Any] = {}
        self.inboxes: set[str] = set()
        self.writes: list[InboxWrite] = []  # that the test has not stored
        self.stored: dict[str, list[bytes]] = {}
        self.tasks: list[asyncio.Future[None]] = []
        self._reconnect: list[Callable[[], None]] = []
        self._disconnect: list[Callable[[], None]] = []

    def on_reconnect(self, listener: Callable[[], None]) -> None:
        self._reconnect.append(listener)

    def on_disconnect(self, listener: Callable[[], None]) -> None:
        self._disconnect.append(listener)

    async def subscribe(self, subject: str, handler: Any) -> Any:
        self.handlers[subject] = handler

        async def unsubscribe() -> None:
            self.handlers.pop(subject, None)

        return unsubscribe

    async def synchronize(self) -> None:
        await asyncio.sleep(0.001)

    def publish(self, subject: str, payload: bytes, reply: str = "", headers: bytes = b"") -> None:
        if not self.connected or self.full_after == 0:
            raise Unavailable("NATS does not take messages fast enough.")
        if self.full_after is not None:
            self.full_after -= 1
        assert len(payload) <= self.max_payload
        self.sent.append((subject, payload))
        if reply:
            self.sent.append((f"reply to {reply}", payload))

    def request(self, subject: str, payload: bytes, handler: ReplyHandler, timeout: float) -> None:
        if not self.connected:
            raise Unavailable("NATS is not connected.")
        if subject.startswith(inbox_subject("")):
            gateway = subject.removeprefix(inbox_subject(""))
            write = InboxWrite(self, gateway, payload, handler)
            if gateway in self.inboxes:
                self.writes.append(write)
            else:
                asyncio.get_running_loop().call_soon(write.nobody)
        else:

            async def answer() -> None:
                handler(await self.ask(subject, payload, timeout), "")

            self.tasks.append(asyncio.ensure_future(answer()))

    async def ask(self, subject: str, payload: bytes, timeout: float, headers: bytes = b"") -> bytes:
        """Of JetStream, which streams there are."""
        await asyncio.sleep(0.001)
        if subject == "$JS.API.STREAM.NAMES":
            return json.dumps(
                {"streams": [*map(inbox_stream, self.inboxes)], "total": len(self.inboxes)}
            ).encode()
        name = subject.removeprefix("$JS.API.STREAM.INFO.").removeprefix(inbox_stream(""))
        if name in self.inboxes:
            return json.dumps(
                {"created": "now", "state": {"first_seq": 1, "last_seq": 0, "bytes": 0}, "config": {}}
            ).encode()
        return json.dumps({"error": {"code": 404, "err_code": 10059}}).encode()

    def cut(self) -> None:
        for listener in self._disconnect:
            listener()

    def back(self) -> None:
        for listener in self._reconnect:
            listener()


class FakeLease:
    name = ME

    def __init__(self) -> None:
        self.valid = True
        self.left = False

    async def leave(self) -> None:
        self.left = True


class FakeWatch:
    def __init__(self, *alive: str) -> None:
        self.alive = set(alive)
        self.leaving: set[str] = set()
        self.ended: set[str] = set()
        self.complete = True
        self._listeners: list[Callable[[str, bool], None]] = []

    def on_change(self, listener: Callable[[str, bool], None]) -> None:
        self._listeners.append(listener)

    def certainly_ended(self, name: str) -> bool:
        return name in self.ended

    def appear(self, name: str) -> None:
        self.alive.add(name)
        for listener in self._listeners:
            listener(name, True)

    def end(self, name: str) -> None:
        self.alive.discard(name)
        self.ended.add(name)
        for listener in self._listeners:
            listener(name, False)


class FakeStore:
    """The bucket. `fail_writes`: of the next writes, whether each is stored although it raises."""

    def __init__(self) -> None:
        self.table = EMPTY_TABLE
        self.revision = 0
        self.writes: list[OwnersTable] = []
        self.fail_writes: list[bool] = []
        self.late: tuple[OwnersTable, int] | None = None
        self.before_write: Callable[[], None] = lambda: None

    async def read(self) -> tuple[OwnersTable, int]:
        await asyncio.sleep(0.001)
        return self.table, self.revision

    def put(self, table: OwnersTable) -> None:
        self.table, self.revision = table, self.revision + 1

    async def write(self, table: OwnersTable, revision: int) -> bool:
        self.before_write()
        await asyncio.sleep(0.001)
        if self.fail_writes:
            if self.fail_writes.pop(0):
                self.put(table)
            raise Unavailable("no answer")
        if revision != self.revision:
            return False
        self.put(table)
        self.writes.append(table)
        return True


class World:
    def __init__(self) -> None:
        self.bus: Any = FakeBus()
        self.lease: Any = FakeLease()
        self.store: Any = FakeStore()
        self.routers: Any = FakeWatch(ME)
        self.gateways: Any = FakeWatch()
        self.owners = OwnersView(self.bus, self.store)
        self.now_ms = 1_000_000
        self.ownership = Ownership(
            self.bus,
            self.lease,
            self.owners,
            self.store,
            self.routers,
            self.gateways,
            now_ms=lambda: self.now_ms,
        )
        self.service = RouterService(self.bus, self.lease, self.ownership, self.gateways)
        self.tasks = [
            asyncio.create_task(work.run()) for work in (self.service, self.ownership, self.service.inboxes)
        ]
        self._replies = 0

    def give(self, router: str = ME, partitions: range = range(PARTITIONS)) -> None:
        """Put it into the table, as somebody else would."""
        self.now_ms += 10
        table = self.owners.table.with_changes(dict.fromkeys(partitions, router), self.now_ms)
        self.store.put(table)
        self.owners.offer(table)
        self.list_inboxes()

    def list_inboxes(self, *names: str) -> None:
        """What NATS has, told at once for all that is owned now."""
        self.bus.inboxes |= set(names)
        self.service.inboxes.listed(self.bus.inboxes, self.ownership.partitions.values())

    def request(
        self, *entries: list[Any], sender: str = "sender", epoch: int | None = None, partition: int = P
    ) -> list[Any] | None:
        """Send a batch; the answers."""
        owned = self.ownership.partitions.get(partition)
        epoch = epoch if epoch is not None else owned.epoch if owned else 0
        self._replies += 1
        reply = self.last_reply = f"reply{self._replies}"
        self.service._requested("", reply, batch_to_router(sender, [(partition, epoch, list(entries))]))
        found = [payload for subject, payload in self.bus.sent if subject == reply]
        return unpack(found[0])[1] if found else None

    def publish(self, number: int, body: bytes = b"body", **more: Any) -> list[Any] | None:
        return self.request([PUBLISH, P, KEY, number, body], **more)

    def later(self, reply: str | None = None) -> list[Any]:
        """The latest answers to a batch, the last one without more."""
        reply = reply or self.last_reply
        found: list[Any] = unpack([payload for subject, payload in self.bus.sent if subject == reply][-1])[1]
        return found

    def has_reliable(self, gateway: str, *keys: str) -> Membership:
        """A living gateway with an inbox, that has said that it has reliable members of these keys."""
        self.bus.inboxes.add(gateway)
        if gateway not in self.gateways.alive:
            self.gateways.appear(gateway)
        mine = Membership()
        for key in keys or (KEY,):
            mine.join(P, reliable_key(key))
        self.sync(gateway, mine)
        return mine

    async def let_store(self, *gateways: str) -> None:
        """Store what is under way to these inboxes, or to all, until nothing is."""
        await turn()
        while found := [one for one in self.bus.writes if one.gateway in gateways or not gateways]:
            self.bus.writes.remove(found[0])
            found[0].store()
            await turn()

    def logged(self, gateway: str) -> list[list[Any]]:
        """What stands in an inbox."""
        return [entry for data in self.bus.stored.get(gateway, ()) for entry in unpack_batch(data).entries]

    def sync(self, gateway: str, membership: Membership | None = None) -> None:
        seq, digest, keys = (membership or Membership()).snapshot(P)
        assert self.request([SNAPSHOT, P, seq, digest, keys, 0, 1], sender=gateway) == [OK]

    def delivered(self, gateway: str) -> list[list[Any]]:
        """What was forwarded to a gateway, as [partition, epoch, sender, number, key, body]."""
        found = []
        for subject, payload in self.bus.sent:
            if subject == gateway_subject(gateway):
                _, kind, _, items = unpack(payload)
                if kind == DELIVER:
                    found += items
        return found

    def asked(self, gateway: str) -> set[int]:
        found: set[int] = set()
        for subject, payload in self.bus.sent:
            if subject == gateway_subject(gateway):
                _, kind, _, content = unpack(payload)
                if kind == ASK:
                    found |= set(content)
        return found

    def owner_of(self, partition: int = P) -> str:
        owner = self.store.table.owners[partition]
        return owner.router if owner else ""


async def turn() -> None:
    """Let everything that is due now happen."""
    for _ in range(3):
        await asyncio.sleep(0)


Body = Callable[[World], Coroutine[Any, Any, None]]


def in_virtual_time(body: Body) -> Callable[[], None]:
    @wraps(body)
    def test() -> None:
        async def whole() -> None:
            world = World()
            await asyncio.sleep(0.01)
            await body(world)
            for task in world.tasks:
                assert not task.done(), task
                task.cancel()
            await asyncio.gather(*world.tasks, *world.bus.tasks, return_exceptions=True)
            world.service.close()

        run(whole())

    del test.__wrapped__  # type: ignore[attr-defined]  # pytest would look for a fixture called world
    return test
