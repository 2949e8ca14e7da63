"""Which partitions this router speaks for (DESIGN.md section 4, "Ownership").

The ring says who should own a partition, the table in its bucket says who does. A router changes the table
only where it may: it gives away what it owns, and takes what nobody owns or whose owner's lease has
certainly ended. All by compare-and-set of the whole table, each change under a new and higher epoch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

import structlog

from hubwire.bus.client import BusClient
from hubwire.bus.keys import PARTITIONS
from hubwire.bus.owners import OwnersStore, OwnersTable, OwnersView, pack_table, unpack_table
from hubwire.bus.subjects import OWNERS_ASKED, owners_told_subject
from hubwire.model.errors import HubwireError, InvalidRequest, Unavailable
from hubwire.model.publish_ids import PublishIds
from hubwire.runtime.leases import Lease, LeaseWatch
from router.membership import PartitionMembers
from router.ring import placement
from router.writes import Writes

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.1
READ_SECONDS = 1.0
"""How often the table is read although nothing seems to be wanted."""

HAND_OVER_PAUSE_SECONDS = 0.02
"""Between refusing a partition and giving it away: what was forwarded last gets to its gateways before
anything of the new owner, also where the two take different ways through a NATS cluster."""

LOST_TABLE_SECONDS = 0.2
"""How long the other routers have to tell what they know when the table is not in its bucket."""

MAX_SENDERS_REMEMBERED = 4096


class Owned:
    """A partition that the table gives this router, under this epoch."""

    __slots__ = (
        "_ownership",
        "epoch",
        "handled",
        "ids",
        "listed",
        "members",
        "number",
        "seen",
        "writes",
    )

    def __init__(self, ownership: Ownership, number: int, epoch: int, members: PartitionMembers) -> None:
        self._ownership = ownership
        self.number = number
        self.epoch = epoch
        self.members = members
        self.listed = False
        """Whether it is known which gateways have inboxes: it is not served before."""
        self.writes = Writes(self.may_confirm)
        self.ids = PublishIds()
        self.seen: dict[str, int] = {}
        """Sender to the highest publish number forwarded. A sender's publishes arrive in the order of their
        numbers, so what is not above it was forwarded: the answer was lost, not the message."""
        self.handled: dict[str, int] = {}
        """The same, of what is to be forwarded once more if it comes again."""

    def is_ours(self) -> bool:
        """Whether the table, as we know it, still gives it to us under this epoch."""
        return self._ownership.partitions.get(self.number) is self

    def may_confirm(self) -> bool:
        """Whether what was accepted before can be confirmed now."""
        return self._ownership.may_confirm(self)

    def remember(self, sender: str, number: int) -> None:
        """It is forwarded: from now on it is a repeat."""
        if len(self.seen) >= MAX_SENDERS_REMEMBERED and sender not in self.seen:
            for old in list(self.seen)[: MAX_SENDERS_REMEMBERED // 2]:
                del self.seen[old]
        self.seen[sender] = number

    def was_handled(self, sender: str, number: int) -> bool:
        """Whether it was accepted before, though perhaps not all of it was forwarded."""
        return number <= self.handled.get(sender, 0)

    def forward_again(self, sender: str | None = None) -> None:
        """What was forwarded, of this sender or of all, may not have left us: repeats go to the gateways
        again, which know what they have had. It is stamped and written no second time."""
        if sender is None:
            self.handled, self.seen = {**self.handled, **self.seen}, {}
        elif sender in self.seen:
            self.handled[sender] = self.seen.pop(sender)
        if len(self.handled) > MAX_SENDERS_REMEMBERED:
            self.handled = dict(list(self.handled.items())[-MAX_SENDERS_REMEMBERED // 2 :])

    def ended(self, sender: str) -> None:
        """Its lease has; it may not know that yet, and send again what it has no answer to. That is no other
        publish under the same ack id."""
        self.forward_again(sender)


class Ownership:
    """The partitions of one router, and its part in changing the table."""

    def __init__(
        self,
        bus: BusClient,
        lease: Lease,
        owners: OwnersView,
        store: OwnersStore,
        routers: LeaseWatch,
        gateways: LeaseWatch,
        *,
        sole_router: bool = False,
        now_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        self._bus = bus
        self._lease = lease
        self._owners = owners
        self._store = store
        self._routers = routers
        self._gateways = gateways
        self._sole_router = sole_router
        self._now_ms = now_ms
        self.name = lease.name
        self.partitions: dict[int, Owned] = {}
        """What the table gives us, also what we refuse at the moment. See `speaks_for`."""
        self._refusing: set[int] = set()
        """Ours, but being given away, or it is not known whether they have been."""
        self._given: set[int] = set()
        """Of those, what may be another's by now: nothing more is confirmed."""
        self._unsure: set[int] = set()
        """Ours under an epoch that others may have outlived: a new one is wanted first."""
        self._known_version = 0
        self.gained = 0
        self.lost = 0
        """Partitions that came to this router, and that went from it: given, or taken."""
        self._asked_others = 0.0
        self._leaving = False
        self._read_soon = True
        self._rebalancing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._ready = asyncio.Event()
        self.on_gained: Callable[[], None] = lambda: None
        self.finish: Callable[[Iterable[int]], Awaitable[None]] | None = None
        """Waits, for a while, until what was accepted for partitions that are to be given away is done."""
        owners.on_change(self._table_changed)
        routers.on_change(lambda _name, _alive: self._wake.set())
        bus.on_reconnect(self._reconnected)

    async def ready(self) -> None:
        """Wait until every partition has an owner in the table."""
        await self._ready.wait()

    def speaks_for(self, partition: int) -> Owned | None:
        """The partition, if this router may answer for it now. The caller has looked at the lease."""
        if partition in self._refusing or partition in self._unsure:
            return None
        owned = self.partitions.get(partition)
        return owned if owned is not None and owned.listed else None

    def may_confirm(self, owned: Owned) -> bool:
        """Whether what was accepted for the partition, perhaps a while ago, can be confirmed now: we
        certainly speak for it still, though perhaps we take nothing new."""
        return self._lease.valid and owned.number not in self._given and owned.is_ours()

    def _reconnected(self) -> None:
        self._read_soon = True
        self._wake.set()

    def _table_changed(self, table: OwnersTable) -> None:
        previous, self._known_version = self._known_version, table.version
        mine = {p: o.epoch for p, o in enumerate(table.owners) if o is not None and o.router == self.name}
        for partition in [p for p in self.partitions if p not in mine]:
            del self.partitions[partition]
            self._settle(partition)
            self.lost += 1
        gained = 0
        for partition, epoch in mine.items():
            owned = self.partitions.get(partition)
            if owned is not None and owned.epoch == epoch:
                continue
            # Also when it was ours before: another may have owned it in between, and what its gateways
            # told that one we do not know.
            members = PartitionMembers(self._gateways.alive)
            self.partitions[partition] = Owned(self, partition, epoch, members)
            self._settle(partition)
            gained += 1
            if epoch <= previous:
                # An old entry has come back, from a router that remembered a table of before: gateways
                # may have seen higher epochs since, and would drop what we send under this one.
                self._unsure.add(partition)
        self.gained += gained
        if gained:
            log.info("partitions_gained", router=self.name, count=gained, owned=len(self.partitions))
            self.on_gained()
        if all(table.owners):
            self._ready.set()
        self._wake.set()

    def _settle(self, partition: int) -> None:
        """The table says whose it is."""
        self._refusing.discard(partition)
        self._given.discard(partition)
        self._unsure.discard(partition)

    def _wanted_changes(self, table: OwnersTable) -> tuple[dict[int, str], set[int]]:
        """What this router should write into the table now: partition to new owner; and which of these
        it owns today and hands over."""
        should = placement(self._others() if self._leaving else self._others() | {self.name})
        changes: dict[int, str] = {}
        planned: set[int] = set()
        for partition in range(PARTITIONS):
            owner = table.owners[partition]
            wanted = should[partition] if should else ""
            if owner is not None and owner.router == self.name:
                if wanted and wanted != self.name:
                    changes[partition] = wanted
                    planned.add(partition)
                elif partition in self._unsure or partition in self._refusing:
                    changes[partition] = self.name
            elif wanted == self.name and (owner is None or self._ended(owner.router)):
                changes[partition] = self.name
        return changes, planned

    def _ended(self, router: str) -> bool:
        if router in self._routers.alive:
            return False
        return self._sole_router or self._routers.certainly_ended(router)

    async def _rebalance(self) -> None:
        """Bring the table nearer to the ring, by one compare-and-set of all that is ours to change.

        Raises Unavailable, InvalidRequest. One at a time: the loop's and that of a planned stop.
        """
        async with self._rebalancing:
            table, revision = await self._store.read()
            known = self._owners.table
            lost = table.version < known.version or revision == 0
            if not lost:
                self._asked_others = 0.0
                self._owners.offer(table)
            else:
                # The bucket was lost with the server's memory, or there never was one. What is known goes
                # on: all that lives keeps what it owns, under the epochs that it has.
                if not self._sole_router and not await self._others_were_heard():
                    return
                table = max(table, self._owners.table, key=lambda one: one.version)
            changes, planned = self._wanted_changes(table)
            wanted = bool(changes) or (lost and table.version > 0)
            if wanted and (self._lease.valid or self._leaving):
                await self._write(table, revision, changes, planned)

    async def _write(
        self, table: OwnersTable, revision: int, changes: dict[int, str], planned: set[int]
    ) -> None:
        """Refuse, wait, write. If the write raises, it may still be stored, even later: then we go on
        refusing, and the next turn writes again. After that the outcome is known, since only one of the
        two can be stored."""
        new = planned - self._refusing
        before = set(self._refusing)
        self._refusing |= {p for p in changes if p in self.partitions}
        if new:
            # What was accepted for plain connections was forwarded and answered in its own turn; let it get
            # away from here, and what goes to inboxes be stored.
            if self.finish is not None:
                await self.finish(new)
            try:
                async with asyncio.timeout(1.0):
                    await self._bus.synchronize()
            except TimeoutError as error:
                self._refusing = before
                raise Unavailable("NATS does not answer.") from error
            await asyncio.sleep(HAND_OVER_PAUSE_SECONDS)
        self._given |= self._refusing
        changed = table.with_changes(changes, self._now_ms())
        if await self._store.write(changed, revision):
            self._refusing.clear()
            self._given.clear()
            self._owners.offer(changed)
        else:
            # Somebody was first. Try again at once, still refusing: nearly always the same is wanted.
            self._read_soon = True
            self._wake.set()

    async def _others_were_heard(self) -> bool:
        """Ask the other routers, once, for the table that they know; True when they have had their time."""
        loop = asyncio.get_running_loop()
        if not self._asked_others:
            self._bus.publish(OWNERS_ASKED, b"", owners_told_subject(self.name))
            self._asked_others = loop.time()
        left = self._asked_others + LOST_TABLE_SECONDS - loop.time()
        if left > 0:
            await asyncio.sleep(left)
        return self._bus.connected

    def _asked(self, _subject: str, reply: str, _data: bytes) -> None:
        if reply and self._owners.table.version:
            try:
                self._bus.publish(reply, pack_table(self._owners.table))
            except HubwireError as error:
                log.debug("owners_not_told", error=str(error))

    def _told(self, _subject: str, _reply: str, data: bytes) -> None:
        try:
            self._owners.offer(unpack_table(data))
        except InvalidRequest as error:
            log.warning("owners_told_refused", error=str(error))

    async def run(self) -> None:
        """Look and rebalance until cancelled."""
        unsubscribe = [
            await self._bus.subscribe(OWNERS_ASKED, self._asked),
            await self._bus.subscribe(owners_told_subject(self.name), self._told),
        ]
        loop = asyncio.get_running_loop()
        read = 0.0
        try:
            while True:
                self._wake.clear()
                if self._bus.connected and self._routers.complete and self._gateways.complete:
                    changes, _ = self._wanted_changes(self._owners.table)
                    if changes or self._read_soon or loop.time() - read > READ_SECONDS:
                        self._read_soon = False
                        try:
                            await self._rebalance()
                            read = loop.time()
                        except HubwireError as error:
                            log.warning("rebalance_failed", router=self.name, error=str(error))
                try:
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            for end in unsubscribe:
                await end()

    def _others(self) -> set[str]:
        return self._routers.alive - self._routers.leaving - {self.name}

    async def hand_over(self, deadline_seconds: float) -> None:
        """Give every partition to the routers that remain, before a planned stop. Without others, or
        after the deadline, what is left is taken over when the lease has ended."""
        self._leaving = True
        await self._lease.leave()  # or they would give us back what they get
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_seconds
        while self.partitions and loop.time() < end and self._others():
            try:
                await self._rebalance()
            except HubwireError as error:
                log.warning("hand_over_failed", router=self.name, error=str(error))
            await asyncio.sleep(0.01)
        log.info("router_handed_over", router=self.name, left=len(self.partitions))
