"""Several gateways' notifiers on one stream that is only a dict, in virtual time, with faults by chance.

The notifiers are the real ones. What is not: the stream (compare-and-set as JetStream has it, whose requests
and answers take their time and can be lost), the application server, and the router that notices who has
gone. A gateway can be killed, and it can be believed dead while it goes on for a while.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from gateway.upstream.audience import ListenersTold
from gateway.upstream.contexts import NotificationContext, NotificationDelivered
from gateway.upstream.notifier import Notifier
from gateway.upstream.outcome import DeliveryFailure
from gateway.upstream.schedule import BackOff
from gateway.upstream.source import EventSource
from hubwire.bus.dead_letters import DeadLetter
from hubwire.bus.jetstream import StoredMessage, StreamFull
from hubwire.model.errors import LimitExceeded, Unavailable
from hubwire.model.event_handlers import HandlerEvent, choose_handler
from hubwire.model.settings import EventHandler, GroupPresenceEvents, HubSettings

HUB = "chat"
SETTINGS = HubSettings(
    event_handlers=(
        EventHandler(
            "http://app.example/events",
            None,
            ("connected", "disconnected"),
            group_presence_events=GroupPresenceEvents(("joined", "left"), ("*",)),
        ),
    )
)


class Told(NamedTuple):
    at: float
    gateway: str
    name: str
    number: int
    request_id: str
    reason: str | None
    state: str | None


class Stream:
    """What JetStream keeps: the last message of each subject."""

    def __init__(self) -> None:
        self.messages: dict[str, tuple[int, bytes]] = {}
        self.seq = 0
        self.created = 1
        self.full = False
        self.largest = 1024 * 1024

    def lose(self) -> None:
        """The server's memory is gone, and numbers begin again."""
        self.messages.clear()
        self.seq = 0
        self.created += 1


class Events:
    """hubwire.bus.event_log.EventLog of one gateway."""

    def __init__(self, stream: Stream, chance: Random, faults: Callable[[], float]) -> None:
        self._stream = stream
        self._chance = chance
        self._faults = faults

    async def _asked(self) -> None:
        await asyncio.sleep(self._chance.uniform(0.001, 0.02))
        if self._chance.random() < self._faults():
            # Longer than a lease lasts: others may have acted when it arrives, if it does.
            await asyncio.sleep(self._chance.choice((0.2, 3.0)))
            if self._chance.random() < 0.5:
                raise Unavailable("the request was lost")

    async def _answered(self) -> None:
        if self._chance.random() < self._faults():
            await asyncio.sleep(0.2)
            raise Unavailable("the answer was lost")
        await asyncio.sleep(self._chance.uniform(0.001, 0.02))

    async def open(self) -> None:
        await self._asked()

    async def incarnation(self) -> str:
        await self._asked()
        return str(self._stream.created)

    async def put(self, subject: str, data: bytes, revision: int) -> int | None:
        await self._asked()
        if self._stream.messages.get(subject, (0, b""))[0] != revision:
            return None
        if len(data) > self._stream.largest:
            raise LimitExceeded("A message on the bus, in bytes,", self._stream.largest, len(data))
        if self._stream.full:
            raise StreamFull("no room")
        self._stream.seq += 1
        stored = self._stream.seq
        self._stream.messages[subject] = (stored, data)
        await self._answered()
        return stored

    async def remove(self, subject: str, revision: int) -> None:
        await self._asked()
        found = self._stream.messages.get(subject)
        if found is not None and found[0] <= revision:
            del self._stream.messages[subject]
        await self._answered()

    async def read(self, subject: str) -> StoredMessage | None:
        await self._asked()
        found = self._stream.messages.get(subject)
        return StoredMessage(found[0], subject, found[1]) if found is not None else None

    async def subjects(self, outbox: str) -> list[str]:
        await self._asked()
        return [each for each in self._stream.messages if each.startswith(f"hw.event.{outbox}.")]

    async def elsewhere(self, outbox: str, connection_id: str) -> list[str]:
        await self._asked()
        parts = ((each, each.split(".")) for each in self._stream.messages)
        return [
            each
            for each, names in parts
            if names[1] == "event" and names[2] != outbox and names[3] == connection_id
        ]

    async def outboxes(self) -> list[str]:
        return [each[10:] for each in self._stream.messages if each.startswith("hw.outbox.")]

    async def holder(self, outbox: str) -> tuple[str, int] | None:
        found = await self.read(f"hw.outbox.{outbox}")
        return (found.data.decode(), found.seq) if found is not None else None

    async def hold(self, outbox: str, holder: str, revision: int) -> int | None:
        return await self.put(f"hw.outbox.{outbox}", holder.encode(), revision)

    async def close_outbox(self, outbox: str, revision: int) -> None:
        await self.remove(f"hw.outbox.{outbox}", revision)


class Letters:
    def __init__(self) -> None:
        self.kept: list[DeadLetter] = []

    async def keep(self, letter: DeadLetter) -> int:
        self.kept.append(letter)
        return len(self.kept)


class LoopClock:
    def time(self) -> float:
        return asyncio.get_running_loop().time()

    monotonic = time

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Bus:
    connected = True

    def __init__(self) -> None:
        self._listeners: list[Callable[[], None]] = []

    def on_disconnect(self, listener: Callable[[], None]) -> None: ...

    def on_reconnect(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def reconnect(self) -> None:
        for listener in self._listeners:
            listener()


class Client:
    """As much of gateway.connection.Connection as a notifier looks at."""

    def __init__(self, connection_id: str) -> None:
        self.id = connection_id
        self.hub = HUB
        self.source = EventSource(HUB, connection_id, "ada")


class Upstream:
    """As much of UpstreamService as a notifier asks. The application gets what is sent after a while, and its
    answer can be lost or be a failure."""

    def __init__(self, world: World, gateway: str) -> None:
        self._world = world
        self._gateway = gateway
        self._count = 0

    def wants(self, hub: str, event: HandlerEvent) -> bool:
        return choose_handler(self._world.settings, event) is not None

    def notification(
        self, source: EventSource, event: HandlerEvent, event_id: int, reason: str | None = None
    ) -> NotificationContext:
        self._count += 1
        return NotificationContext(
            source.snapshot(),
            event.name,  # type: ignore[arg-type]
            event_id,
            asyncio.get_running_loop().time(),
            f"{self._gateway}/{self._count}",
            reason,
            event.group,
        )

    async def notify(self, context: NotificationContext) -> NotificationDelivered | DeliveryFailure:
        world = self._world
        await asyncio.sleep(world.chance.uniform(0.01, 0.3))
        if world.chance.random() < world.faults:
            return DeliveryFailure("network", None, "No connection.", 1, 0.1, "")
        if world.refuses(context.name):
            return DeliveryFailure("status", 404, "The event handler answered 404.", 1, 0.1, "")
        world.told[context.source.connection_id].append(
            Told(
                asyncio.get_running_loop().time(),
                self._gateway,
                context.name,
                context.event_id,
                context.request_id,
                context.reason,
                context.source.state,
            )
        )
        await asyncio.sleep(world.chance.uniform(0.01, 0.3))
        if world.chance.random() < world.faults:
            return DeliveryFailure("timeout", None, "No answer.", 1, 0.1, "")
        return NotificationDelivered("http://app.example/events", ())


class Gateway:
    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.valid = True
        self.running = True
        self.clients: dict[str, Client] = {}
        self.upstream = Upstream(world, name)
        self.bus = Bus()
        parts: Any = (
            self.bus,
            self.upstream,
            lambda _hub: world.settings,
            Events(world.stream, world.chance, lambda: world.faults),
            world.letters,
            lambda: self.valid,
        )
        self.notifier = Notifier(
            name,
            *parts,
            clock=LoopClock(),
            back_off=BackOff(tries=1000, first_seconds=1, most_seconds=4, give_up_seconds=1e6),
            chance=world.chance.random,
            listeners=world.listeners,
        )
        self.task = asyncio.create_task(self.notifier.run())

    def open(self, connection_id: str) -> None:
        client: Any = Client(connection_id)
        self.clients[connection_id] = client
        self.notifier.announced(client)

    def close(self, connection_id: str, reason: str | None = None) -> None:
        client: Any = self.clients.pop(connection_id)
        self.notifier.over(client, reason)

    def join(self, connection_id: str, group: str) -> None:
        client: Any = self.clients[connection_id]
        self.notifier.joined(client, group)

    def join_only(self, connection_id: str, group: str) -> None:
        """A client that was not announced, as when the handler is new."""
        client: Any = Client(connection_id)
        self.notifier.joined(client, group)

    async def kill(self) -> None:
        self.valid = self.running = False
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class World:
    """`faults` is the chance that a request or an answer is lost."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.faults = 0.0
        self.settings = SETTINGS
        self.listeners: ListenersTold | None = None
        self.refuses: Callable[[str], bool] = lambda _name: False
        self.stream = Stream()
        self.letters = Letters()
        self.told: dict[str, list[Told]] = defaultdict(list)
        self.gateways: dict[str, Gateway] = {}
        self._router = asyncio.create_task(self._sweep())

    def gateway(self, name: str) -> Gateway:
        made = self.gateways[name] = Gateway(self, name)
        return made

    def alive(self) -> list[Gateway]:
        return [each for each in self.gateways.values() if each.valid]

    def _is_alive(self, name: str) -> bool:
        return name in self.gateways and self.gateways[name].valid

    async def _sweep(self) -> None:
        """The router: asks, again and again, that the outboxes of the dead be worked off."""
        events = Events(self.stream, self.chance, lambda: self.faults)
        while True:
            await asyncio.sleep(0.5)
            try:
                for outbox in await events.outboxes():
                    held = await events.holder(outbox)
                    if self._is_alive(outbox) or held is None or not self.alive():
                        continue
                    holder = held[0] if self._is_alive(held[0]) else self.chance.choice(self.alive()).name
                    await self.gateways[holder].notifier.sweep(outbox, held[1])
            except Unavailable:
                pass

    async def until(self, condition: Callable[[], bool], seconds: float = 600) -> None:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 (of everything at once)
                await asyncio.sleep(0.1)

    def settled(self) -> bool:
        """Nothing waits, and nothing is owed but for clients that are there."""
        there = sum(len(each.clients) for each in self.alive())
        records = [each for each in self.stream.messages if each.startswith("hw.event.")]
        marks = {each[10:] for each in self.stream.messages if each.startswith("hw.outbox.")}
        waiting = sum(each.notifier.waiting for each in self.alive())
        return waiting == 0 and len(records) == there and marks <= {each.name for each in self.alive()}

    async def close(self) -> None:
        self._router.cancel()
        for each in self.gateways.values():
            await each.kill()
        await asyncio.gather(self._router, return_exceptions=True)

    def once(self, connection_id: str) -> list[Told]:
        """What was told of a connection, without repeats, each of which must be recognisable."""
        found: list[Told] = []
        for each in self.told[connection_id]:
            same = [one for one in found if one.name == each.name or one.number == each.number]
            if each.name in ("joined", "left"):
                same = [one for one in found if one.number == each.number]
            if same:
                assert (same[0].name, same[0].number, same[0].request_id) == (
                    each.name,
                    each.number,
                    each.request_id,
                ), (same[0], each)
            else:
                found.append(each)
        return found
