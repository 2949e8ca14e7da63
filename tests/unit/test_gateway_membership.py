"""The gateway's side of membership, held against the router's (DESIGN.md section 4)."""

from gateway.membership import Membership
from hubwire.bus.digest import digest_of
from hubwire.bus.keys import PARTITIONS


def test_transitions_of_a_partition_are_numbered_and_carry_the_digest_after_them():
    membership = Membership()
    assert membership.join(3, "a") == ("a", True, 1, digest_of("a"))
    assert membership.join(3, "b") == ("b", True, 2, digest_of("a") ^ digest_of("b"))
    assert membership.leave(3, "a") == ("a", False, 3, digest_of("b"))
    assert membership.join(4, "a").seq == 1  # each partition counts by itself


def test_a_snapshot_stands_for_all_that_was_numbered():
    membership = Membership()
    assert membership.snapshot(0) == (0, 0, [])
    membership.join(0, "a")
    membership.join(0, "b")
    membership.leave(0, "a")
    assert membership.snapshot(0) == (3, digest_of("b"), ["b"])
    assert membership.snapshot(1) == (0, 0, [])


def test_an_empty_set_has_the_digest_zero_however_it_became_empty():
    membership = Membership()
    for key in ("a", "b", "c"):
        membership.join(0, key)
    for key in ("b", "c", "a"):
        membership.leave(0, key)
    assert membership.snapshot(0) == (6, 0, [])
    assert membership.keys() == set()


def test_a_leave_of_what_was_never_joined_is_numbered_and_changes_nothing():
    """A connection whose admission failed half-way leaves every key that it would have had."""
    membership = Membership()
    membership.join(0, "a")
    assert membership.leave(0, "b") == ("b", False, 2, digest_of("a"))
    assert membership.keys() == {"a"}


def test_all_keys_are_those_of_all_partitions():
    membership = Membership()
    for partition in range(PARTITIONS):
        membership.join(partition, f"k{partition}")
    assert len(membership.keys()) == PARTITIONS
