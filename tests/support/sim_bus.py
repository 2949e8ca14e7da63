"""A simulated NATS and its clients, for `support.simulation`: time, delays and losses are the world's.

Implements of BusClient, JetStream and OwnersStore what the core uses: core subjects with one wildcard at
the end, requests, the bucket of the leases with compare-and-set, a compare-and-set table, and the streams
of support.sim_streams. One
connection delivers in order; what is on its way when a connection is cut is lost, in both directions.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from nats.js.errors import BucketNotFoundError
from support.sim_streams import SimStreams

from hubwire.bus.client import LOST, NO_RESPONDERS, TIMEOUT, ReplyHandler
from hubwire.bus.direct_client import Handler, RawHandler
from hubwire.bus.envelopes import pack, unpack
from hubwire.bus.owners import EMPTY_TABLE, OwnersTable, pack_table, unpack_table
from hubwire.bus.subjects import OWNERS_CHANGED
from hubwire.model.errors import Unavailable
from hubwire.runtime.lease_bucket import STREAM

if TYPE_CHECKING:
    from support.simulation import Node, World

MAX_PAYLOAD = 64 * 1024  # small, so that parts and several messages a batch happen


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "") + "Z"


class SimNats:
    """The server. `up`: clients can connect; `stalled`: JetStream has no leader."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.up = True
        self.stalled = False
        self.slow = 0.0  # seconds that a message may take on top
        self.mute = 0.0  # how likely the answer to a request is lost
        self.max_payload = MAX_PAYLOAD
        self.streams = SimStreams(self)
        self.buses: list[SimBus] = []
        self.bucket: dict[str, tuple[int, bytes, float]] | None = None
        self.bucket_made = 0.0
        self.table: tuple[int, bytes] = (0, b"")
        self.sequence = 0
        self.losses = 0

    def forget(self) -> None:
        """A memory-mode server has restarted."""
        self.bucket = None
        self.table = (0, b"")
        self.streams.forget()
        self.losses += 1

    def received(self, sender: SimBus, subject: str, data: bytes, reply: str, headers: bytes) -> None:
        if subject.startswith("_INBOX."):
            if self.mute and self.world.chance.random() < self.mute:
                return
            for bus in self.buses:
                if subject.startswith(bus.inbox):
                    bus.deliver(subject, "", data)
            return
        if self.streams.takes(subject):
            self.streams.received(sender, subject, data, reply, headers)
            return
        heard = False
        for bus in [*self.buses]:
            for pattern in bus.subscribed:
                if pattern == subject or (pattern[-1] == "*" and subject.startswith(pattern[:-1])):
                    bus.deliver(subject, reply, data)
                    heard = True
        answer: Any = None
        known = subject.startswith(("$KV.", "$JS.", "sim."))
        if known and not self.stalled:
            answer = self._jetstream(subject, data, headers)
        if answer is not None and reply:
            sender.deliver(reply, "", answer if isinstance(answer, bytes) else json.dumps(answer).encode())
        elif not heard and not known and reply:
            sender.deliver(reply, NO_RESPONDERS, b"")

    def _jetstream(self, subject: str, data: bytes, headers: bytes) -> Any:
        if subject.startswith("$KV."):
            return self._store(subject, data, headers)
        if subject.startswith("$JS.API.STREAM.INFO."):
            if self.bucket is None:
                return {"error": {"code": 404, "err_code": 10059}}
            prefix = json.loads(data)["subjects_filter"].rstrip("*")
            found = {one: 1 for one in self.bucket if one.startswith(prefix)}
            return {
                "ts": _iso(self.world.now),
                "created": _iso(self.bucket_made),
                "state": {"subjects": found},
            }
        if subject.startswith("$JS.API.STREAM.MSG.GET."):
            if self.bucket is None:
                return {"error": {"code": 404, "err_code": 10059}}
            entry = self.bucket.get(json.loads(data)["last_by_subj"])
            if entry is None:
                return {"error": {"code": 404, "err_code": 10037}}
            sequence, stored, when = entry
            return {"message": {"seq": sequence, "data": b64encode(stored).decode(), "time": _iso(when)}}
        if subject == "sim.bucket":
            return {"there": self.bucket is not None}
        if subject == "sim.bucket.create":
            if self.bucket is None:
                self.bucket, self.bucket_made = {}, self.world.now
            return {"there": True}
        if subject == "sim.table.read":
            return pack([1, *self.table])
        revision, table = unpack(data)[1:]
        if revision != self.table[0]:
            return pack([1, False])
        self.sequence += 1
        self.table = (self.sequence, table)
        self.world.table_written(unpack_table(table))
        return pack([1, True])

    def _store(self, subject: str, data: bytes, headers: bytes) -> Any:
        if self.bucket is None:
            return None  # no stream listens there
        now = self.bucket.get(subject, (0, b"", 0.0))[0]
        if headers and int(headers.split(b":")[1]) != now:
            return {"error": {"code": 400, "err_code": 10071, "description": "wrong last sequence"}}
        self.sequence += 1
        self.bucket[subject] = (self.sequence, data, self.world.now)
        return {"stream": STREAM, "seq": self.sequence}


class SimJs:
    """Of JetStream's context, what `open_bucket` uses."""

    def __init__(self, bus: SimBus) -> None:
        self._bus = bus

    async def key_value(self, bucket: str) -> None:
        if not json.loads(await self._bus.ask("sim.bucket", b"", 5.0))["there"]:
            raise BucketNotFoundError

    async def create_key_value(self, _config: Any) -> None:
        await self._bus.ask("sim.bucket.create", b"", 5.0)


class SimBus:
    """One process's connection, with BusClient's promises."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.world = node.world
        self.nats = node.world.nats
        self.inbox = f"_INBOX.{self.world.next_id()}."
        self.connected = False
        self.max_payload = self.nats.max_payload
        self.subscribed: dict[str, list[Handler]] = defaultdict(list)
        self.raw: dict[str, RawHandler] = {}
        self.js = SimJs(self)
        self.life = 0  # counts connections: what was sent on an earlier one is lost
        self._sent_until = self._told_until = 0.0
        self._waiting: dict[str, tuple[ReplyHandler, asyncio.TimerHandle]] = {}
        self._on_reconnect: list[Callable[[], None]] = []
        self._on_disconnect: list[Callable[[], None]] = []
        self._closed = False

    # -- what the world does -----------------------------------------------------------------------

    def connect(self) -> None:
        if not self._closed and not self.connected and self.nats.up:
            again = self.life > 0
            self.life += 1
            self.connected = True
            self.nats.buses.append(self)
            if again:
                self.node.soon(self._tell, self._on_reconnect)

    def disconnect(self) -> None:
        if self.connected:
            self.connected = False
            self.nats.buses.remove(self)
            self.node.soon(self._lost)

    def _lost(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for handler, timer in waiting.values():
            timer.cancel()
            handler(None, LOST)
        self._tell(self._on_disconnect)

    @staticmethod
    def _tell(listeners: list[Callable[[], None]]) -> None:
        for listener in listeners:
            listener()

    def new_inbox(self) -> str:
        return f"_INBOX.{self.world.next_id()}"

    def deliver(self, subject: str, reply: str, data: bytes, headers: bytes = b"") -> None:
        """From the server to this client, in order, after a while, if the connection lasts."""
        life = self.life
        self._told_until = max(self._told_until, self.world.now + self.world.delay())

        def arrive() -> None:
            if self.connected and self.life == life:
                self.node.soon(self._arrived, subject, reply, data, headers, life)

        self.world.at(self._told_until, arrive)

    def _arrived(self, subject: str, reply: str, data: bytes, headers: bytes, life: int) -> None:
        if self._closed or self.life != life or not self.connected:
            return
        waiting = self._waiting.pop(subject, None)
        if waiting is not None:
            waiting[1].cancel()
            if reply == NO_RESPONDERS:
                waiting[0](None, NO_RESPONDERS)
            elif (more := waiting[0](data, "")) is not None:
                self._wait(subject, waiting[0], more)
            return
        for pattern, raw in [*self.raw.items()]:
            if pattern == subject or (pattern[-1] == "*" and subject.startswith(pattern[:-1])):
                raw(subject, "" if reply == NO_RESPONDERS else reply, data, headers)
        for pattern, handlers in [*self.subscribed.items()]:
            if pattern == subject or (pattern[-1] == "*" and subject.startswith(pattern[:-1])):
                for handler in [*handlers]:
                    handler(subject, reply, data)

    # -- what the client does ----------------------------------------------------------------------

    def on_reconnect(self, listener: Callable[[], None]) -> None:
        self._on_reconnect.append(listener)

    def on_disconnect(self, listener: Callable[[], None]) -> None:
        self._on_disconnect.append(listener)

    async def subscribe(self, subject: str, handler: Handler) -> Callable[[], Any]:
        self.subscribed[subject].append(handler)
        await self.synchronize()

        async def unsubscribe() -> None:
            self.subscribed[subject].remove(handler)
            if not self.subscribed[subject]:
                del self.subscribed[subject]

        return unsubscribe

    async def subscribe_raw(self, subject: str, handler: RawHandler) -> Callable[[], Any]:
        self.raw[subject] = handler
        await self.synchronize()

        async def unsubscribe() -> None:
            self.raw.pop(subject, None)

        return unsubscribe

    async def synchronize(self) -> None:
        while True:
            life = self.life
            await asyncio.sleep(max(0.001, self._sent_until - self.world.now))
            if self.connected and self.life == life:
                return

    async def ping(self, seconds: float) -> float | None:
        """The real one asks the server; here nothing hangs on the answer."""
        return 0.001 if self.connected else None

    def publish(self, subject: str, payload: bytes, reply: str = "", headers: bytes = b"") -> None:
        if not self.connected:
            raise Unavailable("NATS is not connected.")
        assert len(payload) <= self.max_payload, "a real server would have closed the connection"
        life = self.life
        self._sent_until = max(self._sent_until, self.world.now + self.world.delay())

        def arrive() -> None:
            if self.connected and self.life == life:
                self.nats.received(self, subject, payload, reply, headers)

        self.world.at(self._sent_until, arrive)

    def request(
        self, subject: str, payload: bytes, handler: ReplyHandler, timeout: float, headers: bytes = b""
    ) -> None:
        token = f"{self.inbox}{self.world.next_id()}"
        self.publish(subject, payload, token, headers)
        self._wait(token, handler, timeout)

    def _wait(self, token: str, handler: ReplyHandler, timeout: float) -> None:
        def expire() -> None:
            if self._waiting.pop(token, None) is not None:
                handler(None, TIMEOUT)

        timer = asyncio.get_running_loop().call_later(timeout, expire)
        self._waiting[token] = (handler, timer)

    async def ask(self, subject: str, payload: bytes, timeout: float, headers: bytes = b"") -> bytes:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def answered(data: bytes | None, reason: str) -> None:
            if future.done():
                return
            if data is None:
                future.set_exception(Unavailable(reason))
            else:
                future.set_result(data)

        self.request(subject, payload, answered, timeout, headers)
        return await future

    async def suspect(self, seconds: float) -> None:
        """There is one server only."""

    async def close(self) -> None:
        await self.synchronize() if self.connected else None
        self._closed = True
        self.disconnect()


class SimStore:
    """OwnersStore over the simulated server."""

    def __init__(self, bus: SimBus) -> None:
        self._bus = bus

    async def read(self) -> tuple[OwnersTable, int]:
        _, revision, data = unpack(await self._bus.ask("sim.table.read", b"", 5.0))
        return (unpack_table(data) if data else EMPTY_TABLE), revision

    async def write(self, table: OwnersTable, revision: int) -> bool:
        data = pack_table(table)
        _, written = unpack(await self._bus.ask("sim.table.write", pack([1, revision, data]), 5.0))
        if written:
            try:
                self._bus.publish(OWNERS_CHANGED, data)
            except Unavailable:
                pass
        return bool(written)
