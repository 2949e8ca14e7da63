"""Keys, and the partition of a key: pure (DESIGN.md section 4).

A key names what a message can be addressed to on the bus: a hub, a group of a hub, a user of a hub. It
is one string, `<kind>\\0<hub>` or `<kind>\\0<hub>\\0<name>`; hub names cannot contain NUL, so it is
unambiguous whatever the group or user is called. Gateways register a key of reliable connections under
`reliable_key`, beside the plain one: what goes to those is written to the gateway's inbox.
"""

from __future__ import annotations

from zlib import crc32

PARTITIONS = 256
"""Fixed for the life of a cluster: every process must compute the same partition for a key."""


def hub_key(hub: str) -> str:
    return f"h\0{hub}"


def group_key(hub: str, group: str) -> str:
    return f"g\0{hub}\0{group}"


def user_key(hub: str, user_id: str) -> str:
    return f"u\0{hub}\0{user_id}"


def reliable_key(key: str) -> str:
    """Under which a gateway registers that it has reliable members of a (plain) key. No plain key begins
    with "r"."""
    return f"r{key}"


def is_reliable(key: str) -> bool:
    """Whether this is a `reliable_key`."""
    return key[:1] == "r"


def split_key(key: str) -> tuple[str, str, str]:
    """The kind ("h", "g" or "u"), the hub, and the group or user ("" for a hub)."""
    kind, _, rest = key.partition("\0")
    hub, _, name = rest.partition("\0")
    return kind, hub, name


def partition_of(key: str) -> int:
    """The partition of a key, the same for its `reliable_key`: one owner orders both. CRC-32 is spread
    evenly enough over 256 and is one C call."""
    if is_reliable(key):
        key = key[1:]
    # surrogatepass: a name can come from JSON with a lone surrogate escape; it must not raise here.
    return crc32(key.encode("utf-8", "surrogatepass")) % PARTITIONS
