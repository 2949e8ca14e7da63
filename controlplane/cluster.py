"""The cluster port over NATS: publishes through partition owners, everything else by asking gateways.

Who has members of a group or user is asked of the owner of its partition, behind this process's own
publishes to it, so a caller reads what it wrote. Gateways that an owner knows nothing certain of yet
are asked themselves. A gateway that does not answer counts as gone once its lease has ended; until then
the question cannot be answered truly, and Unavailable says so (rest-api.md 3.4: clients retry).

A connection is asked for at the gateway that made its id. One of a reliable subprotocol may have moved: who
holds it then stands in its record. When its holder has gone, a living gateway takes it over first.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Sequence
from heapq import merge
from itertools import islice
from typing import Any

import structlog

from controlplane.ports import GrantResult, GroupMember, PermissionName, Target
from hubwire.bus.client import BusClient
from hubwire.bus.dispatcher import Dispatcher
from hubwire.bus.envelopes import PUBLISH, WHO, command_to_gateway, pack_body, unpack
from hubwire.bus.keys import group_key, hub_key, partition_of, user_key
from hubwire.bus.session_records import SessionRecords
from hubwire.bus.subjects import gateway_subject
from hubwire.model.errors import (
    HubwireError,
    InternalError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from hubwire.model.message import Message
from hubwire.model.names import gateway_of
from hubwire.runtime.leases import LeaseWatch
from hubwire.runtime.store_check import StoreCheck
from hubwire.runtime.traces import current

log = structlog.get_logger(__name__)

DEADLINE_SECONDS = 10.0
COMMAND_SECONDS = 5.0
LEASE_PAUSE_SECONDS = 0.1
MOVE_PAUSE_SECONDS = 0.05
ADOPT_SECONDS = 15.0
"""How long a gateway may take to take a session over."""

MAX_AT_ONCE = 100
WHO_ANSWER_BYTES = 4096
"""Counted for a question about members, so that the answers to a batch of them fit into one message: a
thousand gateways are 10 KB an answer."""


class _GatewayGone(NotFound):
    """A gateway that was to be asked is no more."""


class Cluster:
    """Implements `controlplane.ports.ClusterPort`."""

    def __init__(
        self,
        bus: BusClient,
        dispatcher: Dispatcher,
        gateways: LeaseWatch,
        records: SessionRecords,
        store: StoreCheck | None = None,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._bus = bus
        self._dispatcher = dispatcher
        self._gateways = gateways
        self._records = records
        self._store = store
        self._deadline = deadline_seconds

    def trouble(self) -> str:
        if self._store is not None:
            return self._store.trouble()
        return "" if self._bus.connected else "NATS is not connected."

    # -- sending -----------------------------------------------------------------------------------

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
        trace = current.get()
        body = pack_body(message, excluded, filter, ttl_seconds, time.time(), trace)
        if target.kind == "connection":
            await self._ask_holder(hub, target.name, "send", [hub, target.name, body])
            return
        partition, entry, size = self._entry(hub, target, body)
        if trace:
            entry += (None, None, trace)
        await self._dispatcher.ask(partition, entry, size=size, timeout=self._deadline)

    def submit(
        self,
        hub: str,
        target: Target,
        message: Message,
        answered: Callable[[HubwireError | None], None],
        seconds: float,
    ) -> None:
        partition, entry, size = self._entry(hub, target, pack_body(message, accepted=time.time()))
        self._dispatcher.submit(
            partition,
            entry,
            lambda _answer, error: answered(error),
            size=size,
            timeout=min(seconds, self._deadline),
        )

    def _entry(self, hub: str, target: Target, body: bytes) -> tuple[int, list[Any], int]:
        """The partition and the entry of a publish, and its bytes in a batch."""
        key = _key(hub, target)
        partition = partition_of(key)
        return (
            partition,
            [PUBLISH, partition, key, self._dispatcher.next_number(), body],
            len(body) + len(key) + 16,
        )

    # -- closing and existence ---------------------------------------------------------------------

    async def close(
        self, hub: str, target: Target, *, excluded: Sequence[str] = (), reason: str | None = None
    ) -> None:
        arguments = [hub, target.kind, target.name, list(excluded), reason]
        if target.kind == "connection":
            await self._ask_holder(hub, target.name, "close", arguments)
        else:
            await self._ask_holders(_key(hub, target), "close", arguments)

    async def exists(self, hub: str, target: Target) -> bool:
        if target.kind == "connection":
            found = await self._ask_holder(hub, target.name, "exists", [hub, target.kind, target.name])
            return bool(found)
        end = asyncio.get_running_loop().time() + self._deadline
        while True:
            members, unsynced, lost, unknown = await self._who(_key(hub, target))
            ended = {gateway for gateway in members + unsynced if self._gateways.certainly_ended(gateway)}
            if lost or not ended.issuperset(members):
                return True  # of a lost gateway those are sessions whose clients can come back
            if any(await self._ask_all(unsynced, "exists", [hub, target.kind, target.name])):
                return True
            if not ended and not unknown:
                return False
            # What a lost gateway has left is known when the owner has noticed that it is lost, or when its
            # sessions have ended.
            if unknown or asyncio.get_running_loop().time() > end:
                raise Unavailable("It is not known yet what a lost gateway has left.")
            await asyncio.sleep(LEASE_PAUSE_SECONDS)

    # -- groups ------------------------------------------------------------------------------------

    async def add_connection_to_group(self, hub: str, group: str, connection_id: str) -> bool:
        arguments = [hub, "connection", connection_id, [group], None]
        return bool(await self._ask_holder(hub, connection_id, "join", arguments))

    async def remove_connection_from_group(self, hub: str, group: str, connection_id: str) -> None:
        await self._ask_holder(hub, connection_id, "leave", [hub, "connection", connection_id, [group], None])

    async def remove_connection_from_all_groups(self, hub: str, connection_id: str) -> None:
        await self._ask_holder(hub, connection_id, "leave_all", [hub, "connection", connection_id])

    async def add_user_to_group(self, hub: str, group: str, user_id: str) -> bool:
        arguments = [hub, "user", user_id, [group], None]
        return any(await self._ask_holders(user_key(hub, user_id), "join", arguments))

    async def remove_user_from_group(self, hub: str, group: str, user_id: str) -> None:
        await self._ask_holders(user_key(hub, user_id), "leave", [hub, "user", user_id, [group], None])

    async def remove_user_from_all_groups(self, hub: str, user_id: str) -> None:
        await self._ask_holders(user_key(hub, user_id), "leave_all", [hub, "user", user_id])

    async def add_to_groups(self, hub: str, groups: Sequence[str], filter: str | None) -> None:
        await self._ask_holders(hub_key(hub), "join", [hub, "hub", "", list(groups), filter])

    async def remove_from_groups(self, hub: str, groups: Sequence[str], filter: str | None) -> None:
        await self._ask_holders(hub_key(hub), "leave", [hub, "hub", "", list(groups), filter])

    async def list_group(self, hub: str, group: str, *, after: str, limit: int) -> list[GroupMember]:
        pages = await self._ask_holders(group_key(hub, group), "list", [hub, group, after, limit])
        members = merge(*(page or [] for page in pages), key=lambda member: str(member[0]))
        return [GroupMember(connection_id, user_id) for connection_id, user_id in islice(members, limit)]

    # -- permissions -------------------------------------------------------------------------------

    async def grant(
        self, hub: str, permission: PermissionName, connection_id: str, group: str
    ) -> GrantResult:
        return await self._change(hub, "grant", permission, connection_id, group)

    async def revoke(
        self, hub: str, permission: PermissionName, connection_id: str, group: str
    ) -> GrantResult:
        return await self._change(hub, "revoke", permission, connection_id, group)

    async def _change(
        self, hub: str, operation: str, permission: str, connection_id: str, group: str
    ) -> GrantResult:
        arguments = [hub, operation, permission, connection_id, group]
        result = await self._ask_holder(hub, connection_id, "permission", arguments)
        return GrantResult(found=result is not None, conflict=result is False)

    async def has_permission(
        self, hub: str, permission: PermissionName, connection_id: str, group: str
    ) -> bool:
        arguments = [hub, "check", permission, connection_id, group]
        return bool(await self._ask_holder(hub, connection_id, "permission", arguments))

    # -- asking ------------------------------------------------------------------------------------

    async def _who(self, key: str) -> tuple[list[str], list[str], list[str], list[str]]:
        """The gateways that hold a key, and those of which the owner cannot say; the lost ones whose
        reliable sessions hold it, and those of which it cannot say that."""
        partition = partition_of(key)
        answer = await self._dispatcher.ask(
            partition, [WHO, partition, key], size=len(key) + WHO_ANSWER_BYTES, timeout=self._deadline
        )
        members, unsynced, lost, unknown = answer
        return members, unsynced, lost, unknown

    async def _ask_holders(self, key: str, operation: str, arguments: list[Any]) -> list[Any]:
        members, unsynced, _, _ = await self._who(key)
        return await self._ask_all([*members, *unsynced], operation, arguments)

    async def _ask_all(self, gateways: Iterable[str], operation: str, arguments: list[Any]) -> list[Any]:
        """Ask several gateways at once; those that have gone are left out. Raises Unavailable when one
        that may be alive does not answer."""
        room = asyncio.Semaphore(MAX_AT_ONCE)

        async def one(gateway: str) -> Any:
            async with room:
                return await self._ask(gateway, operation, arguments)

        answers = await asyncio.gather(*(one(gateway) for gateway in gateways), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, NotFound):
                raise answer
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def _ask_holder(self, hub: str, connection_id: str, operation: str, arguments: list[Any]) -> Any:
        """Ask the gateway of a connection, wherever it has moved; None, or what that gateway says of one
        that it does not have, when there is no such connection."""
        gateway = gateway_of(connection_id)
        if gateway is None:
            return None
        end = asyncio.get_running_loop().time() + self._deadline
        while asyncio.get_running_loop().time() < end:
            result, gone, fault = None, False, None
            try:
                result = await self._ask(gateway, operation, arguments)
            except _GatewayGone:
                gone = True
            except NotFound:
                pass
            except Unavailable as error:
                fault = error  # so it is, too, while a session is about to leave
            if result is not None and (result or operation == "permission"):
                return result
            # Read after it was asked: a gateway forgets a session only when the record names another.
            record = await self._records.read(connection_id)
            if record.ended:
                return None
            if record.holder != gateway:
                gateway = record.holder
            elif fault is not None:
                raise fault
            elif gone:
                taker = await self._adopted(hub, connection_id)
                if taker is None:
                    return None
                gateway = taker
            elif record.revision == 0:
                return result
            else:
                await asyncio.sleep(MOVE_PAUSE_SECONDS)  # it is on its way there
        raise Unavailable("The connection is on its way to another gateway.")

    async def _adopted(self, hub: str, connection_id: str) -> str | None:
        """Have a living gateway take a session over whose holder has gone; None when there is none."""
        alive = sorted(self._gateways.alive)
        if not alive:
            raise Unavailable("There is no gateway.")
        gateway = random.choice(alive)
        try:
            taken = await self._ask(gateway, "adopt", [hub, connection_id], ADOPT_SECONDS)
        except _GatewayGone as error:
            raise Unavailable("A gateway has just gone.") from error
        return gateway if taken else None

    async def _ask(
        self, gateway: str, operation: str, arguments: list[Any], seconds: float = COMMAND_SECONDS
    ) -> Any:
        """One gateway's answer. NotFound when it has gone; Unavailable when it did not answer in time."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._deadline
        payload = command_to_gateway(operation, arguments)
        while True:
            if gateway not in self._gateways.alive and self._gateways.certainly_ended(gateway):
                raise _GatewayGone("The gateway has gone.")
            left = end - loop.time()
            if left <= 0:
                raise Unavailable("A gateway did not answer in time.")
            try:
                data = await self._bus.ask(gateway_subject(gateway), payload, min(left, seconds))
            except Unavailable as error:
                if str(error) != "no responders":
                    raise
                # It has just died, or it is reconnecting: its lease will tell.
                await asyncio.sleep(LEASE_PAUSE_SECONDS)
                continue
            return result_of(data)


def _key(hub: str, target: Target) -> str:
    if target.kind == "hub":
        return hub_key(hub)
    return group_key(hub, target.name) if target.kind == "group" else user_key(hub, target.name)


def result_of(data: bytes) -> Any:
    """The result in a gateway's answer to a command. Raises the category of error that it names."""
    _, status, *rest = unpack(data)
    if status == "ok":
        return rest[0]
    code, text = rest
    if code == "invalid_request":
        raise InvalidRequest(text)
    if code == "not_found":
        raise NotFound(text)
    if code == "permission_denied":
        raise PermissionDenied(text)
    if code == "internal":
        raise InternalError(text)
    raise Unavailable(text)
