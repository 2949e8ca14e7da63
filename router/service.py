"""The router: orders publishes, forwards them to the gateways concerned, keeps who is a member where.

One message in, at most one message a gateway out, then the answers, all in one turn of the event loop:
that keeps the order of a partition and is the batching (DESIGN.md section 4).
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from hubwire.bus.client import BusClient
from hubwire.bus.envelopes import (
    JOIN,
    LEAVE,
    NOT_MINE,
    OK,
    PUBLISH,
    REFUSED,
    RESYNC,
    SNAPSHOT,
    WHO,
    answer_to_batch,
    ask_gateway,
    deliver_item,
    deliver_to_gateway,
    unpack,
)
from hubwire.bus.subjects import gateway_subject, router_subject
from hubwire.model.errors import HubwireError, InvalidRequest
from hubwire.runtime.leases import Lease, LeaseWatch
from router.ownership import Owned, Ownership

log = structlog.get_logger(__name__)

ASK_AGAIN_SECONDS = 0.3


class RouterService:
    """Serves `hw.router.<name>` for the partitions that the table gives it, under a valid lease."""

    def __init__(self, bus: BusClient, lease: Lease, ownership: Ownership, gateways: LeaseWatch) -> None:
        self._bus = bus
        self._lease = lease
        self._ownership = ownership
        self._gateways = gateways
        self.name = lease.name
        self._subject = router_subject(self.name)
        self._strangers: set[str] = set()
        """Gateways that sent something and were not known to be alive."""
        # Plain integers that the metrics exporter reads.
        self.publishes = 0
        self.forwarded = 0
        self.batches = 0
        self.refused = 0
        ownership.on_gained = self._ask_unsynced
        gateways.on_change(self._gateway_changed)
        bus.on_disconnect(self._forget_forwarded)

    @property
    def owned(self) -> dict[int, int]:
        """Partition to epoch, of what this router owns now."""
        return {p: o.epoch for p, o in self._ownership.partitions.items()}

    # -- requests ----------------------------------------------------------------------------------

    def _requested(self, _subject: str, reply: str, data: bytes) -> None:
        try:
            _, sender, parts = unpack(data)
        except (InvalidRequest, ValueError) as error:
            log.warning("bus_request_refused", error=str(error))
            return
        self.batches += 1
        out: dict[str, list[bytes]] = {}
        # Without knowing every gateway we could confirm a publish that a member never gets.
        valid = self._lease.valid and self._gateways.complete
        answers: list[Any] = []
        for partition, epoch, entries in parts:
            owned = self._ownership.speaks_for(partition) if valid else None
            if owned is None or owned.epoch != epoch:
                self.refused += len(entries)
                answers += [NOT_MINE] * len(entries)
            else:
                answers += [self._entry(owned, sender, entry, out) for entry in entries]
        try:
            for gateway, items in out.items():
                self._forward(gateway, items)
            if reply:
                self._bus.publish(reply, answer_to_batch(answers))
        except HubwireError as error:
            # Not all of it was sent: when it is repeated, it must be forwarded again.
            log.warning("bus_batch_not_forwarded", error=str(error))
            for owned in self._ownership.partitions.values():
                owned.seen.pop(sender, None)

    def _forward(self, gateway: str, items: list[bytes]) -> None:
        """Send one gateway's envelopes, as one message, or as few as the server's limit allows."""
        subject, room = gateway_subject(gateway), self._bus.max_payload - 64
        size = sum(map(len, items))
        while size > room and len(items) > 1:
            taken = count = 0
            while count < len(items) and (not count or taken + len(items[count]) <= room):
                taken += len(items[count])
                count += 1
            self._bus.publish(subject, deliver_to_gateway(self.name, items[:count]))
            items, size = items[count:], size - taken
        if items:
            self._bus.publish(subject, deliver_to_gateway(self.name, items))

    def _forget_forwarded(self) -> None:
        """What was forwarded last may be lost with the connection: repeats go to the gateways again, which
        know what they have had."""
        for owned in self._ownership.partitions.values():
            owned.seen.clear()

    def _entry(self, owned: Owned, sender: str, entry: list[Any], out: dict[str, list[bytes]]) -> Any:
        try:
            kind = entry[0]
            if kind == PUBLISH:
                return self._publish(owned, sender, entry, out)
            if kind == WHO:
                members = owned.members.members(entry[2])
                return [sorted(members), sorted(owned.members.unsynced - members)]
            if sender not in self._gateways.alive:
                if self._gateways.certainly_ended(sender):
                    return NOT_MINE  # its members were given up; it will notice, and take a new name
                self._strangers.add(sender)
            if kind in (JOIN, LEAVE):
                _, _, key, seq, digest = entry
                return OK if owned.members.transition(sender, key, kind == JOIN, seq, digest) else RESYNC
            if kind == SNAPSHOT:
                return OK if owned.members.snapshot(sender, *entry[2:]) else RESYNC
        except (ValueError, TypeError, IndexError) as error:
            log.error("bus_entry_refused", sender=sender, error=repr(error))
            return REFUSED
        log.error("bus_entry_unknown", sender=sender, kind=kind)
        return REFUSED

    def _publish(self, owned: Owned, sender: str, entry: list[Any], out: dict[str, list[bytes]]) -> int:
        _, partition, key, number, body = entry
        members, unsynced = owned.members.members(key), owned.members.unsynced
        targets = members | unsynced if unsynced else members
        item = deliver_item(partition, owned.epoch, sender, number, key, body) if targets else b""
        if owned.forwarded_before(sender, number):
            return OK
        self.publishes += 1
        self.forwarded += len(targets)
        for gateway in targets:
            out.setdefault(gateway, []).append(item)
        return OK

    # -- members -----------------------------------------------------------------------------------

    def _gateway_changed(self, gateway: str, alive: bool) -> None:
        for owned in self._ownership.partitions.values():
            if alive:
                owned.members.gateway_seen(gateway)
            else:
                owned.members.gateway_ended(gateway)
                owned.seen.pop(gateway, None)

    def _drop_ended(self) -> None:
        """A message of a gateway that came after its end has brought it back into the views."""
        for gateway in [*self._strangers]:
            if gateway in self._gateways.alive:
                self._strangers.discard(gateway)
            elif self._gateways.certainly_ended(gateway):
                self._strangers.discard(gateway)
                self._gateway_changed(gateway, False)

    def _ask_unsynced(self) -> None:
        """Ask every gateway whose members we lack for them; answers are snapshots, as entries."""
        wanted: dict[str, list[int]] = {}
        for partition, owned in self._ownership.partitions.items():
            for gateway in owned.members.unsynced:
                wanted.setdefault(gateway, []).append(partition)
        for gateway, partitions in wanted.items():
            try:
                self._bus.publish(gateway_subject(gateway), ask_gateway(self.name, partitions))
            except HubwireError:
                return

    async def run(self) -> None:
        """Serve until cancelled."""
        unsubscribe = await self._bus.subscribe(self._subject, self._requested)
        try:
            while True:
                await asyncio.sleep(ASK_AGAIN_SECONDS)
                self._drop_ended()
                if self._bus.connected:
                    self._ask_unsynced()
        finally:
            await unsubscribe()
