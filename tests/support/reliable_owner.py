"""Owners of partitions, publishers, and what is under way to inboxes, in the schedules of reliable_moves."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from random import Random

from support.modelled_gateway import Gateway
from support.reliable_model import GROUPS, HUB, body

from hubwire.bus import inbox_entries as entries
from hubwire.bus.keys import group_key, partition_of


@dataclass(eq=False)
class Publish:
    uid: int
    group: str
    sender: str
    number: int
    publisher: str | None
    ack_id: int | None
    sent_at: int
    acked_at: int | None = None


@dataclass(eq=False)
class Write:
    """An entry on its way to some inboxes."""

    left: set[str]
    publish: Publish | None


class Owner:
    """The owner of one partition in one epoch. A lane an inbox: what is not stored there yet, in order."""

    def __init__(self, partition: int, epoch: int, unsynced: set[str], lost: set[str]) -> None:
        self.partition = partition
        self.epoch = epoch
        self.stamp = 0
        self.members: dict[str, set[str]] = {}
        self.unsynced = unsynced
        self.lost = lost
        self.lanes: dict[str, deque[tuple[bytes, Write]]] = {}
        self.writes: list[Write] = []
        self.forwarded: dict[str, int] = {}
        self.ids: set[tuple[str, int]] = set()
        self.barriers: list[tuple[list[Write], Registration]] = []

    def targets(self, key: str) -> set[str]:
        return self.members.get(key, set()) | self.unsynced | self.lost


@dataclass(eq=False)
class Registration:
    key: str
    gateway: str
    confirmed: bool = False
    sent: int = 0  # the epoch of the owner that it was sent to


class Owners:
    """The part of a schedule that writes messages into inboxes."""

    random: Random
    now: float
    tick: int
    epoch: int
    gateways: dict[str, Gateway]
    partitions: set[int]
    owners: dict[int, Owner]
    registrations: list[Registration]
    publishes: list[Publish]
    unanswered: dict[tuple[str, int], list[Publish]]
    numbers: dict[str, int]
    late: list[tuple[str, bytes]]

    # -- owners ------------------------------------------------------------------------------------

    def new_owner(self, partition: int, synced: bool = False) -> Owner:
        self.epoch += 1
        lost = {name for name, gateway in self.gateways.items() if not gateway.alive}
        return Owner(partition, self.epoch, set() if synced else set(self.gateways) - lost, lost)

    def owner_ends(self) -> None:
        partition = self.random.choice(sorted(self.partitions))
        owner = self.owners[partition]
        for name, lane in owner.lanes.items():
            if lane and self.random.random() < 0.5:
                # Its last write, with as much in it as there was, may be stored now or much later.
                batch = [entry for entry, _ in list(lane)[: self.random.randint(1, 3)]]
                self.late.append((name, self.gateways[name].inbox.batch(f"router-{owner.epoch}", batch)))
        self.owners[partition] = self.new_owner(partition)
        for registration in self.registrations:
            if partition_of(registration.key) == partition and not registration.confirmed:
                registration.sent = 0

    def sync(self) -> None:
        owner = self.owners[self.random.choice(sorted(self.partitions))]
        for name in sorted(owner.unsynced):
            gateway = self.gateways[name]
            if self.random.random() < 0.7:
                owner.unsynced.discard(name)
                if not gateway.alive:
                    owner.lost.add(name)
                for key in gateway.wanted:
                    if partition_of(key) == owner.partition:
                        owner.members.setdefault(key, set()).add(name)

    def take(self, publish: Publish) -> None:
        """The owner gets a publish, perhaps once more."""
        owner = self.owners[partition_of(group_key(HUB, publish.group))]
        if publish.number <= owner.forwarded.get(publish.sender, 0):
            if not any(write.publish is publish for write in owner.writes):
                self.acked(publish)  # its answer was lost
            return
        owner.forwarded[publish.sender] = publish.number
        write = Write(set(), publish)
        if publish.publisher is not None and publish.ack_id is not None:
            one = (publish.publisher, publish.ack_id)
            if one in owner.ids:
                write.left = {"duplicate"}
                owner.barriers.append(([*owner.writes], write))  # type: ignore[arg-type]
                owner.writes.append(write)
                return
            owner.ids.add(one)
        owner.stamp += 1
        key = group_key(HUB, publish.group)
        entry = entries.message_entry(
            owner.partition,
            owner.epoch,
            owner.stamp,
            publish.sender,
            publish.number,
            key,
            body(f"{publish.group} {publish.uid} {owner.epoch} {owner.stamp}"),
            publish.publisher,
            publish.ack_id,
        )
        write.left = owner.targets(key)
        for name in write.left:
            owner.lanes.setdefault(name, deque()).append((entry, write))
        owner.writes.append(write)

    def store(self) -> None:
        """The next batch of a lane is stored, once or twice."""
        lanes = [
            (owner, name, lane)
            for _, owner in sorted(self.owners.items())
            for name, lane in sorted(owner.lanes.items())
            if lane
        ]
        if not lanes:
            return
        owner, name, lane = self.random.choice(lanes)
        taken = [lane.popleft() for _ in range(min(len(lane), self.random.randint(1, 3)))]
        inbox = self.gateways[name].inbox
        data = inbox.batch(f"router-{owner.epoch}", [entry for entry, _ in taken])
        inbox.store(data, self.now)
        if self.random.random() < 0.2:
            self.late.append((name, data))
        for _, write in taken:
            write.left.discard(name)

    def answer(self) -> None:
        """Owners answer what is stored."""
        for owner in self.owners.values():
            for before, what in [*owner.barriers]:
                if not any(write.left for write in before):
                    owner.barriers.remove((before, what))
                    if isinstance(what, Registration):
                        what.confirmed = True
                    else:
                        what.left.clear()
            for write in [*owner.writes]:
                if not write.left:
                    owner.writes.remove(write)
                    publish = write.publish
                    assert publish is not None
                    if self.random.random() < 0.9:
                        self.acked(publish)

    def acked(self, publish: Publish) -> None:
        waiting = self.unanswered[publish.sender, partition_of(group_key(HUB, publish.group))]
        if publish in waiting:
            waiting.remove(publish)
        original = self.publishes[publish.uid]
        if original.acked_at is None:
            original.acked_at = self.tick

    # -- publishers --------------------------------------------------------------------------------

    def publish(self) -> None:
        sender = self.random.choice(["X", "Y"])
        group = self.random.choice(GROUPS)
        number = self.numbers[sender] = self.numbers.get(sender, 0) + 1
        again = [one for one in self.publishes[-6:] if one.publisher is not None]
        if again and self.random.random() < 0.2:
            # A client that came back over another gateway says it once more.
            old = self.random.choice(again)
            one = Publish(old.uid, old.group, sender, number, old.publisher, old.ack_id, self.tick)
        else:
            ids = ("p", len(self.publishes)) if self.random.random() < 0.5 else (None, None)
            one = Publish(len(self.publishes), group, sender, number, *ids, self.tick)
            self.publishes.append(one)
        partition = partition_of(group_key(HUB, one.group))
        self.unanswered.setdefault((sender, partition), []).append(one)
        if self.random.random() < 0.7:
            self.send(sender, partition)

    def send(self, sender: str, partition: int) -> None:
        """Everything that is unanswered, in order: what the owner has had it knows."""
        for one in [*self.unanswered.get((sender, partition), ())]:
            self.take(one)
