"""Sessions that move between inboxes, owners that end, publishers that repeat: one schedule a seed.

The folds, cycles and states are the real ones; owners, gateways' steps and the records are a model, in which
anything that can be under way at the same time is interleaved at random. `check` says what must hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from support.modelled_gateway import Client, Gateway
from support.reliable_model import GROUPS, HUB, body
from support.reliable_owner import Owner, Owners, Publish, Registration

from gateway.reliable.cycle import Cycle
from gateway.reliable.log import LogReader
from gateway.reliable.state import SessionState, pack_state
from hubwire.bus import inbox_entries as entries
from hubwire.bus.envelopes import Body
from hubwire.bus.keys import group_key, hub_key, partition_of


class Schedule(Owners):
    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        gateways = self.random.choice([2, 3, 3, 4])
        sessions = self.random.choice([1, 2, 3])
        self.owners_end = self.random.choice([0.01, 0.04, 0.12])
        self.gateways_end = self.random.choice([0.0, 0.006, 0.02])
        self.directs = 0
        self.now = 1000.0
        self.tick = 0
        self.epoch = 0
        self.gateways = {name: Gateway(name, self) for name in (f"G{n}" for n in range(gateways))}
        self.partitions = {partition_of(group_key(HUB, group)) for group in GROUPS} | {
            partition_of(hub_key(HUB))
        }
        self.owners: dict[int, Owner] = {}
        for partition in self.partitions:
            self.owners[partition] = self.new_owner(partition, synced=True)
        self.records: dict[str, tuple[int, str, int]] = {}  # session -> generation, holder, revision
        self.clients: dict[str, Client] = {}
        self.publishes: list[Publish] = []
        self.unanswered: dict[tuple[str, int], list[Publish]] = {}
        self.numbers: dict[str, int] = {}
        self.registrations: list[Registration] = []
        self.tasks: list[Iterator[None]] = []
        self.late: list[tuple[str, bytes]] = []  # copies of batches that may still be stored
        self.moves = 0
        names = sorted(self.gateways)
        for number in range(sessions):
            home = self.gateways[names[number % len(names)]]
            client = self.clients[f"s{number}"] = Client(f"s{number}", home.name)
            home.write(
                entries.opened_entry(client.id, pack_state(SessionState(client.id, HUB, None, "json")))
            )
            self.register(home, hub_key(HUB))
            home.attached[client.id] = 0

    # -- gateways ----------------------------------------------------------------------------------

    def register(self, gateway: Gateway, key: str) -> Registration:
        gateway.want(key)
        registration = Registration(key, gateway.name)
        self.registrations.append(registration)
        return registration

    def registrar(self) -> None:
        for one in [*self.registrations]:
            owner = self.owners[partition_of(one.key)]
            if one.confirmed or not self.gateways[one.gateway].alive:
                self.registrations.remove(one)
            elif one.sent != owner.epoch and self.random.random() < 0.7:
                one.sent = owner.epoch
                owner.members.setdefault(one.key, set()).add(one.gateway)
                owner.barriers.append(([write for write in owner.writes if write.left], one))

    def holder_of(self, session: str) -> tuple[int, str, int]:
        return self.records.get(session, (0, self.clients[session].home, 0))

    def change(self, session: str, generation: int, holder: str, revision: int) -> bool:
        if self.holder_of(session)[2] != revision:
            return False
        self.records[session] = (generation, holder, revision + 1)
        return True

    def tail(self) -> None:
        gateway = self.gateways[self.random.choice(sorted(self.gateways))]
        if gateway.alive:
            gateway.inbox.tail(self.random.choice([1, 2, None]))

    def join(self) -> None:
        client = self.clients[self.random.choice(sorted(self.clients))]
        group = self.random.choice(GROUPS)
        gateway = next((g for g in self.gateways.values() if client.id in g.attached and g.alive), None)
        if gateway is None or group in client.joining or group in client.members:
            return
        client.joining.add(group)
        registration = self.register(gateway, group_key(HUB, group))
        gateway.write(entries.joined_entry(client.id, group))
        place = gateway.inbox.last
        self.tasks.append(self.joining(client, gateway, group, registration, place))
        next(self.tasks[-1], None)

    def joining(
        self, client: Client, gateway: Gateway, group: str, registration: Registration, place: int
    ) -> Iterator[None]:
        generation = gateway.attached[client.id]
        while gateway.alive and not (registration.confirmed and gateway.inbox.fold.position >= place):
            yield
        client.joining.discard(group)
        if gateway.alive and gateway.attached.get(client.id) == generation:  # the socket that asked
            client.members.setdefault(group, self.tick)

    def acks(self) -> None:
        for gateway in self.gateways.values():
            for session in gateway.attached if gateway.alive else ():
                client = self.clients[session]
                if client.got and self.random.random() < 0.5:
                    client.acked = max(client.got)
                    gateway.write(entries.acked_entry([(session, client.acked, None)]))

    def direct(self) -> None:
        for gateway in self.gateways.values():
            for session in gateway.attached if gateway.alive else ():
                self.directs += 1
                gateway.write(entries.direct_entry(session, body(f"- {-self.directs} 0 0")))

    def trim(self) -> None:
        gateway = self.gateways[self.random.choice(sorted(self.gateways))]
        if not gateway.alive:
            return
        if gateway.cycle is None:
            gateway.cycles += 1
            cycle = Cycle(gateway.inbox.fold, gateway.cycles)
            gateway.cycle = (cycle, cycle.entries())
        cycle, steps = gateway.cycle
        for _ in range(self.random.randint(1, 12)):
            entry = next(steps, b"")
            if entry is None:
                return
            if not entry:
                gateway.cycle = None
                if self.random.random() < 0.8:
                    gateway.inbox.trim(cycle.as_of)
                return
            gateway.write(entry)

    def crash(self) -> None:
        alive = [name for name, gateway in sorted(self.gateways.items()) if gateway.alive]
        if len(alive) > 1:
            name = self.random.choice(alive)
            self.gateways[name].alive = False
            self.gateways[name].attached.clear()
            for owner in self.owners.values():
                if self.random.random() < 0.5:
                    owner.unsynced.add(name)  # heard of later
                owner.lost.add(name)

    def late_copy(self) -> None:
        if self.late:
            name, data = self.late.pop(self.random.randrange(len(self.late)))
            self.gateways[name].inbox.store(data, self.now)

    # -- recovery ----------------------------------------------------------------------------------

    def recover(self) -> None:
        client = self.clients[self.random.choice(sorted(self.clients))]
        alive = [name for name, gateway in sorted(self.gateways.items()) if gateway.alive]
        gateway = self.gateways[self.random.choice(alive)]
        if client.id not in gateway.adopting:
            gateway.adopting.add(client.id)
            self.tasks.append(self.recovery(client, gateway))

    def recovery(self, client: Client, gateway: Gateway) -> Iterator[None]:
        keys: set[str] = set()
        try:
            yield from self.attempt(client, gateway, keys)
        finally:
            gateway.adopting.discard(client.id)

    def attempt(self, client: Client, gateway: Gateway, keys: set[str]) -> Iterator[None]:
        generation, holder, revision = self.holder_of(client.id)
        yield
        if holder == gateway.name:
            if gateway.inbox.fold.get(client.id) is None or not gateway.alive:
                return
            if self.change(client.id, generation + 1, gateway.name, revision):
                self.attach(client, gateway, generation + 1)
            return
        old = self.gateways[holder]
        session = old.inbox.reader().fold.get(client.id)  # type: ignore[union-attr]
        if session is None:
            # Its opening is not in the log, or it has been closed there: it moved meanwhile.
            assert self.holder_of(client.id)[2] != revision or not old.alive or old.inbox.last == 0
            return
        pin = gateway.inbox.fold.pin()
        blob = b""
        while True:
            waiting = []
            for key in {hub_key(HUB), *(group_key(HUB, group) for group in session.groups)} - keys:
                keys.add(key)
                waiting.append(self.register(gateway, key))
            while not all(one.confirmed for one in waiting):
                yield
                if not gateway.alive:
                    return
            floors = {partition: owner.epoch for partition, owner in self.owners.items()}
            yield
            mark = old.inbox.write(
                gateway.name, [entries.mark_entry(client.id, generation, gateway.name)], self.now
            )
            yield
            # The log may have been trimmed meanwhile, over the mark or up to a cycle that ends behind it: any
            # place behind the mark will do.
            reader: LogReader = old.inbox.reader(to=mark)
            if reader.fold is None:
                reader = old.inbox.reader()
            assert reader.fold is not None
            session = reader.fold.get(client.id)
            if session is None:
                assert self.holder_of(client.id)[2] != revision, "gone from its holder's log"
                break
            if {group_key(HUB, group) for group in session.groups} <= keys:
                blob = reader.fold.adoption(session, generation + 1, floors)
                break
        if blob and gateway.alive:
            yield
            gateway.write(*entries.adopted_entries(client.id, generation + 1, pin.since, blob))
            place = gateway.inbox.last
            while gateway.alive and gateway.inbox.fold.position < place:
                yield
        pin.release()
        if not gateway.alive:
            return
        if blob and self.change(client.id, generation + 1, gateway.name, revision):
            self.moves += 1
            self.attach(client, gateway, generation + 1)
            return
        if blob:
            gateway.write(entries.closed_entry(client.id, generation + 1))
            gateway.let_go.add((client.id, generation + 1))
        for key in keys:
            gateway.unwant(key)

    def attach(self, client: Client, gateway: Gateway, generation: int) -> None:
        if not gateway.alive:
            return
        session = gateway.inbox.fold.get(client.id)
        if session is None:
            return
        gateway.attached[client.id] = generation
        for one in self.gateways.values():
            if one is not gateway:
                one.attached.pop(client.id, None)  # the client is here now
        for at, message in session.replay(self.now):
            self.received(client.id, at, message.content())

    def forget(self) -> None:
        """A holder that somebody wanted a session of looks at its record."""
        for gateway in self.gateways.values():
            for session in [*gateway.doubts] if gateway.alive else ():
                generation, holder, _ = self.holder_of(session)
                folded = gateway.inbox.fold.get(session)
                if holder != gateway.name and folded is not None and session not in gateway.adopting:
                    gateway.doubts.discard(session)
                    if (session, folded.generation) in gateway.let_go:
                        continue  # it is about to be closed
                    gateway.let_go.add((session, folded.generation))
                    gateway.write(entries.closed_entry(session, generation - 1))
                    for key in gateway.inbox.fold.sessions.keys_of(folded):
                        if gateway.wanted.get(key):
                            gateway.unwant(key)

    # -- what holds --------------------------------------------------------------------------------

    def received(self, session: str, sequence_id: int, content: Body) -> None:
        text = content.message.data.decode()
        got = self.clients[session].got
        assert got.setdefault(sequence_id, text) == text, f"{session}: {sequence_id} is two messages"

    def check(self) -> None:
        for client in self.clients.values():
            assert sorted(client.got) == list(range(1, len(client.got) + 1)), f"{client.id}: a gap in the ids"
            found = [client.got[at].split() for at in sorted(client.got)]
            uids = [int(uid) for _, uid, _, _ in found]
            assert len(uids) == len(set(uids)), f"{client.id}: twice: {uids}"
            for partition in self.partitions:
                stamps = [
                    (int(epoch), int(stamp))
                    for group, _, epoch, stamp in found
                    if group != "-" and partition_of(group_key(HUB, group)) == partition
                ]
                assert stamps == sorted(stamps), f"{client.id}: not in the order of stamps: {stamps}"
            for one in self.publishes:
                since = client.members.get(one.group)
                if since is not None and one.sent_at > since and one.acked_at is not None:
                    assert one.uid in uids, f"{client.id}: lost {one}"

    def run(self, steps: int) -> None:
        doings = (
            [self.publish] * 4
            + [self.store] * 5
            + [self.answer] * 4
            + [self.tail] * 5
            + [self.registrar] * 4
            + [self.join] * 2
            + [self.recover, self.trim, self.direct, self.acks, self.forget, self.late_copy, self.sync]
        )
        for _ in range(steps):
            self.tick += 1
            if self.random.random() < self.owners_end:
                self.owner_ends()
            if self.random.random() < self.gateways_end:
                self.crash()
            self.random.choice(doings)()
            if self.random.random() < 0.2:
                self.resend()
            self.go_on()
        self.settle()
        self.check()

    def resend(self) -> None:
        for sender, partition in [*self.unanswered]:
            self.send(sender, partition)

    def go_on(self) -> None:
        for task in self.random.sample(self.tasks, len(self.tasks)):
            if self.random.random() < 0.5 and next(task, self) is self:
                self.tasks.remove(task)

    def settle(self) -> None:
        """Everything that is under way ends; every client is attached; everybody has read everything."""
        away: list[Client] = []
        for _ in range(300):
            self.tick += 1
            self.resend()
            for _ in range(10):
                self.store()
            self.answer()
            self.registrar()
            self.go_on()
            self.sync()
            for gateway in self.gateways.values():
                if gateway.alive:
                    gateway.inbox.tail()
            busy = (
                any(self.unanswered.values())
                or self.tasks
                or any(lane for owner in self.owners.values() for lane in owner.lanes.values())
            )
            if not busy:
                away = [
                    client
                    for client in self.clients.values()
                    if not any(client.id in gateway.attached for gateway in self.gateways.values())
                ]
                if not away:
                    return
                for client in away:
                    name = self.random.choice([n for n, g in sorted(self.gateways.items()) if g.alive])
                    self.gateways[name].adopting.add(client.id)
                    self.tasks.append(self.recovery(client, self.gateways[name]))
        raise AssertionError(f"it does not settle: {self.tasks} {self.unanswered} {[c.id for c in away]}")
