"""Which gateways have an inbox: to those of which nothing is known, and to lost ones, owners write what may
concern their reliable sessions.

Which inboxes there are is asked of NATS after a partition was gained and before it is served: no owner of
before confirms anything any more then, so the members that it has confirmed have their inboxes already.
Later ones are heard of by their reliable keys. A lost gateway counts until its inbox has gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import structlog

from hubwire.bus.client import BusClient
from hubwire.bus.inbox import inbox_is_gone, list_inboxes
from hubwire.model.errors import HubwireError
from hubwire.runtime.leases import LeaseWatch
from router.ownership import Owned, Ownership

log = structlog.get_logger(__name__)

LIST_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 0.1
LOOK_SECONDS: Final = 2.0
"""How often it is looked whether the inboxes of lost gateways are still there."""


class Inboxes:
    """One router's knowledge. Run `run()` in the router's task group."""

    def __init__(self, bus: BusClient, ownership: Ownership, gateways: LeaseWatch) -> None:
        self._bus = bus
        self._ownership = ownership
        self._gateways = gateways
        self._wake = asyncio.Event()
        self._failing = False
        self.known: set[str] = set()
        """Gateways that have an inbox, or had one. Do not change it."""

    def heard(self, gateway: str) -> None:
        """It has told a reliable key; its inbox was made before that."""
        self.known.add(gateway)

    def wanted(self) -> None:
        """A partition was gained: list soon."""
        self._wake.set()

    def listed(self, names: Iterable[str], partitions: Iterable[Owned]) -> None:
        """These inboxes were there at a time when the partitions were ours already: they may be served."""
        names = set(names)
        self.known |= names
        lost = names - self._gateways.alive
        for owned in partitions:
            for gateway in lost:
                owned.members.gateway_lost(gateway)
            owned.listed = True

    def gone(self, gateway: str) -> None:
        """Its inbox is no more."""
        self.known.discard(gateway)
        for owned in self._ownership.partitions.values():
            owned.members.gateway_gone(gateway)

    async def run(self) -> None:
        """List what must be, and look after the lost, until cancelled."""
        while True:
            self._wake.clear()
            pause = LOOK_SECONDS
            try:
                await self._look()
                self._failing = False
            except (HubwireError, TimeoutError) as error:
                if not self._failing:
                    log.warning("inboxes_not_listed", error=str(error) or "no answer")
                self._failing = True
                pause = RETRY_SECONDS
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _look(self) -> None:
        waiting = [owned for owned in self._ownership.partitions.values() if not owned.listed]
        lost = {gateway for owned in self._ownership.partitions.values() for gateway in owned.members.lost}
        if not waiting and not lost:
            return
        async with asyncio.timeout(LIST_SECONDS):
            names = await list_inboxes(self._bus)
        self.listed(names, waiting)
        for gateway in lost - names:
            if gateway not in self._gateways.alive and await inbox_is_gone(self._bus, gateway):
                self.gone(gateway)
