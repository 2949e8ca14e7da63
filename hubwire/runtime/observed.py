"""Runs a service so that it can be seen from outside: health, metrics, the admin listener."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import structlog

from hubwire.runtime.admin import Answer, Page, admin_listener, health_pages
from hubwire.runtime.exporter import Exporter
from hubwire.runtime.health import Health
from hubwire.runtime.listen import hold_listen_port
from hubwire.runtime.meters import Meters
from hubwire.runtime.process import ProcessConfig
from hubwire.runtime.process_meters import LoopWatch
from hubwire.runtime.service import Stop, end_tasks, run_service
from hubwire.runtime.traces import OFF, Traces, open_traces

log = structlog.get_logger(__name__)


class Insight(NamedTuple):
    """What a service tells of itself, for whoever looks from outside."""

    health: Health
    meters: Meters
    traces: Traces = OFF

    @classmethod
    def unseen(cls) -> Insight:
        """For a service that nobody looks at."""
        return cls(Health(), Meters())


Observed = Callable[[Stop, Insight], Awaitable[None]]


def run_observed(config: ProcessConfig, main: Observed, beat_fd: int | None = None) -> None:
    """`run_service`, with the admin listener on `config.admin_host` and `config.admin_port` around it: from
    before NATS is reached until the service has stopped.

    Raises Conflict when the port is taken, InvalidRequest when it cannot be listened on.
    """
    held = hold_listen_port(
        config.admin_host, config.admin_port, flag="--admin-port", shared=config.admin_held
    )
    with held.socket:

        async def observed(stop: Stop) -> None:
            name = config.name or config.role
            traces = open_traces(name, _instance(), config.trace_sample)
            insight = Insight(Health(), Meters(), traces)
            insight.health.stopping = lambda: "It is being stopped." if stop.told else ""
            try:
                async with _seen(config, insight, held.socket):
                    await main(stop, insight)
            finally:
                await asyncio.to_thread(traces.close)

        run_service(observed, beat_fd)


@asynccontextmanager
async def _seen(config: ProcessConfig, insight: Insight, listener: socket.socket) -> AsyncIterator[None]:
    name = config.name or config.role
    exporter = Exporter(insight.meters, name, _instance())
    watch = LoopWatch(insight.health)
    insight.meters.bind(watch.readers)
    pages: dict[str, Page] = {"/metrics": lambda accept: _metrics(exporter, accept)}
    pages |= health_pages(insight.health)
    watching = asyncio.create_task(watch.run(), name="loop watch")
    try:
        async with admin_listener(listener, pages):
            log.info("admin_listening", host=config.admin_host, port=listener.getsockname()[1])
            yield
    finally:
        await end_tasks([watching])
        await asyncio.to_thread(exporter.close)


def _instance() -> str:
    return f"{platform.node()}-{os.getpid()}"


def _metrics(exporter: Exporter, accept: str) -> Answer:
    content_type, text = exporter.page(accept)
    return Answer(200, text, content_type)
