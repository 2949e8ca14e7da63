"""What the control plane asks about events: failures and validations of gateways, and dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import structlog

from controlplane.cluster import result_of
from hubwire.bus.client import BusClient
from hubwire.bus.dead_letters import DeadLetters
from hubwire.bus.envelopes import command_to_gateway
from hubwire.bus.subjects import gateway_subject
from hubwire.model.errors import HubwireError
from hubwire.model.settings import EventHandler
from hubwire.runtime.leases import LeaseWatch

log = structlog.get_logger(__name__)

ASK_SECONDS: Final = 5.0


class Failures(NamedTuple):
    """The newest first; each is a `gateway.upstream.failures.FailureRecord` as a dict, and its `gateway`.
    `silent` counts gateways that did not answer in time: what they know is missing."""

    records: list[dict[str, Any]]
    silent: int


class EventsPort(Protocol):
    """Implemented by `Events`. Every method ends within a few seconds."""

    @property
    def dead_letters(self) -> DeadLetters: ...

    async def failures(self, hub: str, limit: int) -> Failures: ...

    async def validate(
        self, hub: str, handlers: Sequence[EventHandler], host: str
    ) -> list[dict[str, Any]] | None: ...


class Events:
    def __init__(self, bus: BusClient, gateways: LeaseWatch, dead_letters: DeadLetters) -> None:
        self._bus = bus
        self._gateways = gateways
        self._dead_letters = dead_letters

    @property
    def dead_letters(self) -> DeadLetters:
        return self._dead_letters

    async def failures(self, hub: str, limit: int) -> Failures:
        """The latest `limit` failures of a hub, or of all for "", from every gateway that lives."""
        gateways = sorted(self._gateways.alive)
        answers = await asyncio.gather(*(self._ask(one, "failures", [hub, limit]) for one in gateways))
        records = [
            {**record, "gateway": gateway}
            for gateway, answer in zip(gateways, answers, strict=True)
            for record in answer or ()
        ]
        records.sort(key=lambda record: float(record["at"]), reverse=True)
        return Failures(records[:limit], sum(answer is None for answer in answers))

    async def validate(
        self, hub: str, handlers: Sequence[EventHandler], host: str
    ) -> list[dict[str, Any]] | None:
        """What the upstream of each handler says to the validation request (server-events.md 1.7), asked by
        one gateway; None when no gateway answers."""
        arguments = [hub.lower(), msgspec.to_builtins(list(handlers)), host]
        for gateway in sorted(self._gateways.alive)[:2]:
            answer = await self._ask(gateway, "validate", arguments)
            if answer is not None:
                return list(answer)
        return None

    async def _ask(self, gateway: str, operation: str, arguments: list[Any]) -> Any:
        try:
            payload = command_to_gateway(operation, arguments)
            return result_of(await self._bus.ask(gateway_subject(gateway), payload, ASK_SECONDS))
        except HubwireError as error:
            log.debug("gateway_not_asked", gateway=gateway, operation=operation, error=str(error))
            return None
