"""What a process tells of itself over the bus, for `hubwire status`: who it is, how it is, its numbers.

Whoever asks on STATUS_ASKED is answered by every process that reaches NATS. An answer is a few kilobytes:
each metric added up over its labels, distributions as their bounds and counts.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from typing import Any, TypedDict

import structlog

from hubwire.bus.client import BusClient
from hubwire.bus.envelopes import VERSION, pack, unpack
from hubwire.bus.subjects import STATUS_ASKED
from hubwire.model.buckets import Buckets
from hubwire.model.errors import HubwireError, InvalidRequest
from hubwire.runtime.observed import Insight
from hubwire.runtime.process import ProcessConfig

log = structlog.get_logger(__name__)

Distribution = tuple[list[float], list[int]]
"""Bounds, and how many values were at most each of them, one more for all above."""


class Status(TypedDict):
    """One process. `run` is its name on the bus, new with each start; `at` is its own clock, for rates."""

    role: str
    name: str
    run: str
    host: str
    pid: int
    since: float
    at: float
    problems: list[str]
    numbers: dict[str, float]
    distributions: dict[str, Distribution]


class StatusTeller:
    """Answers for one run of a process. `run()` until cancelled."""

    def __init__(self, bus: BusClient, config: ProcessConfig, run_name: str, insight: Insight) -> None:
        self._bus = bus
        self._role = config.role
        self._name = config.name or config.role
        self._run_name = run_name
        self._insight = insight
        self._since = time.time()

    async def run(self) -> None:
        unsubscribe = await self._bus.subscribe(STATUS_ASKED, self._asked)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await unsubscribe()

    def _asked(self, _subject: str, reply: str, _data: bytes) -> None:
        if not reply:
            return
        try:
            self._bus.publish(reply, pack([VERSION, dict(self.status())]))
        except HubwireError as error:
            log.debug("status_not_told", error=str(error))

    def status(self) -> Status:
        numbers: dict[str, float] = {}
        distributions: dict[str, Distribution] = {}
        meters = self._insight.meters
        for meter in meters.known:
            values = [value for _, value in meters.read(meter)]
            spread = [value for value in values if isinstance(value, Buckets)]
            if spread:
                counts = [sum(column) for column in zip(*(one.counts for one in spread), strict=True)]
                distributions[meter.prometheus] = list(spread[0].bounds), counts
            elif values:
                numbers[meter.prometheus] = sum(value for value in values if not isinstance(value, Buckets))
        return Status(
            role=self._role,
            name=self._name,
            run=self._run_name,
            host=platform.node(),
            pid=os.getpid(),
            since=self._since,
            at=time.monotonic(),
            problems=self._insight.health.problems(),
            numbers=numbers,
            distributions=distributions,
        )


async def ask_status(bus: BusClient, seconds: float) -> list[Status]:
    """What everybody says who answers within that time; in the order of role and name. Raises Unavailable."""
    found: list[Status] = []
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    def heard(data: bytes | None, _reason: str) -> float | None:
        left = end - loop.time()
        if data is None:
            over.set()
            return None
        try:
            found.append(_read(unpack(data)[1]))
        except (InvalidRequest, IndexError, KeyError, TypeError) as error:
            log.debug("status_refused", error=type(error).__name__)
        if left <= 0:
            over.set()
            return None
        return left

    bus.request(STATUS_ASKED, b"", heard, seconds)
    await over.wait()
    return sorted(found, key=lambda one: (one["role"], one["name"], one["run"]))


def _read(content: Any) -> Status:
    status: Status = {name: content[name] for name in Status.__required_keys__}  # type: ignore[assignment]
    return status
