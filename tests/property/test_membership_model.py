"""One gateway and the owners of one partition, with every message lost, repeated or late.

The gateway's side is the real `Membership` behind a first-in-first-out queue, as the registrar and the
dispatcher keep it; the owner's side is the real `PartitionMembers`. Owners are exchanged, gateways start
over, messages of before come late. What holds:

- always: a member whose join was confirmed is reached by the owner of now (as a member, or because the
  gateway counts as a member of everything);
- when the network is quiet: the owner's view is exactly the truth.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.membership import Membership
from hubwire.bus.envelopes import JOIN, LEAVE, SNAPSHOT
from router.membership import PartitionMembers

P = 0
KEYS = [f"key{number}" for number in range(4)]
PART = 2  # keys in a part of a snapshot

keys = st.sampled_from(KEYS)


class Gateway:
    """One run of a gateway: what is joined, what is confirmed, what waits for the owner, in order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.membership = Membership()
        self.joined: set[str] = set()
        self.confirmed: set[str] = set()
        self.queue: deque[Any] = deque()  # entries, or "snapshot" to be made when it is sent
        self.sent: list[Any] | None = None  # the entry on its way, repeated until it is answered

    def toggle(self, key: str) -> None:
        if key in self.joined:
            self.joined.discard(key)
            self.confirmed.discard(key)
            change, kind = self.membership.leave(P, key), LEAVE
        else:
            self.joined.add(key)
            change, kind = self.membership.join(P, key), JOIN
        self.queue.append([kind, key, change.seq, change.digest])

    def send(self) -> list[Any] | None:
        """The entry at the head of the queue, fixed from now on."""
        if self.sent is None and self.queue:
            entry = self.queue.popleft()
            if entry == "snapshot":
                seq, digest, found = self.membership.snapshot(P)
                chunks = [found[at : at + PART] for at in range(0, len(found), PART)] or [[]]
                parts = [
                    [SNAPSHOT, seq, digest, chunk, number, len(chunks)] for number, chunk in enumerate(chunks)
                ]
                self.queue.extendleft(reversed(parts[1:]))
                entry = parts[0]
            self.sent = entry
        return self.sent

    def ask_for_snapshot(self) -> None:
        if "snapshot" not in self.queue:
            self.queue.append("snapshot")

    def answered(self, entry: list[Any], ok: bool) -> None:
        self.sent = None
        kind = entry[0]
        if kind == JOIN and self.membership_number_of(entry) and entry[1] in self.joined:
            self.confirmed.add(entry[1])
        if not ok and (kind != SNAPSHOT or entry[4] == entry[5] - 1):
            self.ask_for_snapshot()

    def membership_number_of(self, entry: list[Any]) -> bool:
        """Whether this joining is the key's latest: an older one's answer says nothing."""
        later = [one for one in self.queue if one != "snapshot" and one[0] == JOIN and one[1] == entry[1]]
        return not later


class MembershipModel(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.gateways = [Gateway("g0"), Gateway("h0")]
        for gateway in self.gateways:
            gateway.ask_for_snapshot()  # at the start every gateway announces itself
        self.ended: list[str] = []
        self.owner = PartitionMembers(gateway.name for gateway in self.gateways)
        self.term = 0  # the owner's epoch; a message names the one that it is meant for
        self.late: list[tuple[str, int, list[Any]]] = []  # copies of messages that may still arrive

    def gateway(self, number: int) -> Gateway:
        return self.gateways[number]

    def apply(self, name: str, entry: list[Any], term: int) -> bool | None:
        """The owner handles a message; None when it refuses an ended gateway's, or one for another owner."""
        if name in self.ended or term != self.term:
            return None
        if entry[0] == SNAPSHOT:
            return self.owner.snapshot(name, *entry[1:])
        kind, key, seq, digest = entry
        return self.owner.transition(name, key, kind == JOIN, seq, digest)

    @rule(which=st.integers(0, 1), key=keys)
    def join_or_leave(self, which: int, key: str) -> None:
        self.gateway(which).toggle(key)

    @rule(which=st.integers(0, 1), count=st.integers(1, 4))
    def messages_arrive_and_are_answered(self, which: int, count: int) -> None:
        gateway = self.gateway(which)
        for _ in range(count):
            entry = gateway.send()
            if entry is None:
                return
            ok = self.apply(gateway.name, entry, self.term)
            assert ok is not None
            gateway.answered(entry, ok)
            self.late.append((gateway.name, self.term, entry))

    @rule(which=st.integers(0, 1))
    def message_arrives_and_the_answer_is_lost(self, which: int) -> None:
        gateway = self.gateway(which)
        entry = gateway.send()
        if entry is not None:
            self.apply(gateway.name, entry, self.term)
            self.late.append((gateway.name, self.term, entry))

    @rule(which=st.integers(0, 1))
    def message_is_lost(self, which: int) -> None:
        entry = self.gateway(which).send()
        if entry is not None:
            self.late.append((self.gateway(which).name, self.term, entry))

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def an_old_message_arrives_late(self, data: st.DataObject) -> None:
        name, term, entry = data.draw(st.sampled_from(self.late))
        self.apply(name, entry, term)

    @rule(which=st.integers(0, 1))
    def all_old_snapshots_arrive_late(self, which: int) -> None:
        for name, term, entry in self.late:
            if name == self.gateway(which).name and entry[0] == SNAPSHOT:
                self.apply(name, entry, term)

    @rule()
    def the_owner_changes(self) -> None:
        self.term += 1
        self.owner = PartitionMembers(gateway.name for gateway in self.gateways)

    @rule(which=st.integers(0, 1))
    def the_owner_asks_again(self, which: int) -> None:
        self.gateway(which).ask_for_snapshot()

    @rule(which=st.integers(0, 1), heard_late=st.booleans())
    def a_gateway_starts_over(self, which: int, heard_late: bool) -> None:
        old = self.gateway(which)
        self.ended.append(old.name)
        self.owner.gateway_ended(old.name)
        new = Gateway(f"{old.name[0]}{int(old.name[1:]) + 1}")
        self.gateways[which] = new
        if not heard_late:  # or its first message is what the owner hears of it
            self.owner.gateway_seen(new.name)

    @rule()
    def the_network_is_quiet(self) -> None:
        """Everything is delivered; whoever is not synced is asked, as the router does every 0.3 s."""
        for _ in range(100):
            for gateway in self.gateways:
                self.owner.gateway_seen(gateway.name)  # its lease is heard
                if gateway.name in self.owner.unsynced:
                    gateway.ask_for_snapshot()
                while (entry := gateway.send()) is not None:
                    ok = self.apply(gateway.name, entry, self.term)
                    assert ok is not None
                    gateway.answered(entry, ok)
            if not self.owner.unsynced:
                break
        assert not self.owner.unsynced
        for gateway in self.gateways:
            assert self.owner.keys_of(gateway.name) == gateway.joined == gateway.confirmed
        for key in KEYS:
            assert self.owner.members(key) == {g.name for g in self.gateways if key in g.joined}

    @invariant()
    def who_is_confirmed_is_reached(self) -> None:
        if not hasattr(self, "owner"):
            return
        for gateway in self.gateways:
            for key in gateway.confirmed:
                assert gateway.name in self.owner.members(key) or gateway.name in self.owner.unsynced

    @invariant()
    def views_agree_with_themselves(self) -> None:
        if hasattr(self, "owner"):
            for key in KEYS:
                for name in self.owner.members(key):
                    assert key in self.owner.keys_of(name)
                    assert name not in self.owner.unsynced


TestMembershipModel = MembershipModel.TestCase
TestMembershipModel.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
