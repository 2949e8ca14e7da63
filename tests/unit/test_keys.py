"""Keys and partitions (hubwire.bus.keys)."""

from collections import Counter

import pytest

from hubwire.bus.keys import PARTITIONS, group_key, hub_key, partition_of, reliable_key, split_key, user_key


@pytest.mark.parametrize("name", ["", "a", "a\0b", "\0", "ü\U0001f600", "g\0chat\0x", "\ud800"])
def test_a_key_says_what_it_is_of_whatever_the_name_is(name: str) -> None:
    assert split_key(group_key("chat", name)) == ("g", "chat", name)
    assert split_key(user_key("chat", name)) == ("u", "chat", name)


def test_a_hub_key_has_no_name() -> None:
    assert split_key(hub_key("chat")) == ("h", "chat", "")


def test_keys_of_different_things_differ() -> None:
    keys = [hub_key("a"), group_key("a", "a"), user_key("a", "a"), group_key("a", ""), user_key("a", "")]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", ["plain", "ü", "\ud800", "\0", "x" * 1024])
def test_every_key_has_a_partition(name: str) -> None:
    assert 0 <= partition_of(group_key("chat", name)) < PARTITIONS


def test_the_partition_of_a_key_is_the_same_in_every_process_and_version() -> None:
    # A process that computed another one would ask an owner that knows nothing of the key.
    assert partition_of(group_key("chat", "room")) == 57
    assert partition_of(hub_key("chat")) == 34
    assert partition_of(user_key("chat", "alice")) == 3


@pytest.mark.parametrize("name", ["plain", "room", "ü", "\ud800", "\0", ""])
def test_the_reliable_members_of_a_key_are_looked_after_by_its_owner(name: str) -> None:
    for key in (group_key("chat", name), user_key("r", name), hub_key("rooms")):
        assert reliable_key(key) != key
        assert partition_of(reliable_key(key)) == partition_of(key)


def test_keys_spread_over_the_partitions() -> None:
    found = Counter(partition_of(group_key("chat", f"room-{n}")) for n in range(256 * 40))
    assert len(found) == PARTITIONS
    assert max(found.values()) < 3 * 40
