"""Finds outboxes whose gateway has gone and has a living gateway work them off.

What is left of a gateway (events not sent, connections whose `disconnected` is owed) lies in the queue of
events; see `hubwire.bus.event_log`. Whoever owns the outbox's partition looks after it, from what the queue
holds, so nothing is forgotten when a router dies; and asking twice does no harm.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any
from zlib import crc32

import structlog

from hubwire.bus.client import BusClient
from hubwire.bus.envelopes import command_to_gateway, unpack
from hubwire.bus.event_log import EventLog, outbox_partition
from hubwire.bus.subjects import gateway_subject
from hubwire.model.errors import HubwireError
from hubwire.runtime.leases import LeaseWatch

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
COMMAND_SECONDS = 5.0


class Sweep:
    """Run `run()` in the router's task group. `speaks_for`: whether this router owns a partition now, under a
    valid lease. Two routers that both believe so ask two gateways, of which one gets the outbox."""

    def __init__(
        self,
        bus: BusClient,
        events: EventLog,
        gateways: LeaseWatch,
        speaks_for: Callable[[int], bool],
        inboxes: Callable[[], Awaitable[set[str]]],
        *,
        choose: Callable[[list[str]], str] = random.choice,
    ) -> None:
        self._bus = bus
        self._events = events
        self._gateways = gateways
        self._speaks_for = speaks_for
        self._inboxes = inboxes
        self._choose = choose
        self._wake = asyncio.Event()
        self._failing = False
        self.asked = 0
        gateways.on_change(self._changed)

    def _changed(self, _gateway: str, alive: bool) -> None:
        if not alive:
            self._wake.set()

    async def run(self) -> None:
        """Look after each end of a gateway, and now and then, until cancelled."""
        while True:
            self._wake.clear()
            try:
                if self._bus.connected and self._gateways.complete:
                    await self._look()
                    await self._look_for_inboxes()
                self._failing = False
            except HubwireError as error:
                if not self._failing:
                    log.warning("outboxes_not_read", error=str(error))
                self._failing = True
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _look(self) -> None:
        for outbox in await self._events.outboxes():
            if outbox in self._gateways.alive or not self._speaks_for(outbox_partition(outbox)):
                continue
            held = await self._events.holder(outbox)
            if held is None:
                continue
            holder, revision = held
            if holder in self._gateways.alive:
                await self._ask(holder, outbox, revision)  # in case that it has forgotten; else it says yes
            elif not holder or self._gateways.certainly_ended(holder):
                alive = sorted(self._gateways.alive)
                if alive:
                    await self._ask(self._choose(alive), outbox, revision)

    async def _look_for_inboxes(self) -> None:
        """The sessions of lost gateways are ended once their clients had their time. The same gateway is
        asked each time, for as long as it lives: it counts that time."""
        alive = self._gateways.alive
        for lost in await self._inboxes():
            if (
                lost not in alive
                and alive
                and self._speaks_for(outbox_partition(lost))
                and self._gateways.certainly_ended(lost)
            ):
                keeper = min(alive, key=lambda gateway: crc32(f"{gateway}/{lost}".encode()))
                await self._send(keeper, lost, "sweep_inbox", [lost])

    async def _ask(self, gateway: str, outbox: str, revision: int) -> None:
        await self._send(gateway, outbox, "sweep", [outbox, revision])

    async def _send(self, gateway: str, outbox: str, operation: str, arguments: list[Any]) -> None:
        self.asked += 1
        command = command_to_gateway(operation, arguments)
        try:
            answer = unpack(await self._bus.ask(gateway_subject(gateway), command, COMMAND_SECONDS))
            if answer[1] != "ok":
                log.warning("sweep_refused", gateway=gateway, outbox=outbox, answer=str(answer[2:])[:200])
        except HubwireError as error:
            log.debug("sweep_not_asked", gateway=gateway, outbox=outbox, error=str(error))
