from dataclasses import dataclass, field

from gateway.hub import LocalHubs
from hubwire.bus.keys import group_key, hub_key, user_key


@dataclass(eq=False)
class Member:
    id: str
    hub: str = "chat"
    user_id: str | None = None
    groups: set[str] = field(default_factory=set)


def test_the_first_member_of_a_key_is_told_and_the_last_that_leaves():
    hubs = LocalHubs()
    one = Member("1", user_id="u", groups={"g"})
    two = Member("2", user_id="u", groups={"g", "h"})
    assert set(hubs.add(one)) == {hub_key("chat"), user_key("chat", "u"), group_key("chat", "g")}
    assert hubs.add(two) == [group_key("chat", "h")]
    assert hubs.remove(one) == []
    assert set(hubs.remove(two)) == {
        hub_key("chat"),
        user_key("chat", "u"),
        group_key("chat", "g"),
        group_key("chat", "h"),
    }
    assert hubs.keys() == set()
    assert len(hubs) == 0


def test_a_connection_can_be_forgotten_key_by_key():
    hubs = LocalHubs()
    one, two = Member("1", groups={"g", "h", "i"}), Member("2", groups={"g"})
    hubs.add(one)
    hubs.add(two)
    keys = hubs.removing(one)
    assert hubs.get("chat", "1") is None
    assert hubs.join(one, "j") == []
    assert next(keys) is None  # the hub has another member
    assert hubs.leave(one, "h") == [group_key("chat", "h")]  # meanwhile, and told by itself
    assert [key for key in keys if key is not None] == [group_key("chat", "i")]
    assert hubs.keys() == {hub_key("chat"), group_key("chat", "g")}
    assert list(hubs.removing(one)) == []


def test_hubs_users_and_groups_of_one_name_are_different_keys():
    hubs = LocalHubs()
    one = Member("1", hub="x", user_id="x", groups={"x"})
    assert len(hubs.add(one)) == 3
    assert list(hubs.members(group_key("y", "x"))) == []
    assert list(hubs.members(user_key("x", "x"))) == [one]


def test_a_connection_is_found_in_its_own_hub_only():
    hubs = LocalHubs()
    one = Member("1")
    hubs.add(one)
    assert hubs.get("chat", "1") is one
    assert hubs.get("other", "1") is None
    assert hubs.get("chat", "2") is None


def test_joining_twice_and_leaving_twice_tell_once():
    hubs = LocalHubs()
    one = Member("1")
    hubs.add(one)
    key = group_key("chat", "g")
    assert hubs.join(one, "g") == [key]
    assert hubs.join(one, "g") == []
    assert hubs.leave(one, "g") == [key]
    assert hubs.leave(one, "g") == []
    assert not hubs.has(key)


def test_one_that_is_gone_joins_nothing_and_is_removed_once():
    hubs = LocalHubs()
    one = Member("1")
    hubs.add(one)
    hubs.remove(one)
    assert hubs.join(one, "g") == []
    assert one.groups == set()
    assert hubs.remove(one) == []
    assert hubs.keys() == set()


def test_members_that_come_and_go_leave_the_others():
    hubs = LocalHubs()
    members = [Member(str(n), groups={"g"}) for n in range(5)]
    for one in members:
        hubs.add(one)
    key = group_key("chat", "g")
    assert set(hubs.members(key)) == set(members)
    for one in members[:-1]:
        assert hubs.leave(one, "g") == []
    assert list(hubs.members(key)) == [members[-1]]
    assert hubs.leave(members[-1], "g") == [key]


def test_walking_over_all_may_remove_them():
    hubs = LocalHubs()
    for n in range(5):
        hubs.add(Member(str(n)))
    for one in hubs:
        hubs.remove(one)
    assert len(hubs) == 0
