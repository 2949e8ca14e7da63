"""What a control plane asks of one gateway about its connections (rest-api.md sections 5, 8, 10, 11).

Each command is a coroutine from arguments to a result that msgpack can carry. The connections meant are
those that are here now; a connection that is not here is answered with None or False.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from heapq import nsmallest
from typing import Any, cast

from gateway.connection import Connection
from gateway.delivery import Delivery
from gateway.hub import LocalHubs
from gateway.reliable.service import ReliableSessions
from gateway.reliable.session import Session
from gateway.tally import CONNECTION
from hubwire.bus.envelopes import unpack_body
from hubwire.bus.keys import group_key, hub_key, user_key
from hubwire.model.errors import HubwireError, InvalidRequest, NotFound
from hubwire.model.filters import compile_filter
from hubwire.model.permissions import Permission

Target = Connection | Session
Join = Callable[[Connection, str, Callable[[HubwireError | None], None]], None]
Change = Callable[[Target, str, Callable[[HubwireError | None], None]], None]

CHANGES_PER_TURN = 200
"""Of who is in which group; then all others have their turn."""
CLOSED_BY_SERVER = "Application server closed the connection."


class Commands:
    """The table of commands of one gateway. `run` raises InvalidRequest for an unknown one."""

    def __init__(
        self,
        hubs: LocalHubs[Connection],
        delivery: Delivery,
        join: Join,
        leave: Join,
        sessions: ReliableSessions | None = None,
    ) -> None:
        self._hubs = hubs
        self._delivery = delivery
        self._sessions = sessions
        self._join = self._change(join, True)
        self._leave = self._change(leave, False)
        self._table: dict[str, Callable[..., Awaitable[Any]]] = {
            "send": self.send,
            "close": self.close,
            "exists": self.exists,
            "join": self.join,
            "leave": self.leave,
            "leave_all": self.leave_all,
            "list": self.list,
            "permission": self.permission,
        }

    def add(self, table: Mapping[str, Callable[..., Awaitable[Any]]]) -> None:
        """Commands of a part of the gateway that is not about connections."""
        self._table.update(table)

    async def run(self, operation: str, arguments: Sequence[Any]) -> Any:
        command = self._table.get(operation)
        if command is None:
            raise InvalidRequest(f"There is no command {operation!r}.")
        return await command(*arguments)

    def _change(self, plain: Join, joins: bool) -> Change:
        def change(target: Target, group: str, done: Callable[[HubwireError | None], None]) -> None:
            if isinstance(target, Connection):
                plain(target, group, done)
            elif self._sessions is not None:
                self._sessions.change_group(joins, target, group, done)

        return change

    def _find(self, hub: str, connection_id: str) -> Target | None:
        found = self._hubs.get(hub, connection_id)
        if found is None and self._sessions is not None:
            return self._sessions.get(hub, connection_id)
        return found

    def _members(self, key: str) -> list[Target]:
        members: list[Target] = list(self._hubs.members(key))
        if self._sessions is not None:
            members += self._sessions.members(key)
        return members

    def _addressed(self, hub: str, kind: str, name: str) -> Sequence[Target]:
        if kind == "connection":
            found = self._find(hub, name)
            return (found,) if found is not None else ()
        key = {"hub": hub_key(hub), "group": group_key(hub, name), "user": user_key(hub, name)}[kind]
        return self._members(key)

    @staticmethod
    def _filtered(connections: Iterable[Target], filter_text: str | None) -> list[Target]:
        if not filter_text:
            return list(connections)
        test = compile_filter(filter_text)
        return [c for c in connections if test.matches(c.id, c.user_id, c.groups, c.codec.name or None)]

    async def send(self, hub: str, connection_id: str, body: bytes) -> bool:
        """To one connection."""
        target = self._find(hub, connection_id)
        if isinstance(target, Session) and self._sessions is not None:
            await self._sessions.send(target, body)
            return True
        if not isinstance(target, Connection):
            return False
        return self._delivery.to((target,), unpack_body(body, None), hub, CONNECTION) > 0

    async def close(self, hub: str, kind: str, name: str, excluded: Sequence[str], reason: str | None) -> int:
        """With the text of client-protocols.md 1.11. Returns how many were closed."""
        spared = set(excluded)
        message = f"{CLOSED_BY_SERVER} Reason: {reason}" if reason else CLOSED_BY_SERVER
        closed = 0
        ends: list[Coroutine[Any, Any, None]] = []
        for number, connection in enumerate(self._addressed(hub, kind, name)):
            if connection.id not in spared:
                if isinstance(connection, Connection):
                    connection.close_administratively(message, reason=reason)
                elif self._sessions is not None:
                    ends.append(self._sessions.close_session(connection, message, reason))
                closed += 1
            if number % 500 == 499:
                await asyncio.sleep(0)
        await asyncio.gather(*ends)
        return closed

    async def exists(self, hub: str, kind: str, name: str) -> bool:
        return bool(self._addressed(hub, kind, name))

    async def join(
        self, hub: str, kind: str, name: str, groups: Sequence[str], filter_text: str | None
    ) -> int:
        """Put connections into groups; returns, after the owners' confirmation, how many were meant."""
        meant = self._filtered(self._addressed(hub, kind, name), filter_text)
        await self._each(self._join, meant, groups)
        return len(meant)

    async def leave(
        self, hub: str, kind: str, name: str, groups: Sequence[str], filter_text: str | None
    ) -> int:
        meant = self._filtered(self._addressed(hub, kind, name), filter_text)
        await self._each(self._leave, meant, groups)
        return len(meant)

    async def leave_all(self, hub: str, kind: str, name: str) -> int:
        meant = self._addressed(hub, kind, name)
        for connection in meant:
            groups = list(connection.groups)
            if not groups and isinstance(connection, Session) and self._sessions is not None:
                with contextlib.suppress(NotFound):
                    await self._sessions.still_here(connection)
            await self._each(self._leave, [connection], groups)
        return len(meant)

    async def _each(self, change: Change, connections: Sequence[Target], groups: Sequence[str]) -> None:
        """Apply a change to every pair, and wait until all are confirmed. Raises the first error."""
        if not connections or not groups:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        left = len(connections) * len(groups)
        first: HubwireError | None = None

        def one(error: HubwireError | None) -> None:
            nonlocal left, first
            left -= 1
            if not isinstance(error, NotFound):  # who has gone meanwhile is not meant any more
                first = first or error
            if left == 0 and not done.done():
                if first is None:
                    done.set_result(None)
                else:
                    done.set_exception(first)

        number = 0
        for connection in connections:
            for group in groups:
                change(connection, group, one)
                number += 1
                if number % CHANGES_PER_TURN == 0:
                    await asyncio.sleep(0)
        await done

    async def list(self, hub: str, group: str, after: str, limit: int) -> list[list[str | None]]:
        """The next members by connection id: a keyset cursor, so that who is here throughout is listed
        once (rest-api.md section 8)."""
        members = (c for c in self._members(group_key(hub, group)) if c.id > after)
        return [[c.id, c.user_id] for c in nsmallest(limit, members, key=lambda c: c.id)]

    async def permission(
        self, hub: str, operation: str, permission: str, connection_id: str, group: str
    ) -> bool | None:
        """grant, revoke or check; None when there is no such connection, False for a conflict or a no."""
        connection = self._find(hub, connection_id)
        if connection is None:
            return None
        which = cast(Permission, permission)
        if isinstance(connection, Session) and (fault := connection.fault()) is not None:
            raise fault  # what it may do is known where it goes
        if isinstance(connection, Session) and self._sessions is not None and operation != "check":
            return await self._sessions.permit(connection, operation == "grant", which, group)
        if operation == "grant":
            return connection.permissions.grant(which, group)
        if operation == "revoke":
            return connection.permissions.revoke(which, group)
        return connection.permissions.check(which, group)
