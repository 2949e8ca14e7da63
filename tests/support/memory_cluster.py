"""A cluster of one process: hubs, connections, groups and permissions that are really kept, without a bus.

For tests of REST alone. What is sent to a connection is found in its `received`, why it was closed in
`reason`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from controlplane.ports import GrantResult, GroupMember, PermissionName, Target
from hubwire.bus.settings_records import new_access_key, new_access_keys
from hubwire.model.cluster_settings import ClusterSettings, overlaid
from hubwire.model.errors import HubwireError, InvalidRequest, Unavailable
from hubwire.model.filters import parse_filter
from hubwire.model.message import Message
from hubwire.model.settings import AccessKeys, HubLimits, HubSettings

MAX_LITERALS = 1000


@dataclass
class MemoryConnection:
    id: str
    user_id: str | None = None
    groups: set[str] = field(default_factory=set)
    granted: dict[PermissionName, set[str]] = field(
        default_factory=lambda: {"sendToGroup": set(), "joinLeaveGroup": set()}
    )
    received: list[Message] = field(default_factory=list)
    ttls: list[int] = field(default_factory=list)
    closed: bool = False
    reason: str | None = None


class MemoryCluster:
    """Implements `controlplane.ports.ClusterPort`. With `away` set, everything raises Unavailable."""

    def __init__(self) -> None:
        self.hubs: dict[str, dict[str, MemoryConnection]] = {}
        self.away = False
        self.calls = 0
        self.submitted = 0

    def connect(
        self, hub: str, connection_id: str, user_id: str | None = None, *groups: str
    ) -> MemoryConnection:
        connection = MemoryConnection(connection_id, user_id, set(groups))
        self.hubs.setdefault(hub, {})[connection_id] = connection
        return connection

    def _in(self, hub: str) -> dict[str, MemoryConnection]:
        self.calls += 1
        if self.away:
            raise Unavailable("No gateway answers.")
        return self.hubs.get(hub, {})

    def _addressed(
        self, hub: str, target: Target, excluded: Sequence[str] = (), filter: str | None = None
    ) -> list[MemoryConnection]:
        parsed = parse_filter(filter) if filter is not None else None
        return [
            c
            for c in self._in(hub).values()
            if (
                target.kind == "hub"
                or (target.kind == "group" and target.name in c.groups)
                or (target.kind == "user" and target.name == c.user_id)
                or (target.kind == "connection" and target.name == c.id)
            )
            and (parsed is None or parsed.matches(c.id, c.user_id, c.groups, None))
            and c.id not in excluded
        ]

    async def publish(
        self,
        hub: str,
        target: Target,
        message: Message,
        *,
        excluded: Sequence[str] = (),
        filter: str | None = None,
        ttl_seconds: int = 0,
    ) -> None:
        for connection in self._addressed(hub, target, excluded, filter):
            connection.received.append(message)
            connection.ttls.append(ttl_seconds)

    def submit(
        self,
        hub: str,
        target: Target,
        message: Message,
        answered: Callable[[HubwireError | None], None],
        seconds: float,
    ) -> None:
        self.submitted += 1
        for connection in self._addressed(hub, target):
            connection.received.append(message)
            connection.ttls.append(0)
        answered(None)

    async def close(
        self, hub: str, target: Target, *, excluded: Sequence[str] = (), reason: str | None = None
    ) -> None:
        for connection in self._addressed(hub, target, excluded):
            connection.closed = True
            connection.reason = reason
            del self.hubs[hub][connection.id]

    async def exists(self, hub: str, target: Target) -> bool:
        return bool(self._addressed(hub, target))

    async def add_connection_to_group(self, hub: str, group: str, connection_id: str) -> bool:
        connection = self._in(hub).get(connection_id)
        if connection is not None:
            connection.groups.add(group)
        return connection is not None

    async def remove_connection_from_group(self, hub: str, group: str, connection_id: str) -> None:
        connection = self._in(hub).get(connection_id)
        if connection is not None:
            connection.groups.discard(group)

    async def remove_connection_from_all_groups(self, hub: str, connection_id: str) -> None:
        connection = self._in(hub).get(connection_id)
        if connection is not None:
            connection.groups.clear()

    async def add_user_to_group(self, hub: str, group: str, user_id: str) -> bool:
        connections = self._addressed(hub, Target("user", user_id))
        for connection in connections:
            connection.groups.add(group)
        return bool(connections)

    async def remove_user_from_group(self, hub: str, group: str, user_id: str) -> None:
        for connection in self._addressed(hub, Target("user", user_id)):
            connection.groups.discard(group)

    async def remove_user_from_all_groups(self, hub: str, user_id: str) -> None:
        for connection in self._addressed(hub, Target("user", user_id)):
            connection.groups.clear()

    async def add_to_groups(self, hub: str, groups: Sequence[str], filter: str | None) -> None:
        for connection in self._addressed(hub, Target("hub"), (), filter):
            connection.groups.update(groups)

    async def remove_from_groups(self, hub: str, groups: Sequence[str], filter: str | None) -> None:
        for connection in self._addressed(hub, Target("hub"), (), filter):
            connection.groups.difference_update(groups)

    async def list_group(self, hub: str, group: str, *, after: str, limit: int) -> list[GroupMember]:
        members = sorted(self._addressed(hub, Target("group", group)), key=lambda c: c.id)
        return [GroupMember(c.id, c.user_id) for c in members if c.id > after][:limit]

    async def grant(
        self, hub: str, permission: PermissionName, connection_id: str, group: str
    ) -> GrantResult:
        connection = self._in(hub).get(connection_id)
        if connection is None:
            return GrantResult(False)
        names = connection.granted[permission]
        if group not in names and len(names) >= MAX_LITERALS:
            return GrantResult(True, conflict=True)
        names.add(group)
        return GrantResult(True)

    async def revoke(
        self, hub: str, permission: PermissionName, connection_id: str, group: str
    ) -> GrantResult:
        connection = self._in(hub).get(connection_id)
        if connection is None:
            return GrantResult(False)
        connection.granted[permission].discard(group)
        return GrantResult(True)

    async def has_permission(
        self, hub: str, permission: PermissionName, connection_id: str, group: str
    ) -> bool:
        connection = self._in(hub).get(connection_id)
        return connection is not None and group in connection.granted[permission]

    def trouble(self) -> str:
        return "It is away." if self.away else ""


class MemorySettings:
    """The settings store's methods that the control plane uses, over a dict."""

    def __init__(self, keys: AccessKeys | None = None) -> None:
        self._keys = keys or new_access_keys()
        self._hubs: dict[str, tuple[str, HubSettings]] = {}
        self.cluster = ClusterSettings()

    @property
    def keys(self) -> AccessKeys:
        return self._keys

    def hubs(self) -> dict[str, HubSettings]:
        return {name: settings for _, (name, settings) in sorted(self._hubs.items())}

    def hub_entry(self, name: str) -> tuple[str, HubSettings] | None:
        return self._hubs.get(name.lower())

    async def put_hub(self, name: str, settings: HubSettings) -> None:
        self._hubs[name.lower()] = (name, settings)

    def limits(self, hub: str) -> HubLimits:
        entry = self.hub_entry(hub)
        return (
            self.cluster.hub_limits if entry is None else overlaid(self.cluster.hub_limits, entry[1].limits)
        )

    async def change_hub(self, name: str, change: Callable[[HubSettings | None], HubSettings]) -> HubSettings:
        entry = self.hub_entry(name)
        await self.put_hub(name, change(entry[1] if entry is not None else None))
        return self._hubs[name.lower()][1]

    async def change_cluster(self, change: Callable[[ClusterSettings], ClusterSettings]) -> bool:
        before, self.cluster = self.cluster, change(self.cluster)
        return self.cluster != before

    async def delete_hub(self, name: str) -> bool:
        return self._hubs.pop(name.lower(), None) is not None

    async def regenerate(self, key_type: str) -> AccessKeys:
        field = key_type.lower()
        if field not in ("primary", "secondary", "salt"):
            raise InvalidRequest(f"The value '{key_type}' is not valid.", target="keyType")
        self._keys = msgspec.structs.replace(self._keys, **{field: new_access_key()})
        return self._keys
