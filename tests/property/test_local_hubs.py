"""The gateway's table of members against the simplest model of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.hub import LocalHubs
from hubwire.bus.keys import group_key, hub_key, user_key

HUBS = st.sampled_from(["h", "i"])
USERS = st.sampled_from([None, "u", "v", "h"])
GROUPS = st.sampled_from(["g", "h", "u"])
WHICH = st.integers(0, 7)


@dataclass(eq=False)
class Member:
    id: str
    hub: str
    user_id: str | None
    groups: set[str] = field(default_factory=set)


class Hubs(RuleBasedStateMachine):
    """`told` is what owners have been told: it must always be the keys that have members."""

    def __init__(self) -> None:
        super().__init__()
        self.hubs: LocalHubs[Member] = LocalHubs()
        self.members: dict[int, Member] = {}
        self.gone: list[Member] = []
        self.told: set[str] = set()

    def tell(self, keys: list[str], joins: bool) -> None:
        for key in keys:
            assert (key in self.told) is not joins, "told twice"
            (self.told.add if joins else self.told.remove)(key)

    @rule(which=WHICH, hub=HUBS, user=USERS, groups=st.sets(GROUPS))
    def add(self, which: int, hub: str, user: str | None, groups: set[str]) -> None:
        if which not in self.members:
            member = self.members[which] = Member(f"c{which}", hub, user, groups)
            self.tell(self.hubs.add(member), True)

    @rule(which=WHICH)
    def remove(self, which: int) -> None:
        member = self.members.pop(which, None)
        if member is not None:
            self.tell(self.hubs.remove(member), False)
            self.gone.append(member)

    @rule(which=WHICH, group=GROUPS)
    def join(self, which: int, group: str) -> None:
        if which in self.members:
            self.tell(self.hubs.join(self.members[which], group), True)

    @rule(which=WHICH, group=GROUPS)
    def leave(self, which: int, group: str) -> None:
        if which in self.members:
            self.tell(self.hubs.leave(self.members[which], group), False)

    @rule(group=GROUPS)
    def touch_one_that_is_gone(self, group: str) -> None:
        for member in self.gone[-2:]:
            assert self.hubs.join(member, group) == []
            assert self.hubs.remove(member) == []

    @invariant()
    def the_table_is_what_the_members_say(self) -> None:
        expected: dict[str, set[Member]] = {}
        for member in self.members.values():
            keys = [hub_key(member.hub), *(group_key(member.hub, group) for group in member.groups)]
            if member.user_id is not None:
                keys.append(user_key(member.hub, member.user_id))
            for key in keys:
                expected.setdefault(key, set()).add(member)
        assert self.hubs.keys() == expected.keys() == self.told
        for key, members in expected.items():
            found = list(self.hubs.members(key))
            assert len(found) == len(members)
            assert set(found) == members
        assert len(self.hubs) == len(self.members)
        assert set(self.hubs) == set(self.members.values())


TestHubs = Hubs.TestCase
TestHubs.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
