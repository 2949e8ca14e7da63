"""Who is connected here and what they belong to: pure data, no sockets (DESIGN.md section 2).

One table from bus key (hub, group or user) to the local connections, so that an envelope's key finds
its receivers at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from hubwire.bus.keys import group_key, hub_key, user_key


class Member(Protocol):
    """What the table needs to know of a connection."""

    @property
    def id(self) -> str: ...
    @property
    def hub(self) -> str: ...
    @property
    def user_id(self) -> str | None: ...
    @property
    def groups(self) -> set[str]: ...


M = TypeVar("M", bound=Member)


def keys_of(member: Member) -> Iterator[str]:
    """Every key that a member belongs to."""
    yield hub_key(member.hub)
    if member.user_id is not None:
        yield user_key(member.hub, member.user_id)
    for group in list(member.groups):
        yield group_key(member.hub, group)


class LocalHubs(Generic[M]):
    """The connections of this gateway, of all hubs.

    `add`, `join`, `leave` and `remove` return the keys that thereby got their first member or lost
    their last one: what has to be told to the owners.
    """

    def __init__(self) -> None:
        self._by_id: dict[str, M] = {}
        # Most users have one connection, and most keys are users: a lone member is kept without a dict.
        self._by_key: dict[str, M | dict[M, None]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[M]:
        return iter(list(self._by_id.values()))

    def get(self, hub: str, connection_id: str) -> M | None:
        member = self._by_id.get(connection_id)
        return member if member is not None and member.hub == hub else None

    def by_id(self, connection_id: str) -> M | None:
        return self._by_id.get(connection_id)

    def members(self, key: str) -> Iterable[M]:
        """The members of a key now. Copy it before doing what may change the table."""
        found = self._by_key.get(key)
        if found is None:
            return ()
        return found if type(found) is dict else (found,)  # type: ignore[return-value]

    def count(self, key: str) -> int:
        """How many members a key has now."""
        found = self._by_key.get(key)
        if found is None:
            return 0
        return len(found) if type(found) is dict else 1

    def has(self, key: str) -> bool:
        return key in self._by_key

    def keys(self) -> set[str]:
        """Every key that has a member (for tests and introspection)."""
        return set(self._by_key)

    def keys_of(self, member: M) -> list[str]:
        """Every key that the connection belongs to."""
        return list(keys_of(member))

    def add(self, member: M) -> list[str]:
        """Register a connection under its hub, its user and the groups that it begins with."""
        self._by_id[member.id] = member
        return [key for key in self.keys_of(member) if self._enter(key, member)]

    def remove(self, member: M) -> list[str]:
        """Forget a connection. Idempotent: the second call returns nothing."""
        return [key for key in self.removing(member) if key is not None]

    def removing(self, member: M) -> Iterator[str | None]:
        """`remove` key by key, for connections that may be in very many groups: None for a key that has
        other members. The connection has no id any more from now on, and can enter nothing."""
        if self._by_id.get(member.id) is not member:
            return iter(())
        del self._by_id[member.id]
        return (key if self._exit(key, member) else None for key in keys_of(member))

    def join(self, member: M, group: str) -> list[str]:
        """Put a registered connection into a group. Nothing happens when it is in it, or is gone."""
        if group in member.groups or self._by_id.get(member.id) is not member:
            return []
        member.groups.add(group)
        key = group_key(member.hub, group)
        return [key] if self._enter(key, member) else []

    def leave(self, member: M, group: str) -> list[str]:
        if group not in member.groups:
            return []
        member.groups.discard(group)
        key = group_key(member.hub, group)
        return [key] if self._exit(key, member) else []

    def _enter(self, key: str, member: M) -> bool:
        found = self._by_key.get(key)
        if found is None:
            self._by_key[key] = member
            return True
        if type(found) is dict:
            found[member] = None
        elif found is not member:
            self._by_key[key] = {found: None, member: None}  # type: ignore[dict-item]
        return False

    def _exit(self, key: str, member: M) -> bool:
        found = self._by_key.get(key)
        if found is None:
            return False
        if type(found) is dict:
            found.pop(member, None)
            if found:
                return False
        elif found is not member:
            return False
        del self._by_key[key]
        return True
