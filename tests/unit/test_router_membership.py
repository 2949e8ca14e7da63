"""What a partition's owner knows of the members (router.membership)."""

from __future__ import annotations

import pytest

from gateway.membership import Membership
from hubwire.bus.digest import digest_of
from router.membership import PartitionMembers

G, H = "gggggggggg", "hhhhhhhhhh"
P = 0


def snapshot(members: PartitionMembers, gateway: str, membership: Membership) -> bool:
    seq, digest, keys = membership.snapshot(P)
    return members.snapshot(gateway, seq, digest, keys)


def join(members: PartitionMembers, gateway: str, membership: Membership, key: str) -> bool:
    change = membership.join(P, key)
    return members.transition(gateway, change.key, change.joins, change.seq, change.digest)


def leave(members: PartitionMembers, gateway: str, membership: Membership, key: str) -> bool:
    change = membership.leave(P, key)
    return members.transition(gateway, change.key, change.joins, change.seq, change.digest)


def reached(members: PartitionMembers, key: str) -> set[str]:
    return set(members.members(key)) | members.unsynced


def test_a_gateway_is_a_member_of_everything_until_its_snapshot_comes() -> None:
    members, mine = PartitionMembers([G]), Membership()
    assert reached(members, "any") == {G}
    mine.join(P, "a")
    assert snapshot(members, G, mine)
    assert reached(members, "a") == {G}
    assert reached(members, "b") == set()


def test_transitions_after_the_snapshot_are_applied() -> None:
    members, mine = PartitionMembers([G]), Membership()
    snapshot(members, G, mine)
    assert join(members, G, mine, "a")
    assert reached(members, "a") == {G}
    assert leave(members, G, mine, "a")
    assert reached(members, "a") == set()
    assert members.keys_of(G) == frozenset()


def test_a_transition_before_the_snapshot_is_safe_and_asks_for_one() -> None:
    members, mine = PartitionMembers([G]), Membership()
    assert not join(members, G, mine, "a")
    assert reached(members, "a") == {G}, "confirmed, and reached"


def test_a_gap_makes_the_gateway_a_member_of_everything_again() -> None:
    members, mine = PartitionMembers([G]), Membership()
    snapshot(members, G, mine)
    mine.join(P, "lost on the way")
    assert not join(members, G, mine, "b")
    assert reached(members, "lost on the way") == {G}
    assert snapshot(members, G, mine)
    assert reached(members, "lost on the way") == {G}
    assert reached(members, "c") == set()


def test_a_wrong_digest_makes_the_gateway_a_member_of_everything_again() -> None:
    members, mine = PartitionMembers([G]), Membership()
    snapshot(members, G, mine)
    change = mine.join(P, "a")
    assert not members.transition(G, "a", True, change.seq, change.digest ^ 1)
    assert members.unsynced == {G}


def test_repeats_change_nothing() -> None:
    members, mine = PartitionMembers([G]), Membership()
    snapshot(members, G, mine)
    first = mine.join(P, "a")
    second = mine.leave(P, "a")
    for change in (first, second, first, second, first):
        assert members.transition(G, change.key, change.joins, change.seq, change.digest)
    assert reached(members, "a") == set()


def test_a_snapshot_of_before_later_transitions_changes_nothing() -> None:
    members, mine = PartitionMembers([G]), Membership()
    old = mine.snapshot(P)
    snapshot(members, G, mine)
    join(members, G, mine, "a")
    assert members.snapshot(G, old.seq, old.digest, old.keys)
    assert reached(members, "a") == {G}


def test_an_old_snapshot_does_not_sync_a_gateway_whose_later_join_was_confirmed() -> None:
    # The snapshot was repeated, and its first copy took another way through the bus. In between a join
    # was confirmed while the gateway was not synced. Believing the copy would lose that member.
    members, mine = PartitionMembers([G]), Membership()
    old = mine.snapshot(P)
    assert not join(members, G, mine, "a")  # confirmed, since unsynced means everything
    assert not members.snapshot(G, old.seq, old.digest, old.keys)
    assert reached(members, "a") == {G}
    assert snapshot(members, G, mine)
    assert reached(members, "a") == {G}
    assert reached(members, "b") == set()


def test_a_snapshot_that_contradicts_itself_is_refused() -> None:
    members = PartitionMembers([G])
    assert not members.snapshot(G, 1, 0, ["a"])
    assert members.unsynced == {G}


def test_a_snapshot_in_parts_counts_when_it_is_whole() -> None:
    members = PartitionMembers([G])
    digest = digest_of("a") ^ digest_of("b") ^ digest_of("c")
    assert members.snapshot(G, 5, digest, ["a"], 0, 3)
    assert members.unsynced == {G}
    assert members.snapshot(G, 5, digest, ["b"], 1, 3)
    assert members.snapshot(G, 5, digest, ["c"], 2, 3)
    assert not members.unsynced
    assert members.keys_of(G) == {"a", "b", "c"}


@pytest.mark.parametrize("parts", [[1], [0, 2], [0, 1, 1], [2], [1, 0]])
def test_a_snapshot_that_lacks_a_part_is_refused(parts: list[int]) -> None:
    # The owner changed in the middle: the first parts went to the one of before.
    members = PartitionMembers([G])
    digest = digest_of("0") ^ digest_of("1") ^ digest_of("2")
    answers = [members.snapshot(G, 5, digest, [str(part)], part, 3) for part in parts]
    assert members.unsynced == {G}
    assert not all(answers) or parts == [1, 0]


def test_parts_of_two_snapshots_do_not_mix() -> None:
    members = PartitionMembers([G])
    assert members.snapshot(G, 5, digest_of("a") ^ digest_of("b"), ["a"], 0, 2)
    assert members.snapshot(G, 6, digest_of("a") ^ digest_of("c"), ["a"], 0, 2)
    assert not members.snapshot(G, 5, digest_of("a") ^ digest_of("b"), ["b"], 1, 2)
    assert members.snapshot(G, 6, digest_of("a") ^ digest_of("c"), ["c"], 1, 2)
    assert members.keys_of(G) == {"a", "c"}


def test_a_gateway_that_ended_is_a_member_of_nothing() -> None:
    members, mine = PartitionMembers([G, H]), Membership()
    join(members, G, mine, "a")
    snapshot(members, G, mine)
    members.gateway_ended(G)
    members.gateway_ended(G)
    assert reached(members, "a") == {H}
    assert members.gateways == [H]
    assert members.keys_of(G) == frozenset()


def test_one_gateways_changes_do_not_touch_another() -> None:
    members, mine, theirs = PartitionMembers([G, H]), Membership(), Membership()
    for gateway, membership in ((G, mine), (H, theirs)):
        snapshot(members, gateway, membership)
        join(members, gateway, membership, "a")
    leave(members, G, mine, "a")
    assert reached(members, "a") == {H}


def test_thousands_of_unsynced_gateways_share_what_they_do_not_have() -> None:
    members = PartitionMembers(f"g{n}" for n in range(1000))
    join(members, "g1", Membership(), "a")
    mine = Membership()
    mine.join(P, "a")
    snapshot(members, "g2", mine)
    assert members.keys_of("g3") == frozenset()
    assert members.keys_of("g2") == {"a"}
