"""The router: orders publishes, forwards them to the gateways concerned, keeps who is a member where.

One message in, at most one message a gateway out, then the answers, all in one turn of the event loop:
that keeps the order of a partition and is the batching (DESIGN.md section 4).

What reliable members must get is stamped and written to their gateways' inboxes, and confirmed when it is
stored there (DESIGN.md section 5). Plain members get it at once; it waits for nothing, and nothing for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import structlog

from hubwire.bus.client import BusClient
from hubwire.bus.envelopes import (
    CONFIRM,
    DUPLICATE,
    JOIN,
    LEAVE,
    NOT_MINE,
    OK,
    PUBLISH,
    REFUSED,
    RESYNC,
    SNAPSHOT,
    WAIT,
    WHO,
    answer_to_batch,
    ask_gateway,
    deliver_item,
    deliver_to_gateway,
    unpack,
)
from hubwire.bus.inbox_entries import message_entry
from hubwire.bus.inbox_writer import OVERHEAD_BYTES, InboxWriter
from hubwire.bus.keys import is_reliable, reliable_key
from hubwire.bus.subjects import gateway_subject, router_subject
from hubwire.model.errors import HubwireError, InvalidRequest
from hubwire.runtime.leases import Lease, LeaseWatch
from hubwire.runtime.traces import OFF, Traces
from router.inboxes import Inboxes
from router.ownership import Owned, Ownership
from router.replies import Reply
from router.writes import Waits

log = structlog.get_logger(__name__)

ASK_AGAIN_SECONDS = 0.3

FINISH_SECONDS = 1.0
"""How long a partition's hand-over waits for inboxes. What is not stored by then is not confirmed: its
publishers repeat it to the new owner."""


class RouterService:
    """Serves `hw.router.<name>` for the partitions that the table gives it, under a valid lease."""

    def __init__(
        self,
        bus: BusClient,
        lease: Lease,
        ownership: Ownership,
        gateways: LeaseWatch,
        traces: Traces = OFF,
    ) -> None:
        self._bus = bus
        self._traces = traces
        self._lease = lease
        self._ownership = ownership
        self._gateways = gateways
        self.name = lease.name
        self.inboxes = Inboxes(bus, ownership, gateways)
        self.writer = InboxWriter(bus, self.name)
        self._loop = asyncio.get_running_loop()
        self._subject = router_subject(self.name)
        self._some_wait = False
        """Whether something of the batch that is being handled is answered later."""
        self._strangers: set[str] = set()
        """Gateways that sent something and were not known to be alive."""
        # Plain integers that the metrics exporter reads.
        self.publishes = 0
        self.forwarded = 0
        self.broad = 0
        """Of what was forwarded, to gateways of whose members nothing was known."""
        self.batches = 0
        self.refused = 0
        self.written = 0
        ownership.on_gained = self._gained
        ownership.finish = self._finish
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
                end = len(answers) + len(entries)
                for entry in entries:
                    answer = self._entry(owned, sender, entry, out)
                    answers.append(answer)
                    if answer == NOT_MINE:
                        # Then all that come after it are refused: they are repeated together, in order.
                        answers += [NOT_MINE] * (end - len(answers))
                        break
        later: list[tuple[int, Waits]] = []
        if self._some_wait:
            self._some_wait = False
            later = [(n, one) for n, one in enumerate(answers) if type(one) is Waits]
            for position, _ in later:
                answers[position] = WAIT
        try:
            for gateway, items in out.items():
                self._forward(gateway, items)
            if reply:
                self._bus.publish(reply, answer_to_batch(answers))
        except HubwireError as error:
            # Not all of it was sent: when it is repeated, it must be forwarded again.
            log.warning("bus_batch_not_forwarded", error=str(error))
            for owned in self._ownership.partitions.values():
                owned.forward_again(sender)
            return
        if later and reply:
            rest = Reply(self._bus, reply, answers)
            for position, waits in later:
                waits.ask(rest, position)

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
            owned.forward_again()

    def _entry(self, owned: Owned, sender: str, entry: list[Any], out: dict[str, list[bytes]]) -> Any:
        try:
            kind = entry[0]
            if kind == PUBLISH:
                return self._publish(owned, sender, entry, out)
            if kind == WHO:
                return _who(owned, entry[2])
            if sender not in self._gateways.alive:
                if self._gateways.certainly_ended(sender):
                    return NOT_MINE  # its members were given up; it will notice, and take a new name
                self._strangers.add(sender)
            if kind in (JOIN, LEAVE):
                return self._transition(owned, sender, kind == JOIN, entry)
            if kind == CONFIRM:
                _, _, key, asking = entry
                self.inboxes.heard(sender)
                answer = OK if owned.members.has(sender, key) else RESYNC
                return self._later(owned.writes.barrier(key[1:], sender, -asking, answer)) or answer
            if kind == SNAPSHOT:
                if any(map(is_reliable, entry[4])):
                    self.inboxes.heard(sender)
                return OK if owned.members.snapshot(sender, *entry[2:]) else RESYNC
        except (ValueError, TypeError, IndexError) as error:
            log.error("bus_entry_refused", sender=sender, error=repr(error))
            return REFUSED
        log.error("bus_entry_unknown", sender=sender, kind=kind)
        return REFUSED

    def _transition(self, owned: Owned, sender: str, joins: bool, entry: list[Any]) -> int | Waits:
        _, _, key, seq, digest = entry
        answer = OK if owned.members.transition(sender, key, joins, seq, digest) else RESYNC
        if joins and is_reliable(key):
            self.inboxes.heard(sender)
            return self._later(owned.writes.barrier(key[1:], sender, seq, answer)) or answer
        return answer

    def _publish(
        self, owned: Owned, sender: str, entry: list[Any], out: dict[str, list[bytes]]
    ) -> int | Waits:
        key, number = entry[2], entry[3]
        seen = owned.seen
        if number <= seen.get(sender, 0):
            return self._later(owned.writes.of_number(sender, number)) or OK
        members = owned.members
        plain, unsynced, unknown = members.members(key), members.unsynced, members.lost_unknown
        inboxes = members.members(reliable_key(key))
        if unsynced:
            self.broad += len(unsynced - plain)
            plain = plain | unsynced
            inboxes = inboxes | (unsynced & self.inboxes.known)
        if unknown:
            inboxes = inboxes | unknown
        answer: int | Waits = OK
        if inboxes or owned.handled or len(entry) > 5:
            answer, forwards = self._reliably(owned, sender, entry, inboxes)
            if not forwards:
                return answer
        self.publishes += 1
        if sender in seen:
            seen[sender] = number
        else:
            owned.remember(sender, number)
        if len(entry) > 7:
            told = {"partition": owned.number, "gateways": len(plain | inboxes)}
            self._traces.moment("route", entry[7], told)
        if plain:
            identity = entry[5:7] if len(entry) > 5 and entry[5] is not None else ()
            item = deliver_item(owned.number, owned.epoch, sender, number, key, entry[4], identity)
            self.forwarded += len(plain)
            for gateway in plain:
                out.setdefault(gateway, []).append(item)
        return answer

    def _later(self, waits: Waits | None) -> Waits | None:
        if waits is not None:
            self._some_wait = True
        return waits

    def _reliably(
        self, owned: Owned, sender: str, entry: list[Any], inboxes: set[str] | frozenset[str]
    ) -> tuple[int | Waits, bool]:
        """Stamp a publish and write it to the inboxes concerned, unless that was done before. The answer, and
        whether it goes to plain members: DUPLICATE for what its client has sent before; NOT_MINE, and nothing
        is done, when too much waits for an inbox."""
        _, _, key, number, body, *more = entry
        if owned.was_handled(sender, number):
            return self._later(owned.writes.of_number(sender, number)) or OK, True
        identity = (str(more[0]), int(more[1])) if more and more[0] is not None else None
        if identity is not None and owned.ids.knows(*identity):
            owned.remember(sender, number)
            first = owned.writes.of_id(*identity)
            if first is None:
                return DUPLICATE, False
            return self._later(owned.writes.follow(first, sender, number, DUPLICATE)) or DUPLICATE, False
        answer: int | Waits = OK
        if inboxes:
            answer = self._write(owned, sender, number, key, body, inboxes, identity)
            if answer in (NOT_MINE, REFUSED):
                return answer, False
        if identity is not None:
            owned.ids.remember(*identity, self._loop.time())
        return answer, True

    def _write(
        self,
        owned: Owned,
        sender: str,
        number: int,
        key: str,
        body: bytes,
        inboxes: set[str] | frozenset[str],
        identity: tuple[str, int] | None,
    ) -> int | Waits:
        stamp = owned.writes.stamp + 1
        item = message_entry(owned.number, owned.epoch, stamp, sender, number, key, body, *(identity or ()))
        if len(item) > self._bus.max_payload - OVERHEAD_BYTES:
            return REFUSED
        if not self.writer.has_room(inboxes, len(item)):
            return NOT_MINE
        write, waits = owned.writes.begin(key, len(inboxes), sender, number)
        if identity is not None:
            owned.writes.name(write, *identity)
        for gateway in inboxes:
            self.writer.submit(gateway, item, write.stored, owned.is_ours)
        self.written += len(inboxes)
        self._some_wait = True
        return waits

    # -- members -----------------------------------------------------------------------------------

    def _gateway_changed(self, gateway: str, alive: bool) -> None:
        for owned in self._ownership.partitions.values():
            if alive:
                owned.members.gateway_seen(gateway)
            else:
                owned.members.gateway_ended(gateway, inbox=gateway in self.inboxes.known)
                owned.ended(gateway)

    def _drop_ended(self) -> None:
        """A message of a gateway that came after its end has brought it back into the views."""
        for gateway in [*self._strangers]:
            if gateway in self._gateways.alive:
                self._strangers.discard(gateway)
            elif self._gateways.certainly_ended(gateway):
                self._strangers.discard(gateway)
                self._gateway_changed(gateway, False)

    def _gained(self) -> None:
        self._ask_unsynced()
        self.inboxes.wanted()

    async def _finish(self, partitions: Iterable[int]) -> None:
        """Wait, at most FINISH_SECONDS, until what was written for partitions is stored and confirmed."""
        under_way = [
            owned.writes
            for number in partitions
            if (owned := self._ownership.partitions.get(number)) is not None and owned.writes
        ]
        if not under_way:
            return
        left, done = len(under_way), asyncio.Event()

        def idle() -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set()

        for writes in under_way:
            writes.when_idle(idle)
        try:
            async with asyncio.timeout(FINISH_SECONDS):
                await done.wait()
        except TimeoutError:
            log.warning("hand_over_unfinished", router=self.name, partitions=left)

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

    def close(self) -> None:
        """Give up what is not stored. Idempotent."""
        self.writer.close()


def _who(owned: Owned, key: str) -> list[list[str]]:
    members = owned.members
    holders = members.members(key) | members.members(reliable_key(key))
    lost = {gateway for gateway in holders if members.is_lost(gateway)}
    return [
        sorted(holders - lost),
        sorted(members.unsynced - holders),
        sorted(lost),
        sorted(members.lost_unknown),
    ]
