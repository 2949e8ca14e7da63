"""Which router should own a partition: consistent hashing over the live routers. Pure.

Says what should be; the ownership table says what is (DESIGN.md section 4).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from uhashring import HashRing

from hubwire.bus.keys import PARTITIONS

VIRTUAL_NODES = 40
"""Each is four points on the ring. Fifty routers are placed in some 40 ms."""


@lru_cache(maxsize=16)
def _placement(routers: tuple[str, ...]) -> tuple[str, ...]:
    ring = HashRing(nodes=list(routers), vnodes=VIRTUAL_NODES, hash_fn="ketama")
    return tuple(ring.get_node(f"partition-{p}") for p in range(PARTITIONS))


def placement(routers: Iterable[str]) -> tuple[str, ...]:
    """The router that should own each partition; empty when there are no routers.

    The same for every process that knows the same routers. One router more or less moves only the
    partitions that it gains or loses.
    """
    names = tuple(sorted(set(routers)))
    return _placement(names) if names else ()
