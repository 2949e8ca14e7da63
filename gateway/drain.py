"""The order of a planned stop (DESIGN.md section 8).

Readiness off, no new sockets, clients told to go over the drain time, outboxes flushed, leaves answered,
bus closed. Everything has a deadline; what is left after it is cut.
"""

from __future__ import annotations

import asyncio

import structlog

from gateway.connection import Connection
from gateway.service import GatewayService
from hubwire.bus.dispatcher import Dispatcher

log = structlog.get_logger(__name__)

GOING_AWAY = "The service is being restarted; connect again."


LOST_SECONDS = 1.0
"""What clients of a gateway whose lease was lost have to answer its close frame."""


async def let_go(service: GatewayService, drain_seconds: float, lost: asyncio.Event) -> None:
    """Close all connections with 1001, spread over most of the drain time so that they do not come back
    all at once elsewhere, then wait for their sockets until the deadline.

    Once `lost` is set, the lease is: nobody counts these connections any more and nothing reaches them, so
    they are all told at once, and cut LOST_SECONDS later.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + drain_seconds
    connections: list[Connection] = list(service.hubs)
    if service.reliable is not None:
        connections += service.reliable.sockets()  # their sessions go on elsewhere
    service.door.draining = True
    if not connections:
        return
    log.info("connections_let_go", count=len(connections), seconds=drain_seconds)
    begun = loop.time()
    spread = drain_seconds * 0.6 if len(connections) > 100 else 0.0
    for number, connection in enumerate(connections):
        connection.close_administratively(GOING_AWAY, 1001, "ServiceReload", GOING_AWAY)
        due = begun + spread * (number + 1) / len(connections)
        if not lost.is_set() and due - loop.time() > 0.02:
            await _pause(due - loop.time(), lost)
        elif number % 100 == 99:
            await asyncio.sleep(0)
    await asyncio.sleep(0)  # what was said is written at the end of the turn, also without time to wait
    told = loop.time()
    while not all(c.finished for c in connections):
        if loop.time() > (min(end, told + LOST_SECONDS) if lost.is_set() else end):
            break
        await asyncio.sleep(0.02)
    for connection in connections:
        connection.abort()


async def _pause(seconds: float, lost: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await lost.wait()
    except TimeoutError:
        pass


async def finish(dispatcher: Dispatcher, seconds: float = 2.0) -> None:
    """Let the leaves reach their owners, so that nobody has to find out by the lease."""
    await dispatcher.drain(seconds)
