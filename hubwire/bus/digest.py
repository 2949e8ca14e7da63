"""The digest of a set of keys, kept up to date by one exclusive-or a change. Pure."""

from __future__ import annotations

from hashlib import blake2b


def digest_of(key: str) -> int:
    """64 bits of one key. A set's digest is the exclusive-or of its keys' digests (0 when empty)."""
    return int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
