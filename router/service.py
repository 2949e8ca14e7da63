"""The router: owns partitions, orders publishes, forwards them to the gateways concerned.

One message in, at most one message a gateway out, then the answers, all in one turn of the event loop:
that keeps the order of a partition and is the batching (DESIGN.md section 4).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog

from hubwire.bus.client import BusClient
from hubwire.bus.envelopes import (
    JOIN,
    LEAVE,
    NOT_MINE,
    OK,
    PUBLISH,
    RESYNC,
    SNAPSHOT,
    WHO,
    answer_to_batch,
    ask_gateway,
    deliver_item,
    deliver_to_gateway,
    unpack,
)
from hubwire.bus.keys import PARTITIONS
from hubwire.bus.owners import OwnersStore, OwnersTable, OwnersView
from hubwire.bus.subjects import gateway_subject, router_subject
from hubwire.model.errors import InvalidRequest, Unavailable
from hubwire.runtime.leases import Lease, LeaseWatch
from router.membership import PartitionMembers
from router.ring import placement

log = structlog.get_logger(__name__)

ASK_AGAIN_SECONDS = 0.3
REBALANCE_SECONDS = 0.1


class _Owned:
    """A partition that this router speaks for."""

    __slots__ = ("epoch", "members", "seen")

    def __init__(self, epoch: int, members: PartitionMembers) -> None:
        self.epoch = epoch
        self.members = members
        self.seen: dict[str, int] = {}  # sender -> highest publish number forwarded


class RouterService:
    """Serves `hw.router.<name>` for the partitions that the table gives it, under a valid lease."""

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
        self._subject = router_subject(self.name)
        self._owned: dict[int, _Owned] = {}
        self._handing_over: set[int] = set()
        self._leaving = False
        self._wake = asyncio.Event()
        self._ready = asyncio.Event()
        # Plain integers that the metrics exporter reads.
        self.publishes = 0
        self.forwarded = 0
        self.batches = 0
        self.refused = 0
        owners.on_change(self._table_changed)
        routers.on_change(lambda _name, _alive: self._wake.set())
        gateways.on_change(self._gateway_changed)
        bus.on_reconnect(self._wake.set)

    @property
    def owned(self) -> dict[int, int]:
        """Partition to epoch, of what this router owns now."""
        return {p: o.epoch for p, o in self._owned.items()}

    async def ready(self) -> None:
        """Wait until every partition has an owner in the table."""
        await self._ready.wait()

    # -- requests ----------------------------------------------------------------------------------

    def _requested(self, _subject: str, reply: str, data: bytes) -> None:
        try:
            _, sender, entries = unpack(data)
        except (InvalidRequest, ValueError) as error:
            log.warning("bus_request_refused", error=str(error))
            return
        self.batches += 1
        out: dict[str, list[bytes]] = {}
        valid = self._lease.valid
        answers = [self._entry(sender, entry, out) if valid else NOT_MINE for entry in entries]
        try:
            for gateway, items in out.items():
                self._bus.publish(gateway_subject(gateway), deliver_to_gateway(self.name, items))
            if reply:
                self._bus.publish(reply, answer_to_batch(answers))
        except Unavailable as error:
            log.warning("bus_answer_not_sent", error=str(error))

    def _entry(self, sender: str, entry: list[Any], out: dict[str, list[bytes]]) -> Any:
        kind, partition = entry[0], entry[1]
        owned = self._owned.get(partition)
        if owned is None or partition in self._handing_over:
            self.refused += 1
            return NOT_MINE
        if kind == PUBLISH:
            _, _, key, number, body = entry
            # A sender's publishes arrive in order per partition, so what is not above the highest
            # number was forwarded before: the answer was lost, not the message.
            if number <= owned.seen.get(sender, 0):
                return OK
            owned.seen[sender] = number
            self.publishes += 1
            members = owned.members.members(key)
            unsynced = owned.members.unsynced
            targets = members | unsynced if unsynced else members
            if targets:
                item = deliver_item(partition, owned.epoch, sender, number, key, body)
                self.forwarded += len(targets)
                for gateway in targets:
                    out.setdefault(gateway, []).append(item)
            return OK
        if kind in (JOIN, LEAVE):
            _, _, key, seq, digest = entry
            if owned.members.transition(sender, key, kind == JOIN, seq, digest):
                return OK
            return RESYNC
        if kind == SNAPSHOT:
            _, _, seq, digest, keys = entry
            if owned.members.snapshot(sender, seq, digest, keys):
                return OK
            log.warning("snapshot_refused", gateway=sender, partition=partition)
            return RESYNC
        if kind == WHO:
            members = owned.members.members(entry[2])
            return [sorted(members), sorted(owned.members.unsynced - members)]
        log.warning("bus_entry_unknown", kind=kind)
        return OK

    # -- ownership ---------------------------------------------------------------------------------

    def _table_changed(self, table: OwnersTable) -> None:
        mine = {p: o.epoch for p, o in enumerate(table.owners) if o is not None and o.router == self.name}
        for partition in [p for p in self._owned if p not in mine]:
            del self._owned[partition]
            self._handing_over.discard(partition)
        gained = []
        for partition, epoch in mine.items():
            owned = self._owned.get(partition)
            if owned is None:
                self._owned[partition] = _Owned(epoch, PartitionMembers(self._gateways.alive))
                gained.append(partition)
            elif owned.epoch != epoch:
                owned.epoch = epoch
        if gained:
            log.info("partitions_gained", router=self.name, count=len(gained), owned=len(self._owned))
            self._ask_unsynced()
        if all(table.owners):
            self._ready.set()
        self._wake.set()

    def _gateway_changed(self, gateway: str, alive: bool) -> None:
        for owned in self._owned.values():
            if alive:
                owned.members.gateway_seen(gateway)
            else:
                owned.members.gateway_ended(gateway)
                owned.seen.pop(gateway, None)

    def _ask_unsynced(self) -> None:
        """Ask every gateway whose members we lack for them; answers are snapshots, as entries."""
        wanted: dict[str, list[int]] = {}
        for partition, owned in self._owned.items():
            for gateway in owned.members.unsynced:
                wanted.setdefault(gateway, []).append(partition)
        for gateway, partitions in wanted.items():
            try:
                self._bus.publish(gateway_subject(gateway), ask_gateway(self.name, partitions))
            except Unavailable:
                return

    def _wanted_changes(self, table: OwnersTable) -> tuple[dict[int, str], set[int]]:
        """What this router should write into the table now: partition to new owner; and which of these
        it owns today and hands over."""
        alive = set(self._routers.alive) | {self.name}
        if self._leaving:
            alive.discard(self.name)
        should = placement(alive)
        changes: dict[int, str] = {}
        planned: set[int] = set()
        if not should:
            return changes, planned
        for partition in range(PARTITIONS):
            owner = table.owners[partition]
            wanted = should[partition]
            if owner is not None and owner.router == self.name:
                if wanted != self.name:
                    changes[partition] = wanted
                    planned.add(partition)
            elif wanted == self.name and (owner is None or self._ended(owner.router)):
                changes[partition] = self.name
        return changes, planned

    def _ended(self, router: str) -> bool:
        if router in self._routers.alive:
            return False
        return self._sole_router or self._routers.certainly_ended(router)

    async def _rebalance(self) -> None:
        """Bring the table nearer to the ring, by one compare-and-set of all that is ours to change."""
        table, revision = await self._store.read()
        if revision == 0 and self._owners.table.version > 0:
            # The bucket was lost with the server's memory. What we knew goes on, under new epochs.
            known = self._owners.table
            mine = dict.fromkeys(self._owned, self.name)
            table = OwnersTable(
                known.version, tuple(o if p in mine else None for p, o in enumerate(known.owners))
            )
            changes, planned = self._wanted_changes(table)
            changes = {**mine, **changes}
        else:
            self._owners.offer(table)
            changes, planned = self._wanted_changes(table)
        if not changes or not (self._lease.valid or self._leaving):
            return
        # From here on what is handed over is refused. Everything accepted before was forwarded and
        # answered in its own turn, so nothing is left to finish.
        self._handing_over |= planned
        changed = table.with_changes(changes, self._now_ms())
        try:
            written = await self._store.write(changed, revision)
        except Unavailable:
            # Not known whether it was stored: go on refusing until a reading tells.
            self._owners.refresh()
            raise
        if written:
            self._owners.offer(changed)
        self._handing_over -= planned
        if not written:
            self._wake.set()

    async def run(self) -> None:
        """Serve and rebalance until cancelled."""
        unsubscribe = await self._bus.subscribe(self._subject, self._requested)
        loop = asyncio.get_running_loop()
        asked = checked = 0.0
        try:
            while True:
                self._wake.clear()
                if self._bus.connected:
                    try:
                        now = loop.time()
                        changes, _ = self._wanted_changes(self._owners.table)
                        if changes or now - checked > 1.0:
                            checked = now
                            await self._rebalance()
                    except Unavailable as error:
                        log.warning("rebalance_failed", router=self.name, error=str(error))
                    if loop.time() - asked > ASK_AGAIN_SECONDS:
                        asked = loop.time()
                        self._ask_unsynced()
                try:
                    async with asyncio.timeout(REBALANCE_SECONDS):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            await unsubscribe()

    async def hand_over(self, deadline_seconds: float) -> None:
        """Give every partition to the routers that remain, before a planned stop. Without others, or
        after the deadline, what is left is taken over when the lease has ended."""
        self._leaving = True
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_seconds
        while self._owned and loop.time() < end and self._routers.alive - {self.name}:
            try:
                await self._rebalance()
            except Unavailable as error:
                log.warning("hand_over_failed", router=self.name, error=str(error))
            await asyncio.sleep(0.01)
        log.info("router_handed_over", router=self.name, left=len(self._owned))
