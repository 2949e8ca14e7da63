"""Lets clients in, or says why not: what is behind the upgrade request and before the connection."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from functools import partial

import structlog

from gateway.bounds import HubBounds
from gateway.connection import Connection, Executor
from gateway.events import ClientEvents
from gateway.flusher import Flusher
from gateway.front import Front, Undecided
from gateway.handshake import RecoveryRequest, Refusal, RefusedRecovery, check
from gateway.http_head import Head
from gateway.hub import LocalHubs
from gateway.protocol.negotiate import RELIABLE
from gateway.registrar import Registrar
from gateway.reliable.admission import open_session, recover, refuse_recovery
from gateway.reliable.service import ReliableSessions
from gateway.settings import GatewayLimits
from gateway.upgrade import hand_over
from hubwire.bus.keys import hub_key
from hubwire.bus.settings import SettingsStore
from hubwire.bus.settle import settle
from hubwire.model.errors import HubwireError, Unavailable
from hubwire.model.names import new_connection_id
from hubwire.model.permissions import PermissionSet, is_known_role
from hubwire.model.tokens import AudiencePolicy

log = structlog.get_logger(__name__)

MAX_ROLES_TOLD = 100
RETRY_SOON = (("Retry-After", "1"),)


class Door:
    """The way in of one gateway worker. `draining`: nobody is let in any more. `fronts` are the sockets whose
    clients are not in yet. `refused` counts answers by status, for metrics."""

    def __init__(
        self,
        name: str,
        settings: SettingsStore,
        bounds: HubBounds,
        events: ClientEvents,
        hubs: LocalHubs[Connection],
        registrar: Registrar,
        reliable: ReliableSessions | None,
        executor: Executor,
        flusher: Flusher,
        limits: GatewayLimits,
        audiences: AudiencePolicy,
    ) -> None:
        self._name = name
        self._settings = settings
        self._bounds = bounds
        self._events = events
        self._hubs = hubs
        self._registrar = registrar
        self._reliable = reliable
        self._executor = executor
        self._flusher = flusher
        self._limits = limits
        self._audiences = audiences
        self._roles_told: set[str] = set()
        self.fronts = Undecided()
        self.draining = False
        self.refused: Counter[int] = Counter()

    async def admit(self, front: Front, head: Head) -> Refusal | None:
        """Decide on a client endpoint: hand its socket over, or say why not."""
        refusal = await self._admit(front, head)
        if refusal is not None:
            self.refused[refusal.status] += 1
        return refusal

    async def _admit(self, front: Front, head: Head) -> Refusal | None:
        try:
            keys = self._settings.keys
            again = self._settings.reconnection_keys.both if self._reliable is not None else ()
        except Unavailable as error:
            return Refusal(503, str(error), RETRY_SOON)
        verdict = check(
            head,
            settings_of=self._settings.hub,
            keys=[key for key in (keys.primary, keys.secondary, keys.salt) if key],
            audiences=self._audiences,
            now=time.time(),
            reconnection_keys=again,
        )
        if isinstance(verdict, Refusal):
            return verdict
        if self.draining:
            return Refusal(503, "This gateway is being stopped.", RETRY_SOON)
        if isinstance(verdict, RecoveryRequest):
            assert self._reliable is not None
            return await recover(self._reliable, front, head, verdict, self._bounds.of(verdict.hub))
        if isinstance(verdict, RefusedRecovery):
            if self._reliable is not None:
                self._reliable.recoveries["refused"] += 1
            refuse_recovery(front, verdict, self._flusher)
            return None
        bounds = self._bounds.of(verdict.hub)
        # Who waits for an event handler counts too.
        if (
            self._clients() + len(self._events.connecting) >= self._limits.max_connections
            or self._clients(verdict.hub) + bounds.deciding >= bounds.max_connections
        ):
            return Refusal(429, "Too many connections.", (("Retry-After", "5"),))
        connection_id = new_connection_id(os.urandom(16), self._name)
        bounds.deciding += 1
        try:
            welcome = await self._events.welcome(connection_id, verdict, head)
        finally:
            bounds.deciding -= 1
        if isinstance(welcome, Refusal):
            return welcome
        if len(set(welcome.groups)) > bounds.max_groups:
            return Refusal(400, f"A connection of this hub may be in {bounds.max_groups} groups at most.")
        if self.draining:  # since that handler was asked
            return Refusal(503, "This gateway is being stopped.", RETRY_SOON)
        self._tell_unknown_roles(verdict.hub, welcome.roles)
        if welcome.codec.name in RELIABLE:
            assert self._reliable is not None
            return await open_session(
                self._reliable,
                front,
                head,
                connection_id,
                verdict,
                welcome,
                bounds,
                self._limits.register_seconds,
            )
        connection = Connection(
            connection_id,
            verdict.hub,
            welcome.user_id,
            welcome.codec,
            PermissionSet.from_roles(welcome.roles),
            set(welcome.groups),
            welcome.mode,
            executor=self._executor,
            flusher=self._flusher,
            bounds=bounds,
            host=head.headers.get("host", ""),
            source=welcome.source,
        )
        return await self._register(front, connection, verdict.key, welcome.subprotocol)

    async def _register(
        self, front: Front, connection: Connection, key: str, subprotocol: str | None
    ) -> Refusal | None:
        """Steps 11 and 12 of 1.4: membership is confirmed by the owners before the 101, so what is
        published after the upgrade reaches the client."""
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        handed_over = False
        try:
            for new_key in self._hubs.add(connection):
                self._registrar.join(new_key)
            self._registrar.when_all_confirmed(
                self._hubs.keys_of(connection), partial(settle, confirmed, None)
            )
            async with asyncio.timeout(self._limits.register_seconds):
                await confirmed
            if connection.over:  # closed meanwhile, by REST or because we stop
                return Refusal(503, "The connection was closed before it was opened.", RETRY_SOON)
            transport, rest = front.take_socket()
            if not transport.is_closing():
                hand_over(transport, connection, key, subprotocol, rest)
                handed_over = True
        except (HubwireError, TimeoutError) as error:
            log.warning("connection_not_registered", hub=connection.hub, error=repr(error))
            return Refusal(503, "The cluster does not answer; try again.", RETRY_SOON)
        finally:
            # Whatever went wrong, and when the client has gone or this task is cancelled: no ghost stays.
            if not handed_over:
                connection.abort()
        return None

    def _clients(self, hub: str | None = None) -> int:
        """How many connections are here: all, or those of a hub."""
        if hub is None:
            return len(self._hubs) + (len(self._reliable.holder) if self._reliable is not None else 0)
        key = hub_key(hub)
        return self._hubs.count(key) + (self._reliable.count(key) if self._reliable is not None else 0)

    @property
    def utilization(self) -> float:
        """The part of its connections that this gateway has, 0 to 1."""
        return self._clients() / self._limits.max_connections

    def _tell_unknown_roles(self, hub: str, roles: tuple[str, ...]) -> None:
        """Roles that mean nothing are ignored (client-protocols.md 2.2), but each is told once."""
        told = self._roles_told
        for role in roles:
            if role not in told and len(told) < MAX_ROLES_TOLD and not is_known_role(role):
                told.add(role)
                log.warning("role_ignored", hub=hub, role=role[:200])
