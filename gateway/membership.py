"""Which keys have members on this gateway, as numbered transitions per partition. Pure.

DESIGN.md section 4, "Membership": only the first member's joining and the last one's leaving travel. A
key counts as ours, also in snapshots, from the moment its joining is numbered.
"""

from __future__ import annotations

from typing import NamedTuple

from hubwire.bus.digest import digest_of
from hubwire.bus.keys import PARTITIONS


class Transition(NamedTuple):
    """One change of the set of keys of a partition; `digest` is that of the set after it."""

    key: str
    joins: bool
    seq: int
    digest: int


class Snapshot(NamedTuple):
    seq: int
    digest: int
    keys: list[str]


class _Partition:
    __slots__ = ("digest", "keys", "seq")

    def __init__(self) -> None:
        self.seq = 0
        self.digest = 0
        self.keys: set[str] = set()


class Membership:
    """The gateway's side of every partition."""

    def __init__(self) -> None:
        self._partitions = [_Partition() for _ in range(PARTITIONS)]

    def join(self, partition: int, key: str) -> Transition:
        """The key has its first member. The caller never joins a key twice without a leave between."""
        return self._change(partition, key, True)

    def leave(self, partition: int, key: str) -> Transition:
        """The key has lost its last member."""
        return self._change(partition, key, False)

    def _change(self, partition: int, key: str, joins: bool) -> Transition:
        one = self._partitions[partition]
        one.seq += 1
        if joins != (key in one.keys):
            one.digest ^= digest_of(key)
            if joins:
                one.keys.add(key)
            else:
                one.keys.discard(key)
        return Transition(key, joins, one.seq, one.digest)

    def snapshot(self, partition: int) -> Snapshot:
        """All keys of a partition now. It stands for every transition numbered up to its `seq`."""
        one = self._partitions[partition]
        return Snapshot(one.seq, one.digest, list(one.keys))

    def keys(self) -> set[str]:
        """All keys of all partitions (for tests and introspection)."""
        return set().union(*(p.keys for p in self._partitions))
