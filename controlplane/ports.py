"""What the REST handlers need from the cluster: the port, without a bus in sight.

Implemented over NATS by `controlplane.cluster.Cluster`. Nearly all methods are coroutines that finish within
`deadline_seconds` of the implementation, or raise `Unavailable` (nothing was accepted, the caller may
repeat) - they never hang. Cancelling one leaves no task behind; what had been sent may still happen.
Names are already validated and decoded by the caller; hubs are lower case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

from hubwire.model.errors import HubwireError
from hubwire.model.message import Message


class Target(NamedTuple):
    """Whom an operation addresses: all connections of a hub, of a group, of a user, or one connection."""

    kind: Literal["hub", "group", "user", "connection"]
    name: str = ""  # empty for "hub"


class GroupMember(NamedTuple):
    connection_id: str
    user_id: str | None


class GrantResult(NamedTuple):
    """`found` is False when there is no such connection; `conflict` when a 1001st literal rule was asked."""

    found: bool
    conflict: bool = False


PermissionName = Literal["joinLeaveGroup", "sendToGroup"]


class ClusterPort(Protocol):
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
        """Accept a message for all connections addressed now. Returns once its order is fixed: two
        publishes to one group, the second begun after the first returned, arrive in that order."""

    def submit(
        self,
        hub: str,
        target: Target,
        message: Message,
        answered: Callable[[HubwireError | None], None],
        seconds: float,
    ) -> None:
        """`publish` to a hub, group or user without a task: `answered` is called once, with None where
        `publish` would return and with the error that it would raise, at the latest after `seconds`.
        Raises HubwireError, and does nothing, when it cannot be taken."""

    async def close(
        self, hub: str, target: Target, *, excluded: Sequence[str] = (), reason: str | None = None
    ) -> None:
        """Close the connections addressed, with the reason of client-protocols.md 1.11."""

    async def exists(self, hub: str, target: Target) -> bool:
        """Whether the connection exists, or the group or user has at least one connection."""

    async def add_connection_to_group(self, hub: str, group: str, connection_id: str) -> bool:
        """False: no such connection. True: messages published from now on reach it."""

    async def remove_connection_from_group(self, hub: str, group: str, connection_id: str) -> None: ...

    async def remove_connection_from_all_groups(self, hub: str, connection_id: str) -> None: ...

    async def add_user_to_group(self, hub: str, group: str, user_id: str) -> bool:
        """Joins the connections that the user has now. False: the user has none."""

    async def remove_user_from_group(self, hub: str, group: str, user_id: str) -> None: ...

    async def remove_user_from_all_groups(self, hub: str, user_id: str) -> None: ...

    async def add_to_groups(self, hub: str, groups: Sequence[str], filter: str | None) -> None:
        """Every connection of the hub for which the filter holds joins every group named."""

    async def remove_from_groups(self, hub: str, groups: Sequence[str], filter: str | None) -> None: ...

    async def list_group(self, hub: str, group: str, *, after: str, limit: int) -> list[GroupMember]:
        """Up to `limit` members with a connection id greater than `after`, ordered by connection id."""

    async def grant(
        self, hub: str, permission: PermissionName, connection_id: str, group: str
    ) -> GrantResult: ...

    async def revoke(
        self, hub: str, permission: PermissionName, connection_id: str, group: str
    ) -> GrantResult: ...

    async def has_permission(
        self, hub: str, permission: PermissionName, connection_id: str, group: str
    ) -> bool: ...

    def trouble(self) -> str:
        """Why the service does not work now, in a sentence; "" when it does (for /api/health)."""
