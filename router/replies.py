"""The answers to one batch, of which some come later."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog

from hubwire.bus.client import BusClient
from hubwire.bus.envelopes import OK, answer_to_batch
from hubwire.model.errors import HubwireError

TRY_SECONDS: Final = 2.0
PAUSE_SECONDS: Final = 0.1

log = structlog.get_logger(__name__)


class Reply:
    """Sends the answers of a batch whenever some have come, all that one turn of the loop brings as one.

    A message that gets lost costs the asker time: it asks again after a while (hubwire.bus.dispatcher). So
    what cannot be sent, since NATS is away, is sent when it is back, if that is within TRY_SECONDS.
    """

    __slots__ = ("_answers", "_bus", "_scheduled", "_subject", "_try_until")

    def __init__(self, bus: BusClient, subject: str, answers: list[Any]) -> None:
        self._bus = bus
        self._subject = subject
        # What was told is told again, but long lists of members are not.
        self._answers = [answer if isinstance(answer, int) else OK for answer in answers]
        self._scheduled = False
        self._try_until = 0.0

    def settle(self, position: int, answer: Any) -> None:
        """The answer at that place has come."""
        self._answers[position] = answer
        loop = asyncio.get_running_loop()
        self._try_until = loop.time() + TRY_SECONDS
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._send)

    def _send(self) -> None:
        self._scheduled = False
        try:
            self._bus.publish(self._subject, answer_to_batch(self._answers))
        except HubwireError as error:
            loop = asyncio.get_running_loop()
            if loop.time() < self._try_until:
                self._scheduled = True
                loop.call_later(PAUSE_SECONDS, self._send)
            else:
                log.debug("bus_answer_not_sent", error=str(error))
