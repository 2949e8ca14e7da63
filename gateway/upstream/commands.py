"""What a control plane asks of one gateway about event handlers: added to the table of `gateway.commands`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from gateway.upstream.service import UpstreamService
from hubwire.model.errors import InvalidRequest
from hubwire.model.settings import EventHandler

VALIDATE_SECONDS: Final = 4.0
"""A person waits for it, and the control plane for five seconds."""
MAX_VALIDATED: Final = 100


class UpstreamCommands:
    """`failures` and `validate`; results are what msgpack can carry."""

    def __init__(self, upstream: UpstreamService) -> None:
        self._upstream = upstream
        self.table: dict[str, Callable[..., Awaitable[Any]]] = {
            "failures": self.failures,
            "validate": self.validate,
        }

    async def failures(self, hub: str, limit: int) -> list[dict[str, Any]]:
        """The latest failed events of this gateway, of one hub or, for "", of all; the newest first."""
        found = (each for each in self._upstream.failures.latest() if not hub or each.hub == hub)
        return [each._asdict() for _, each in zip(range(limit), found, strict=False)]

    async def validate(self, hub: str, handlers: Sequence[Any], host: str) -> list[dict[str, Any]]:
        """Ask the upstream of each handler whether it agrees to be called, all at once and without the
        repeats that an event would get. The verdicts in the order of the handlers."""
        try:
            wanted = msgspec.convert(handlers, list[EventHandler])
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"Not event handlers: {error}.") from error
        if len(wanted) > MAX_VALIDATED:
            raise InvalidRequest(f"At most {MAX_VALIDATED} event handlers are validated at a time.")
        return list(await asyncio.gather(*(self._one(hub, handler, host) for handler in wanted)))

    async def _one(self, hub: str, handler: EventHandler, host: str) -> dict[str, Any]:
        try:
            async with asyncio.timeout(VALIDATE_SECONDS):
                verdict = await self._upstream.validate(hub, handler, host, repeats=False)
        except TimeoutError:
            reason = f"The validation was not answered within {VALIDATE_SECONDS:g} s."
            return {"allowed": False, "code": "AbuseProtectionResponseFailed", "reason": reason}
        return {
            "allowed": verdict.allowed,
            "code": verdict.code,
            "reason": verdict.reason,
            "status": verdict.status,
        }
