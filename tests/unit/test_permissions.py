import time

import pytest

from hubwire.model.patterns import compile_pattern
from hubwire.model.permissions import PermissionSet, is_known_role

JOIN, SEND = "joinLeaveGroup", "sendToGroup"


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("chat.*", ["chat.a", "chat."], ["chat.a.b", "chat"]),
        ("chat.**", ["chat.a", "chat.a.b", "chat."], ["chat"]),
        ("room-?", ["room-1"], ["room-", "room-12", "room-."]),
        ("*.eu.*", ["a.eu.b", ".eu."], ["a.b.eu.c"]),
        (r"v1\*", ["v1*"], ["v12"]),
        (r"v1\??", ["v1?x"], ["v1xx"]),
        (r"a\\*", ["a\\", "a\\b"], ["ab"]),
        ("Room*", ["RoomA"], ["rooma"]),
        ("**", ["a", "a.b", "é\n"], []),
        ("***", ["a", "a.b"], []),
        ("*", ["a"], ["a.b"]),
        ("**a*b", ["a.ab", "aab"], ["a.b"]),
        ("a.**.b.**.c.*", ["a.x.b.y.z.c.d"], ["a.b.c.d", "a.x.b.y.c.d.e"]),
        ("(a)[b]+", ["(a)[b]+"], ["ab", "(a)[b]b"]),
    ],
)
def test_patterns(pattern, matching, others):
    compiled = compile_pattern(pattern)
    assert [g for g in matching if not compiled.matches(g)] == []
    assert [g for g in others if compiled.matches(g)] == []


@pytest.mark.parametrize(
    "pattern", ["", "a\\", r"a\b", "x" * 1025, "******", "*a*a*a*a*a*", "??????", "?*?*?*", "**.**.**", "\\é"]
)
def test_illegal_patterns(pattern):
    assert compile_pattern(pattern) is None


@pytest.mark.parametrize("pattern", ["*****", "?????", "**.**.*", "*a*?*?", r"\*" * 512, "x" * 1024])
def test_patterns_at_the_limit_are_legal(pattern):
    assert compile_pattern(pattern) is not None


def test_a_group_chosen_by_an_attacker_is_matched_in_linear_time():
    pattern = compile_pattern("*-*-*-*-*x")
    started = time.perf_counter()
    for _ in range(20):
        assert not pattern.matches("-" * 1024)
    assert time.perf_counter() - started < 2  # backtracking takes hours


def test_without_roles_nothing_is_allowed():
    permissions = PermissionSet.from_roles([])
    assert not permissions.can_join_leave("a")
    assert not permissions.can_send("a")
    assert not permissions.check("getGroupState", "a")


def test_the_all_groups_roles_stand_apart():
    permissions = PermissionSet.from_roles(["webpubsub.joinLeaveGroup"])
    assert permissions.can_join_leave("anything")
    assert not permissions.can_send("anything")


def test_a_singular_role_is_literal_even_with_an_asterisk_or_dots():
    permissions = PermissionSet.from_roles(["webpubsub.sendToGroup.a*", "webpubsub.sendToGroup.b.c"])
    assert permissions.can_send("a*")
    assert not permissions.can_send("ab")
    assert permissions.can_send("b.c")
    assert not permissions.can_send("B.c")


def test_a_plural_role_is_a_pattern():
    permissions = PermissionSet.from_roles(["webpubsub.sendToGroups.chat.*", "webpubsub.joinLeaveGroups.**"])
    assert permissions.can_send("chat.a")
    assert not permissions.can_send("chat.a.b")
    assert permissions.can_join_leave("chat.a.b")


@pytest.mark.parametrize(
    "role",
    [
        "",
        "webpubsub.",
        "webpubsub.sendtogroup",
        "WebPubSub.sendToGroup",
        "webpubsub.sendToGroups",
        "webpubsub.sendToGroups.",
        "webpubsub.sendToGroups.a\\",
        "webpubsub.sendToGroup.",
        "webpubsub.sendToGroupX.a",
        "webpubsub.getGroupStates.*",
        "admin",
    ],
)
def test_roles_that_mean_nothing_are_ignored(role):
    assert not is_known_role(role)
    permissions = PermissionSet.from_roles([role, "webpubsub.sendToGroup.ok"])
    assert permissions.can_send("ok")
    assert not any(permissions.check(p, g) for p in (JOIN, SEND, "getGroupState") for g in ("a", "", "a\\"))


def test_group_state_roles_are_kept():
    permissions = PermissionSet.from_roles(["webpubsub.getGroupState.a", "webpubsub.setGroupState"])
    assert permissions.check("getGroupState", "a")
    assert not permissions.check("getGroupState", "b")
    assert permissions.check("setGroupState", "b")


def test_revoking_one_group_beats_a_wider_role_until_it_is_granted_again():
    for roles in (["webpubsub.sendToGroup"], ["webpubsub.sendToGroups.r*"], ["webpubsub.sendToGroup.room"]):
        permissions = PermissionSet.from_roles(roles)
        assert permissions.revoke(SEND, "room")
        assert not permissions.can_send("room")
        assert permissions.grant(SEND, "room")
        assert permissions.can_send("room")


def test_grant_and_revoke_without_a_group_are_for_all_groups_and_forget_the_rest():
    permissions = PermissionSet.from_roles(["webpubsub.joinLeaveGroup.a"])
    assert not permissions.check(JOIN, None)
    permissions.revoke(JOIN, "b")
    permissions.grant(JOIN, None)
    assert permissions.check(JOIN, None)
    assert permissions.can_join_leave("b")
    permissions.revoke(JOIN, None)
    assert not permissions.can_join_leave("a")


def test_a_thousand_and_first_literal_is_a_conflict_that_changes_nothing():
    permissions = PermissionSet()
    assert all(permissions.grant(SEND, f"g{i}") for i in range(1000))
    assert not permissions.grant(SEND, "one-more")
    assert not permissions.can_send("one-more")
    assert permissions.can_send("g0")
    assert permissions.grant(SEND, "g0"), "what is granted already needs no room"
    assert permissions.grant(JOIN, "one-more"), "each permission has its own thousand"
    permissions.revoke(SEND, "g0")
    assert permissions.grant(SEND, "one-more"), "a revoke of a literal grant makes room"


def test_what_a_wider_role_covers_stores_nothing():
    permissions = PermissionSet.from_roles(["webpubsub.sendToGroups.g*"])
    assert all(permissions.grant(SEND, f"g{i}") for i in range(1500))


def test_surplus_roles_are_ignored():
    literals = [f"webpubsub.sendToGroup.l{i:04}" for i in range(1001)]
    patterns = [f"webpubsub.joinLeaveGroups.p{i}.*" for i in range(10)]
    permissions = PermissionSet.from_roles(literals + patterns)
    assert permissions.can_send("l0999")
    assert not permissions.can_send("l1000")
    assert permissions.can_join_leave("p8.x")
    assert not permissions.can_join_leave("p9.x")


def test_one_connections_changes_do_not_reach_another():
    one, other = PermissionSet.from_roles([]), PermissionSet.from_roles([])
    one.grant(SEND, "a")
    one.grant(JOIN, None)
    one.grant("setGroupState", "a")
    assert not other.can_send("a")
    assert not other.can_join_leave("a")
    assert not other.check("setGroupState", "a")
