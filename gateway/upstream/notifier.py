"""Tells handlers and listeners of what happens to connections, as surely as the cluster can.

An event is put into the cluster's queue, then sent, then taken out; whatever this process does in between,
somebody goes on (docs/decisions/0014). Nothing here is awaited on a client's path.

Guarantees: an event is sent at least once, with the same `ce-id` and request id each time, or kept as a dead
letter with the reason. Per connection events are sent one at a time in the order of their numbers: never
`disconnected` before `connected`. Each upstream has its own turns and bounds, and so has each endpoint of
listeners, for which there are copies of their own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import msgspec
import structlog

from gateway.notifications import Told
from gateway.upstream.audience import Audience, ListenersTold
from gateway.upstream.clock import Clock, SystemClock
from gateway.upstream.contexts import NotificationContext
from gateway.upstream.following import Following
from gateway.upstream.given_up import GivenUp
from gateway.upstream.outbox import RENEW_SECONDS, WRITERS, Outbox, Record
from gateway.upstream.owed import EVENTS_AHEAD, owe
from gateway.upstream.queued import QueuedEvent, adopted, copy_for, last_words
from gateway.upstream.schedule import BackOff
from gateway.upstream.sending import Sending
from gateway.upstream.service import UpstreamService
from gateway.upstream.source import EventSource
from gateway.upstream.takeover import FateOf, TakeOver, always_over
from hubwire.bus.client import BusClient
from hubwire.bus.dead_letters import DeadLetters
from hubwire.bus.event_log import EventLog, Pending, event_subject, life_subject
from hubwire.model.event_handlers import CONNECTED, DISCONNECTED, HandlerEvent
from hubwire.model.settings import HubSettings
from hubwire.runtime.service import end_tasks

log = structlog.get_logger(__name__)

REFRESH_SECONDS = 2.0
STORE_SECONDS = 5.0
"""How long a session waits on its way here until it is stored that its end is owed."""


class Notifier:
    """One gateway's notifications (implements gateway.notifications.Notifications).

    Run `run()` for as long as the gateway lives; `close` at a planned stop, before it is cancelled. What
    is left then is sent by another gateway. `may_act`: whether the gateway's lease is valid.
    Counters are plain integers that metrics read.
    """

    def __init__(
        self,
        name: str,
        bus: BusClient,
        upstream: UpstreamService,
        settings_of: Callable[[str], HubSettings],
        events: EventLog,
        letters: DeadLetters,
        may_act: Callable[[], bool],
        *,
        clock: Clock | None = None,
        back_off: BackOff = BackOff(),  # noqa: B008 (an immutable tuple)
        chance: Callable[[], float] = random.random,
        fate_of: FateOf = always_over,
        listeners: ListenersTold | None = None,
    ) -> None:
        self.name = name
        self._upstream = upstream
        self._audience = Audience(upstream, settings_of, listeners)
        self._clock = clock or SystemClock()
        self._outbox = Outbox(name, bus, events, may_act)
        self._outbox.on_lost = self._lost
        self._lives: dict[str, Record] = {}
        self._given_up = GivenUp(letters, self._outbox.open, self._clock)
        self._sending = Sending(
            self._outbox,
            self._audience,
            Following(events, self._outbox.open),
            self._given_up,
            self._clock,
            back_off,
            chance,
            self._followed,
        )
        self._outbox.on_stored = self._sending.stored
        self._take_over = TakeOver(name, events, self._outbox, self, fate_of)

    @property
    def delivered(self) -> int:
        return self._sending.delivered

    @property
    def unwanted(self) -> int:
        return self._sending.unwanted

    @property
    def given_up(self) -> int:
        return self._given_up.count

    @property
    def waiting(self) -> int:
        """Events that are not delivered yet, of this process."""
        return self._sending.waiting

    # -- what happens to connections (gateway.notifications.Notifications) ---------------------------

    def announced(self, connection: Told) -> None:
        audience = self._audience.of(connection.hub, CONNECTED)
        if not audience and not self._audience.of(connection.hub, DISCONNECTED):
            return
        source = connection.source
        number = source.next_id()
        record = Record(self.name, connection.id, life_subject(self.name, connection.id))
        record.source = source
        self._owe(record, source)
        self._lives[connection.id] = record
        self._tell(record, source, CONNECTED, number, audience)
        self._outbox.change(record)

    def over(self, connection: Told, reason: str | None) -> None:
        record = self._lives.pop(connection.id, None)
        audience = self._audience.of(connection.hub, DISCONNECTED)
        if record is None:
            if not audience:
                return
            record = Record(self.name, connection.id, life_subject(self.name, connection.id))
        record.owed = None
        record.source = None
        if audience:
            source = connection.source
            self._tell(record, source, DISCONNECTED, source.next_id(), audience, reason)
        self._outbox.change(record)

    def joined(self, connection: Told, group: str) -> None:
        self._presence(connection, HandlerEvent("gp", "joined", group))

    def left(self, connection: Told, group: str) -> None:
        self._presence(connection, HandlerEvent("gp", "left", group))

    async def resumed(self, connection: Told) -> None:
        if not self._audience.of(connection.hub, DISCONNECTED):
            return
        subject = life_subject(self.name, connection.id)
        # It may have been here before, and what is left of that is on its way out of the stream.
        record = self._outbox.records.get(subject) or Record(self.name, connection.id, subject)
        record.source = connection.source
        record.follows = True
        self._owe(record, connection.source)
        self._lives[connection.id] = record
        self._outbox.change(record)
        await self._outbox.stored(record, STORE_SECONDS)

    def moved(self, connection: Told) -> None:
        record = self._lives.pop(connection.id, None)
        if record is not None:
            record.owed = None
            record.source = None
            self._outbox.change(record)

    def _presence(self, connection: Told, event: HandlerEvent) -> None:
        # Not counted when nobody wants it: these are off by default, and most connections join groups.
        audience = self._audience.of(connection.hub, event)
        if audience:
            source = connection.source
            number = source.next_id()
            record = self._lives.get(connection.id)
            if record is None or record.stored:
                follows = record is not None and record.follows
                record = Record(self.name, connection.id, event_subject(self.name, connection.id, number))
                record.follows = follows
            # Otherwise in one record with `connected`: neither is stored without the other.
            if self._tell(record, source, event, number, audience):
                self._outbox.change(record)

    def _owe(self, record: Record, source: EventSource) -> None:
        """Note in the record what another gateway needs to tell of the end."""
        record.owed, record.promised = owe(source)
        record.told = (source.state, source.cookies)

    def _tell(
        self,
        record: Record,
        source: EventSource,
        event: HandlerEvent,
        number: int,
        audience: Sequence[str],
        reason: str | None = None,
    ) -> bool:
        """A copy for each of the audience; the caller says afterwards that the record has changed. False: it
        has not."""
        if not audience:
            return False
        context = self._upstream.notification(source, event, number, reason)
        copies = [copy_for(context, listener) for listener in audience]
        queued = [self._queue(record, source, event, each) for each in copies]
        return any(queued)

    def _queue(
        self,
        record: Record,
        source: EventSource,
        event: HandlerEvent,
        context: NotificationContext,
    ) -> bool:
        hub, number, listener = source.hub, context.event_id, context.listener
        try:
            payload = msgspec.msgpack.encode(context)
        except UnicodeEncodeError:
            # A name with half of a surrogate pair, which JSON can escape and nothing else can say.
            self._given_up.tell_of(hub, event.name, "It cannot be written in UTF-8.")
            return False
        pending = Pending(number, context.time, payload)
        key = self._audience.turns_of(hub, event, listener)
        self._outbox.need()
        queued = QueuedEvent(record, pending, hub, event, listener, key, source)
        if not self._sending.room(queued):
            self._sending.refuse(queued)
            return False
        record.pending.append(pending)
        self._sending.add(queued, record.version + 1)
        return True

    def _lost(self, record: Record) -> None:
        """Another gateway decides about this record now."""
        if self._lives.get(record.connection_id) is record:
            del self._lives[record.connection_id]
        self._sending.lost(record)

    def _followed(self, record: Record) -> None:
        """What comes next of its connection need not wait for other outboxes either."""
        life = self._lives.get(record.connection_id)
        if life is not None:
            life.follows = False

    # -- taking over (gateway.upstream.takeover.Adopter) -----------------------------------------------

    async def sweep(self, outbox: str, revision: int) -> bool:
        """Work off the outbox of a gateway that has gone, whose holder stands at `revision`. True: it is
        under way; False: somebody else was first. Raises Unavailable."""
        return await self._take_over.begin(outbox, revision)

    def adopt(self, records: Sequence[Record]) -> bool:
        """Take over all records of a connection as they stand in the stream: their events are sent, and
        `disconnected` is added where it is owed. False, and nothing is done, while there is no room."""
        found: list[tuple[Record, list[QueuedEvent], bool]] = []
        for record in records:
            owed, record.owed = record.owed, None
            if owed is not None:
                record.pending += last_words(owed, self._clock.time(), self._audience)
            queued = [adopted(record, each, self._audience) for each in record.pending]
            if not all(self._sending.room(each) for each in queued):
                return False
            found.append((record, queued, owed is not None or not queued))
        for record, queued, changed in found:
            for each in queued:
                self._sending.add(each, record.version + changed)
            if changed:
                self._outbox.change(record)
            else:
                self._outbox.records[record.subject] = record
        for record, _, changed in found:
            if not changed:
                self._sending.stored(record)
        return True

    # -- running -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Store and send until cancelled."""
        loops = [self._outbox.keep_open(), self._sending.run(), self._refresh(), self._given_up.run()]
        loops += [self._outbox.write() for _ in range(WRITERS)]
        tasks = [asyncio.create_task(loop, name="notifications") for loop in loops]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            await end_tasks([*tasks, *self._sending.tasks, *self._take_over.tasks])

    async def close(self, seconds: float) -> None:
        """At a planned stop, after every connection was `over`: send what can be sent within that time."""
        left = await self._outbox.close(seconds)
        if left:
            log.info("events_left_to_others", count=left)

    # -- what is owed, kept fresh ------------------------------------------------------------------------

    async def _refresh(self) -> None:
        """Clients' events change the state and the count of a connection; what is owed follows."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            for number, record in enumerate([*self._lives.values()]):
                source = record.source
                if source is not None and (
                    source.events > record.promised - EVENTS_AHEAD // 2
                    or record.told != (source.state, source.cookies)
                    or (record.written_at and loop.time() - record.written_at > RENEW_SECONDS)
                ):
                    self._owe(record, source)
                    self._outbox.change(record)
                if number % 1000 == 999:
                    await asyncio.sleep(0)
